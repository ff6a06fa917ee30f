from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from rpc_kit import interceptor, tls
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem, Refusal
from rpc_kit.identity import Kind, of_certificate
from rpc_kit.interceptor import Context
from rpc_kit.server import RpcServer
from rpc_kit.tls import KeyPair
from swm_core.security.ca import CertificateAuthority, new_key
from swm_core.security.identity import Authenticator, Caller, current_caller

INSTALLATION = "abcdefghijkl"


class Accounts:
    """Users in memory, as the store keeps them."""

    def __init__(self) -> None:
        self.admins = {"root": True, "ann": False}
        self.revoked: set[str] = set()

    def is_revoked(self, user: str, serial: str) -> bool:
        return serial in self.revoked

    def is_admin(self, user: str) -> bool | None:
        return self.admins.get(user)


@dataclasses.dataclass
class Core:
    """A server that tells each caller who it is."""

    ca: CertificateAuthority
    accounts: Accounts
    endpoint: Endpoint

    async def ask(self, kind: Kind, name: str = "", *, serial_revoked: bool = False) -> str:
        issued = self.ca.issue(kind, name)
        if serial_revoked:
            self.accounts.revoked.add(issued.serial)
        keys = KeyPair(self.ca.cert_pem, issued.cert_pem, issued.key_pem)
        options = tls.channel_options(tls.core_name(INSTALLATION))
        async with grpc.aio.secure_channel(
            self.endpoint.target, tls.channel_credentials(keys), options=options
        ) as channel:
            calls: Any = channel
            answer: bytes = await calls.unary_unary("/test.Who/AmI")(b"", timeout=10)
            return answer.decode()

    async def refusal(self, kind: Kind, name: str = "", *, serial_revoked: bool = False) -> Problem:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.ask(kind, name, serial_revoked=serial_revoked)
        return Problem.from_error(raised.value)


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    ca = CertificateAuthority.create(INSTALLATION, new_key())
    accounts = Accounts()

    async def who(request: bytes, context: Context) -> bytes:
        caller = current_caller()
        return f"{caller.user} {caller.is_admin} {caller.may_see('ann')}".encode()

    def register(servicer: object, server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {"AmI": grpc.unary_unary_rpc_method_handler(who)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Who", handlers),)
        )

    server = RpcServer("skyport.test", authenticate=Authenticator(INSTALLATION, accounts))
    server.add(register, None)
    own = ca.issue(Kind.CORE)
    keys = KeyPair(ca.cert_pem, own.cert_pem, own.key_pem)
    yield Core(ca, accounts, await server.start(Endpoint("127.0.0.1", 0), keys))
    await server.stop(0)


async def test_a_handler_knows_its_caller_and_whether_it_is_an_admin(core: Core) -> None:
    assert await core.ask(Kind.USER, "ann") == "ann False True"
    assert await core.ask(Kind.USER, "root") == "root True True"


async def test_a_revoked_certificate_is_refused_and_others_of_the_user_are_not(core: Core) -> None:
    problem = await core.refusal(Kind.USER, "ann", serial_revoked=True)
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CERTIFICATE_REVOKED",
    )
    assert await core.ask(Kind.USER, "ann") == "ann False True"


async def test_a_user_that_was_removed_is_refused(core: Core) -> None:
    problem = await core.refusal(Kind.USER, "bob")
    assert (problem.code, problem.reason) == (grpc.StatusCode.UNAUTHENTICATED, "IDENTITY_UNKNOWN")


async def test_the_core_serves_users_only(core: Core) -> None:
    problem = await core.refusal(Kind.CORE)
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "KIND_NOT_ALLOWED",
    )


def test_only_admins_get_past_a_demand_for_one() -> None:
    ca = CertificateAuthority.create(INSTALLATION, new_key())
    identity = of_certificate(ca.issue(Kind.USER, "ann").cert_pem)
    Caller(identity, is_admin=True).require_admin()
    with pytest.raises(Refusal) as raised:
        Caller(identity, is_admin=False).require_admin()
    assert raised.value.reason == "ADMIN_REQUIRED"
    assert not Caller(identity, is_admin=False).may_see("bob")


def test_a_handler_without_an_authenticator_is_a_defect() -> None:
    token = interceptor.caller.set("somebody")
    try:
        with pytest.raises(TypeError, match="no Authenticator"):
            current_caller()
    finally:
        interceptor.caller.reset(token)
