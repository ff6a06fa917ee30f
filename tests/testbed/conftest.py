"""What tests of the bed get: the bed."""

from __future__ import annotations

from tests.testbed.fixtures import hosts

__all__ = ["hosts"]
