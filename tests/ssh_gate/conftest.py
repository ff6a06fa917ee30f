"""Gates and hosts of their own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_gate.harness import end_all_jobs
from tests.ssh_gate.harness import Cluster, Gate

MakeGate = Callable[..., Awaitable[Gate]]


@pytest.fixture
async def make_gate() -> AsyncIterator[MakeGate]:
    """Starts gates; each argument is a setting of the configuration."""
    gates: list[Gate] = []
    folders: list[Path] = []

    async def make(**config: Any) -> Gate:
        folder = Path(tempfile.mkdtemp(prefix="gate"))
        folders.append(folder)
        gate = Gate(folder, config or {"local": True})
        gates.append(gate)
        await gate.start()
        return gate

    yield make
    for gate in gates:
        await gate.close()
    end_all_jobs()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def gate(make_gate: MakeGate) -> Gate:
    """A gate whose site is this machine, ready."""
    made = await make_gate()
    await made.ready()
    return made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two hosts, by sshd."""
    with Cluster(tmp_path / "hosts", "n1", "n2").running() as cluster:
        yield cluster
