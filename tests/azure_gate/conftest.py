from __future__ import annotations

from tests.testbed.azure_arm.fixtures import azure_arm, azure_arm_process

__all__ = ["azure_arm", "azure_arm_process"]
