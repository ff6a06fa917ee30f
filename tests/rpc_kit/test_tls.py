from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from rpc_kit import diagnosis, private_files
from rpc_kit.bundle import Bundle
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from rpc_kit.identity import CoreOnly, Kind
from rpc_kit.tls import KeyFiles, KeyPair, core_name, gate_name
from tests.rpc_kit.conftest import ANYWHERE, INSTALLATION, Connect, Pki, Serve
from tests.rpc_kit.echo import call

Explain = Callable[..., str]


def bundle_of(keys: KeyPair, endpoint: Endpoint) -> Bundle:
    return Bundle(
        str(endpoint),
        INSTALLATION,
        "ann",
        keys.ca_pem.decode(),
        keys.cert_pem.decode(),
        keys.key_pem.decode(),
    )


async def explain(endpoint: Endpoint, keys: KeyPair) -> str:
    """The line that a terminal prints, asked beside the event loop that runs the server."""
    bundle = bundle_of(keys, endpoint)
    return await asyncio.to_thread(diagnosis.explain_connection_failure, bundle.endpoint, bundle)


async def refused(channel: grpc.aio.Channel) -> None:
    """Check that no call comes through, by the transport's own word."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, "UnaryUnary", b"hello")
    problem = Problem.from_error(raised.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.UNAVAILABLE, None)


async def test_a_user_of_the_installation_is_served(serve: Serve, connect: Connect) -> None:
    served = await serve()
    assert await call(connect(served.endpoint), "UnaryUnary", b"hello") == b"hello"


async def test_the_core_reaches_a_gate_and_nobody_else_does(
    serve: Serve, connect: Connect, pki: Pki, core_keys: KeyPair, user_keys: KeyPair
) -> None:
    served = await serve(keys=pki.keys(Kind.GATE, "lab"), authenticate=CoreOnly(INSTALLATION))
    name = gate_name(INSTALLATION, "lab")
    core = connect(served.endpoint, core_keys, name=name)
    assert await call(core, "UnaryUnary", b"hello") == b"hello"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(connect(served.endpoint, user_keys, name=name), "UnaryUnary", b"hello")
    problem = Problem.from_error(raised.value)
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "KIND_NOT_ALLOWED",
    )
    assert served.echo.calls == 1


async def test_a_users_certificate_can_never_serve(
    serve: Serve, connect: Connect, pki: Pki, user_keys: KeyPair
) -> None:
    served = await serve(keys=pki.keys(Kind.USER, "mallory"))
    await refused(connect(served.endpoint))
    assert "may not serve" in await explain(served.endpoint, user_keys)
    assert served.echo.calls == 0


async def test_a_gates_certificate_can_never_call(serve: Serve, connect: Connect, pki: Pki) -> None:
    served = await serve()
    gate = pki.keys(Kind.GATE, "lab")
    await refused(connect(served.endpoint, gate))
    assert "refused our certificate" in await explain(served.endpoint, gate)
    assert served.echo.calls == 0


async def test_a_gate_can_not_stand_in_for_the_core(
    serve: Serve, connect: Connect, pki: Pki, user_keys: KeyPair
) -> None:
    served = await serve(keys=pki.keys(Kind.GATE, "lab"))
    await refused(connect(served.endpoint))
    assert f"is not {core_name(INSTALLATION)}" in await explain(served.endpoint, user_keys)


async def test_a_server_of_another_ca_is_not_believed(
    serve: Serve, connect: Connect, other_pki: Pki, user_keys: KeyPair
) -> None:
    served = await serve(keys=other_pki.keys(Kind.CORE))
    await refused(connect(served.endpoint))
    assert "not signed by the CA of our bundle" in await explain(served.endpoint, user_keys)


async def test_a_user_of_another_ca_is_not_served(
    serve: Serve, connect: Connect, pki: Pki, other_pki: Pki
) -> None:
    served = await serve()
    stranger = other_pki.keys(Kind.USER, "ann")
    mixed = KeyPair(pki.ca.cert_pem, stranger.cert_pem, stranger.key_pem)
    await refused(connect(served.endpoint, mixed))
    assert "refused our certificate" in await explain(served.endpoint, mixed)
    assert served.echo.calls == 0


async def test_an_expired_user_is_not_served_and_is_told_why(
    serve: Serve, connect: Connect, pki: Pki
) -> None:
    served = await serve()
    expired = pki.keys(Kind.USER, "ann", expired=True)
    await refused(connect(served.endpoint, expired))
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    line = await explain(served.endpoint, expired)
    assert f"our own certificate expired on {yesterday:%Y-%m-%d}" in line
    assert served.echo.calls == 0


async def test_a_server_with_an_expired_certificate_is_not_believed(
    serve: Serve, connect: Connect, pki: Pki, user_keys: KeyPair
) -> None:
    served = await serve(keys=pki.keys(Kind.CORE, expired=True))
    await refused(connect(served.endpoint))
    assert "has expired" in await explain(served.endpoint, user_keys)


async def test_a_plain_text_client_is_not_served(serve: Serve) -> None:
    served = await serve()
    async with grpc.aio.insecure_channel(served.endpoint.target) as channel:
        await refused(channel)
    assert served.echo.calls == 0


async def test_a_client_without_a_certificate_is_not_served(serve: Serve, pki: Pki) -> None:
    served = await serve()
    credentials = grpc.ssl_channel_credentials(pki.ca.cert_pem)
    options = [("grpc.ssl_target_name_override", core_name(INSTALLATION))]
    async with grpc.aio.secure_channel(
        served.endpoint.target, credentials, options=options
    ) as channel:
        await refused(channel)
    assert served.echo.calls == 0


async def test_nothing_listens_is_told_apart(user_keys: KeyPair, serve: Serve) -> None:
    served = await serve()
    await served.server.stop(0)
    assert "the core is not running" in await explain(served.endpoint, user_keys)


async def test_a_core_that_answers_after_all_is_told_apart(
    user_keys: KeyPair, serve: Serve
) -> None:
    served = await serve()
    assert "try again" in await explain(served.endpoint, user_keys)


@pytest.fixture
async def line_server() -> AsyncIterator[Endpoint]:
    """Speaks no TLS, as many old services: a line at once, and a line for each line."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


