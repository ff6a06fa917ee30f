from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.azure_arm.sdk import Sdk, connect
from tests.testbed.azure_arm import AzureArm
from tests.testbed.azure_arm.fixtures import azure_arm, azure_arm_process

__all__ = ["azure_arm", "azure_arm_process"]


@pytest.fixture
def arm(azure_arm: AzureArm) -> AzureArm:
    return azure_arm


@pytest.fixture
async def sdk(arm: AzureArm) -> AsyncIterator[Sdk]:
    async with connect(arm) as clients:
        yield clients
