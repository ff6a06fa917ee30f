from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from terminals.client.connection import Client
from tests.client.certificates import Installation
from tests.client.fake_core import FakeCore


@pytest.fixture(scope="session")
def installation() -> Installation:
    return Installation()


@pytest.fixture
def core(installation: Installation, tmp_path: Path) -> Iterator[FakeCore]:
    fake = FakeCore(installation.core(), tmp_path / "jobs")
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def client(core: FakeCore, installation: Installation) -> Iterator[Client]:
    with Client(installation.bundle(core.endpoint)) as connected:
        yield connected