async def test_a_server_without_tls_is_told_apart(
    user_keys: KeyPair, line_server: Endpoint
) -> None:
    assert "does not speak TLS" in await explain(line_server, user_keys)


async def test_a_unix_socket_that_nobody_serves_is_told_apart(
    user_keys: KeyPair, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "core.sock"
    endpoint = Endpoint(path=path)
    assert "nothing listens" in await explain(endpoint, user_keys)
    await serve(endpoint)
    assert "does not answer calls" in await explain(endpoint, user_keys)


async def test_the_transport_repeats_what_was_unavailable(serve: Serve, connect: Connect) -> None:
    served = await serve()
    assert await call(connect(served.endpoint), "UnaryUnary", b"flaky") == b"flaky"
    assert served.echo.calls == 3


async def test_the_transport_repeats_nothing_else(serve: Serve, connect: Connect) -> None:
    served = await serve()
    with pytest.raises(grpc.aio.AioRpcError):
        await call(connect(served.endpoint), "UnaryUnary", b"refuse")
    assert served.echo.calls == 1


async def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(
    serve: Serve, connect: Connect
) -> None:
    served = await serve(ANYWHERE)
    large = bytes(4 * 1024 * 1024 + 1)
    careless = connect(served.endpoint, more_options=(("grpc.max_send_message_length", -1),))
    for channel in (careless, connect(served.endpoint)):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "UnaryUnary", large)
        problem = Problem.from_error(raised.value)
        assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
    assert served.echo.calls == 0
    assert await call(careless, "UnaryUnary", bytes(4 * 1024 * 1024)) == bytes(4 * 1024 * 1024)


def test_a_key_is_never_shown(user_keys: KeyPair) -> None:
    assert "PRIVATE" not in repr(user_keys)
    assert "PRIVATE" not in repr(bundle_of(user_keys, ANYWHERE))


# Keys in files.


def write_keys(folder: Path, keys: KeyPair) -> KeyFiles:
    paths = [folder / name for name in ("ca.crt", "own.crt", "own.key")]
    for path, pem in zip(paths, (keys.ca_pem, keys.cert_pem, keys.key_pem), strict=True):
        private_files.replace(path, pem)
    return KeyFiles(*paths)


async def test_a_server_shows_new_connections_what_is_in_its_files(
    serve: Serve, connect: Connect, pki: Pki, tmp_path: Path
) -> None:
    files = write_keys(tmp_path, pki.keys(Kind.CORE, expired=True))
    served = await serve(keys=files)
    await refused(connect(served.endpoint))
    key = files.pair.key_pem
    renewed = pki.ca.issue(Kind.CORE, key_pem=key).cert_pem
    private_files.replace(tmp_path / "own.crt", renewed)
    first = connect(served.endpoint)
    assert await call(first, "UnaryUnary", b"hello") == b"hello"
    # Half of a file, or none, changes nothing.
    (tmp_path / "own.crt").write_bytes(renewed[: len(renewed) // 2])
    assert await call(connect(served.endpoint), "UnaryUnary", b"hello") == b"hello"
    (tmp_path / "own.crt").unlink()
    assert await call(connect(served.endpoint), "UnaryUnary", b"hello") == b"hello"
    assert await call(first, "UnaryUnary", b"hello") == b"hello"


def test_files_tell_once_of_what_has_changed(pki: Pki, tmp_path: Path) -> None:
    first, second = pki.keys(Kind.CORE), pki.keys(Kind.CORE)
    files = write_keys(tmp_path, first)
    assert (files.pair, files.changed()) == (first, None)
    write_keys(tmp_path, second)
    assert files.changed() == files.pair == second
    assert files.changed() is None
    write_keys(tmp_path, second)  # written anew, and the same
    assert files.changed() is None
