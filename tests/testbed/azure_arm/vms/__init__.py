"""What VMs are made of."""

from tests.testbed.azure_arm.vms.backend import Backend, Machine, Rule

__all__ = ["Backend", "Machine", "Rule"]
