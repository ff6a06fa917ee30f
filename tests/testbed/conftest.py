"""What tests of the bed get: the bed."""

from __future__ import annotations

from tests.testbed.fixtures import docker_engine, hosts, registry

__all__ = ["docker_engine", "hosts", "registry"]
