"""Fixtures for tests that need hosts, an engine or a registry: import them in a conftest."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.testbed.docker import Engine
from tests.testbed.hosts import Bed, is_possible
from tests.testbed.registry import Registry


@pytest.fixture(scope="session")
def hosts() -> Iterator[Bed]:
    """Two hosts, h1 and h2, that tests leave as they find them (`Bed.heal`)."""
    need_root()
    with Bed() as bed:
        yield bed


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A Docker engine on this machine, which tests leave up and without containers."""
    need_root()
    with Engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry that asks for a login, which tests leave up."""
    with Registry() as registry:
        yield registry


def need_root() -> None:
    """Leave the test out where no hosts can be made; in CI, where nothing is left out, fail."""
    if not is_possible():
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        end("hosts in network namespaces, and a Docker engine, need root")
