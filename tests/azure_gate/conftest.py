"""Gates of their own for each test, before a stand-in for Azure that all share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.azure_gate.harness import Gate
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.azure_arm.fixtures import azure_arm, azure_arm_process

__all__ = ["azure_arm", "azure_arm_process"]

MakeGate = Callable[..., Awaitable[Gate]]


@pytest.fixture
async def make_gate(azure_arm: AzureArm) -> AsyncIterator[MakeGate]:
    """Starts gates; each argument is a setting of the configuration."""
    gates: list[Gate] = []
    folders: list[Path] = []

    async def make(**config: Any) -> Gate:
        folder = Path(tempfile.mkdtemp(prefix="gate"))
        folders.append(folder)
        gate = Gate(folder, azure_arm, **config)
        gates.append(gate)
        await gate.start()
        return gate

    yield make
    for gate in gates:
        await gate.close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def gate(make_gate: MakeGate) -> Gate:
    """A gate."""
    return await make_gate()
