"""A stand-in for Azure Resource Manager that the SDK talks to; README.md tells what it does."""

from tests.testbed.azure_arm.books import Billed, Books
from tests.testbed.azure_arm.client import AzureArm, Ready
from tests.testbed.azure_arm.faults import Fault, GuestFault, error, failed_operation

__all__ = [
    "AzureArm",
    "Billed",
    "Books",
    "Fault",
    "GuestFault",
    "Ready",
    "error",
    "failed_operation",
]
