"""Cores for the tests of a module, and what a test holds scripts with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.core import Core
from tests.system.harness.latch import Latch


@pytest.fixture(autouse=True)
def _core_runs(request: pytest.FixtureRequest) -> None:
    """Start the core of a module again that a test before this one has left stopped."""
    if "core" in request.fixturenames:
        core = request.getfixturevalue("core")
        if isinstance(core, Core) and not core.is_running:
            core.start()
            core.wait_ready()


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
