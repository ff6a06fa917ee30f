"""A gate on TCP serves the core of its installation, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from gate_kit import GateInfo, Health, Listen, errors, start
from gate_kit.identity import Expiry
from rpc_kit import tls
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from rpc_kit.identity import Kind
from rpc_kit.server import RpcServer, ServeError
from rpc_kit.tls import KeyPair
from skyport.gate.v1 import identity_pb2, identity_pb2_grpc, types_pb2
from swm_core.security.ca import CertificateAuthority, new_key

_INSTALLATION = "abcdefghijkl"
_INFO = GateInfo(
    name="test",
    version="1",
    summary="a test",
    capabilities=frozenset({types_pb2.CAPABILITY_STATIC_PARTITIONS}),
    expiry=Expiry(identity_pb2.EXPIRY_ACTION_DELETE, 3_600),
)


class Authority:
    """A CA of one installation."""

    def __init__(self, installation: str = _INSTALLATION) -> None:
        self._ca = CertificateAuthority.create(installation, new_key())

    def keys(self, kind: Kind, name: str = "") -> KeyPair:
        issued = self._ca.issue(kind, name)
        return KeyPair(self._ca.cert_pem, issued.cert_pem, issued.key_pem)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[RpcServer]:
    listen = Listen(Endpoint("127.0.0.1", 0), authority.keys(Kind.GATE, "test"), _INSTALLATION)
    started = await start(listen, _INFO, [])
    yield started
    await started.stop(0)


async def _probe(server: RpcServer, keys: KeyPair) -> identity_pb2.ProbeResponse | Problem:
    assert server.endpoint is not None
    options = tls.channel_options(tls.gate_name(_INSTALLATION, "test"), keepalive_s=None)
    async with grpc.aio.secure_channel(
        server.endpoint.target, tls.channel_credentials(keys), options
    ) as channel:
        stub = identity_pb2_grpc.IdentityServiceStub(channel)
        try:
            answer: identity_pb2.ProbeResponse = await stub.Probe(
                identity_pb2.ProbeRequest(), timeout=5
            )
        except grpc.aio.AioRpcError as error:
            return Problem.from_error(error)
        return answer


async def test_the_core_is_served(server: RpcServer, authority: Authority) -> None:
    answer = await _probe(server, authority.keys(Kind.CORE))
    assert isinstance(answer, identity_pb2.ProbeResponse)
    assert (answer.ready, answer.incarnation) == (True, _INFO.incarnation)


async def test_a_user_is_not_served(server: RpcServer, authority: Authority) -> None:
    found = await _probe(server, authority.keys(Kind.USER, "ann"))
    assert isinstance(found, Problem)
    assert (found.code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "KIND_NOT_ALLOWED")


async def test_another_installations_core_is_not_served(server: RpcServer) -> None:
    found = await _probe(server, Authority("zzzzzzzzzzzz").keys(Kind.CORE))
    assert isinstance(found, Problem)
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert found.reason is None


async def test_tcp_without_a_core_to_serve_is_refused(authority: Authority) -> None:
    listen = Listen(Endpoint("127.0.0.1", 0), authority.keys(Kind.GATE, "test"))
    with pytest.raises(ServeError, match="--core-identity"):
        await start(listen, _INFO, [])


async def test_a_broken_gate_says_so_in_probe(authority: Authority) -> None:
    listen = Listen(Endpoint("127.0.0.1", 0), authority.keys(Kind.GATE, "test"), _INSTALLATION)

    def broken() -> Health:
        raise errors.credentials_invalid("the key was revoked")

    started = await start(listen, _INFO, [], health=broken)
    found = await _probe(started, authority.keys(Kind.CORE))
    assert isinstance(found, Problem)
    assert found.reason == "CREDENTIALS_INVALID"
    await started.stop(0)


def test_every_run_has_an_incarnation_of_its_own() -> None:
    made = {
        GateInfo(name="a", version="1", summary="", capabilities=frozenset()).incarnation
        for _ in range(100)
    }
    assert len(made) == 100
