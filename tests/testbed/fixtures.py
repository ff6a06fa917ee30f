"""Fixtures for tests that need hosts: import `hosts` in a conftest."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.testbed.hosts import Bed, is_possible


@pytest.fixture(scope="session")
def hosts() -> Iterator[Bed]:
    """Two hosts, h1 and h2, that tests leave as they find them (`Bed.heal`)."""
    need_root()
    with Bed() as bed:
        yield bed


def need_root() -> None:
    """Leave the test out where no hosts can be made; in CI, where nothing is left out, fail."""
    if not is_possible():
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        end("hosts in network namespaces need root")
