"""What tests of gate_kit.ssh get: a server, and ways to an account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.target import SshTarget
from gate_kit.ssh.transport import Transport
from tests.ssh.sshd import Sshd
from tests.testbed.fixtures import hosts

__all__ = ["hosts", "reach", "shared_sshd", "sshd", "transport"]

Reach = Callable[..., SshTransport]


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that tests leave as it is."""
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server of the test's own."""
    server = Sshd(tmp_path / "sshd")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["ssh", "local"])
async def transport(request: pytest.FixtureRequest, shared_sshd: Sshd) -> AsyncIterator[Transport]:
    """A way to the account that tests run as; each test is done by SSH and without."""
    made: Transport
    if request.param == "ssh":
        made = SshTransport("n1", shared_sshd.target)
    else:
        made = LocalTransport("n1")
    yield made
    await made.close()


@pytest.fixture
async def reach() -> AsyncIterator[Reach]:
    """Makes ways to accounts that are closed in the end."""
    made: list[SshTransport] = []

    def make(target: SshTarget, node: str = "n1", **settings: Any) -> SshTransport:
        made.append(SshTransport(node, target, **settings))
        return made[-1]

    yield make
    for transport in made:
        await transport.close()
