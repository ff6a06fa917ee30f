"""Cores for the tests of a module, and what a test holds scripts with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.system.harness.core import Core
from tests.system.harness.latch import Latch

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def _core_runs(request: pytest.FixtureRequest) -> None:
    """Start the core of a module again that a test before this one has left stopped."""
    if "core" in request.fixturenames:
        core = request.getfixturevalue("core")
        if isinstance(core, Core) and not core.is_running:
            core.start()
            core.wait_ready()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether a test has failed, for its fixtures."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _failures_stay_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the jobs that a failed test has left: the next one needs their places."""
    yield
    if request.node.stash.get(_FAILED, False) and "core" in request.fixturenames:
        core = request.getfixturevalue("core")
        if isinstance(core, Core) and core.is_running:
            core.end_all()


@pytest.fixture
def nothing_left(request: pytest.FixtureRequest, core: Core) -> Iterator[None]:
    """Clear all faults after the test, and have nothing more at any site than before it."""
    before = {name: set(site.holds()) for name, site in core.sites.items()}
    yield
    for name, site in core.sites.items():
        site.faults()
        # What a failed test leaves says nothing new.
        if not request.node.stash.get(_FAILED, False):
            site.holds_no_more_than(before[name])


@pytest.fixture
def latch(tmp_path: Path) -> Iterator[Callable[[], Latch]]:
    """Makes latches, as many as a test needs."""
    made: list[Latch] = []
    numbers = itertools.count()

    def make() -> Latch:
        made.append(Latch(tmp_path / f"latch{next(numbers)}"))
        return made[-1]

    yield make
    for each in made:
        each.close()
