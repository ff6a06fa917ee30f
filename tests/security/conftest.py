from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.sentinel import Secret
from tests.security.world import World, a_world


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def secret() -> Secret:
    """What a job has and nobody else may see; another one for each test."""
    return Secret()
