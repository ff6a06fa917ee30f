"""Fixtures for tests that need hosts: import `hosts` in a conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.hosts import Bed, is_possible


@pytest.fixture(scope="session")
def hosts() -> Iterator[Bed]:
    """Two hosts, h1 and h2, that tests leave as they find them (`Bed.heal`)."""
    if not is_possible():
        pytest.skip("hosts in network namespaces need root")
    with Bed() as bed:
        yield bed
