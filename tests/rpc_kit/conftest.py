from __future__ import annotations

import dataclasses
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc.aio
import pytest

from rpc_kit import tls
from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import Kind
from rpc_kit.server import RpcServer
from rpc_kit.tls import KeyPair
from swm_core.security.ca import CertificateAuthority, new_key
from tests.rpc_kit.echo import DOMAIN, Echo, add_echo

INSTALLATION = "abcdefghijkl"
ANYWHERE = Endpoint("127.0.0.1", 0)


@dataclasses.dataclass(frozen=True)
class Pki:
    """A CA of one installation, and what it signs."""

    ca: CertificateAuthority

    @classmethod
    def create(cls, installation: str = INSTALLATION) -> Pki:
        return cls(CertificateAuthority.create(installation, new_key()))

    def keys(self, kind: Kind, name: str = "", *, expired: bool = False) -> KeyPair:
        a_year_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=366)
        issued = self.ca.issue(kind, name, valid_from=a_year_ago if expired else None)
        return KeyPair(self.ca.cert_pem, issued.cert_pem, issued.key_pem)


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki.create()


@pytest.fixture(scope="session")
def other_pki() -> Pki:
    """Another CA, that claims to be the same installation."""
    return Pki.create()


@pytest.fixture(scope="session")
def core_keys(pki: Pki) -> KeyPair:
    return pki.keys(Kind.CORE)


@pytest.fixture(scope="session")
def user_keys(pki: Pki) -> KeyPair:
    return pki.keys(Kind.USER, "ann")


@dataclasses.dataclass
class Served:
    """A server that runs, and the service that it serves."""

    server: RpcServer
    echo: Echo
    endpoint: Endpoint


Serve = Callable[..., Coroutine[Any, Any, Served]]
Connect = Callable[..., grpc.aio.Channel]


@pytest.fixture
async def serve(core_keys: KeyPair) -> AsyncIterator[Serve]:
    """Starts servers of the echo service; they end with the test."""
    running: list[RpcServer] = []

    async def start(
        endpoint: Endpoint = ANYWHERE, keys: KeyPair | None = core_keys, **options: Any
    ) -> Served:
        server, echo = RpcServer(DOMAIN, **options), Echo()
        running.append(server)
        server.add(add_echo, echo)
        if endpoint.path is not None:
            keys = None
        return Served(server, echo, await server.start(endpoint, keys))

    yield start
    for server in running:
        await server.stop(0)


@pytest.fixture
async def connect(user_keys: KeyPair) -> AsyncIterator[Connect]:
    """Opens channels; they close with the test."""
    opened: list[grpc.aio.Channel] = []

    def open_channel(
        endpoint: Endpoint,
        keys: KeyPair = user_keys,
        *,
        name: str = tls.core_name(INSTALLATION),
        more_options: tuple[tuple[str, Any], ...] = (),
    ) -> grpc.aio.Channel:
        if endpoint.path is not None:
            options = [*tls.channel_options(), *more_options]
            channel = grpc.aio.insecure_channel(endpoint.target, options=options)
        else:
            options = [*tls.channel_options(name), *more_options]
            channel = grpc.aio.secure_channel(
                endpoint.target, tls.channel_credentials(keys), options=options
            )
        opened.append(channel)
        return channel

    yield open_channel
    for channel in opened:
        await channel.close()
