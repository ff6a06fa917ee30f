from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal import Swm
from tests.client.certificates import Installation
from tests.client.fake_core import FakeCore

_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "COVERAGE_PROCESS_START")


@pytest.fixture(scope="session")
def installation() -> Installation:
    return Installation()


@pytest.fixture
def core(installation: Installation, tmp_path: Path) -> Iterator[FakeCore]:
    """A core that runs jobs as processes here."""
    fake = FakeCore(installation.core(), tmp_path / "jobs", runs_jobs=True)
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def swm(core: FakeCore, installation: Installation, tmp_path: Path) -> Iterator[Swm]:
    """The command, for a user of `core`, in a folder of its own."""
    command = swm_for(tmp_path, installation, core.endpoint)
    yield command
    command.close()


def swm_for(tmp_path: Path, installation: Installation, endpoint: str) -> Swm:
    bundle = tmp_path / "home" / "client.toml"
    bundle.parent.mkdir(mode=0o700, exist_ok=True)
    bundle.unlink(missing_ok=True)
    installation.bundle(endpoint).write_new(bundle)
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    return Swm(environment(tmp_path / "home"), here)


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "SWM_HOME": str(home), "HOME": str(home)}
