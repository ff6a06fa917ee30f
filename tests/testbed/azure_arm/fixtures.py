"""Fixtures of the stand-in: import them in a conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.fixtures import need_root

__all__ = ["azure_arm", "azure_arm_process"]


@pytest.fixture(scope="session")
def azure_arm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureArm]:
    """One stand-in, whose VMs are timers, for all tests of a process."""
    need_root()
    with AzureArm(tmp_path_factory.mktemp("azure")) as arm:
        yield arm


@pytest.fixture
def azure_arm(azure_arm_process: AzureArm) -> Iterator[AzureArm]:
    """It, empty at the begin of a test; and a test that leaves anything in it fails."""
    azure_arm_process.reset()
    yield azure_arm_process
    azure_arm_process.faults.clear()
    try:
        azure_arm_process.books().require_nothing_left()
    finally:
        azure_arm_process.reset()
