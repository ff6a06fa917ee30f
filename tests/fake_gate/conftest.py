"""Gates of their own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fake_gate.harness import STATIC, Gate, end_all_jobs

MakeGate = Callable[..., Awaitable[Gate]]


@pytest.fixture
async def make_gate() -> AsyncIterator[MakeGate]:
    """Starts gates; each argument is a table of the configuration."""
    gates: list[Gate] = []
    folders: list[Path] = []

    async def make(**config: Any) -> Gate:
        folder = Path(tempfile.mkdtemp(prefix="gate"))
        folders.append(folder)
        gate = Gate(folder, config or STATIC)
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
    """A gate with one static partition of two nodes."""
    return await make_gate()
