"""TunnelService over SSH: as any gate serves it, and when the way to the node breaks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from gate_kit import GateInfo, Listen, Service, check_ref, errors, start
from gate_kit.ssh.transport import Transport
from gate_kit.ssh.tunnels import SshTunnels
from gate_kit.tunnel_service import TunnelService
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from skyport.gate.v1 import job_pb2, tunnel_pb2, tunnel_pb2_grpc, types_pb2
from tests.fake_gate.harness import drained
from tests.ssh.conftest import Reach
from tests.ssh.sshd import Sshd, free_port
from tests.testbed.hosts import Bed

WITHIN_S = 30.0
CAPABILITIES = frozenset({types_pb2.CAPABILITY_TUNNELS, types_pb2.CAPABILITY_REVERSE_TUNNELS})
EOF = tunnel_pb2.ConnectRequest(eof=tunnel_pb2.TunnelEof())
REF = types_pb2.JobRef(
    installation="abcdefghijkl",
    job_id="j1",
    attempt=1,
    partition_id="p",
    owner="ann",
    nodes=["n1"],
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class Site:
    """Plays what the gate knows of jobs."""

    def __init__(self) -> None:
        self.statuses: dict[str, job_pb2.JobStatus] = {"j1": job_pb2.JobStatus(ref=REF)}
        self.buried: set[str] = set()

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        if capability not in CAPABILITIES:
            raise errors.capability_missing(capability, what)

    def ref(self, ref: types_pb2.JobRef) -> None:
        check_ref(ref)

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        return self.statuses.get(ref.job_id)

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        return ref.job_id in self.buried


class Gate:
    """A gate with one service."""

    def __init__(self, stub: Any, site: Site) -> None:
        self.stub = stub
        self.site = site

    async def connect(self, port: int, ref: types_pb2.JobRef = REF, node: str = "") -> Any:
        call = self.stub.Connect()
        opened = tunnel_pb2.ConnectOpen(ref=ref, port=port, node=node)
        await call.write(tunnel_pb2.ConnectRequest(open=opened))
        return call

    async def listen(self, port: int, ref: types_pb2.JobRef = REF) -> Any:
        call = self.stub.Listen(tunnel_pb2.ListenRequest(ref=ref, port=port))
        async with asyncio.timeout(WITHIN_S):
            answer = await call.read()
        if answer is grpc.aio.EOF:
            await drained(call)
        assert answer.HasField("listening")
        return call

    async def accept(self, listening: Any) -> Any:
        """The next connection that a Listen tells."""
        call = self.stub.Accept()
        opened = tunnel_pb2.AcceptOpen(connection_id=await incoming(listening))
        await call.write(tunnel_pb2.AcceptRequest(open=opened))
        assert (await call.read()).HasField("opened")
        return call


async def incoming(listening: Any) -> str:
    async with asyncio.timeout(WITHIN_S):
        while True:
            answer = await listening.read()
            if answer.HasField("connection"):
                found: str = answer.connection.connection_id
                return found


async def frames(call: Any) -> list[Any]:
    """What comes until the call ends with OK."""
    found = []
    async with asyncio.timeout(WITHIN_S):
        while (frame := await call.read()) is not grpc.aio.EOF:
            found.append(frame)
    assert await call.code() is grpc.StatusCode.OK, await call.details()
    return found


async def refused(call: Any, reason: str) -> Problem:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(WITHIN_S):
            await drained(call)
    found = Problem.from_error(raised.value)
    assert found.reason == reason, found
    return found


@contextlib.asynccontextmanager
async def served(transport: Transport, folder: Path) -> AsyncIterator[Gate]:
    """A gate whose only node is reached by `transport`."""
    site = Site()
    service = TunnelService(SshTunnels(site, site, lambda ref, node: transport), "run", 30.0)
    register = tunnel_pb2_grpc.add_TunnelServiceServicer_to_server
    info = GateInfo(name="test", version="1", summary="", capabilities=CAPABILITIES)
    endpoint = Endpoint.parse(f"unix://{folder}/gate")
    server = await start(Listen(endpoint), info, [Service(register, service)])
    async with grpc.aio.insecure_channel(f"unix:{folder}/gate") as channel:
        yield Gate(tunnel_pb2_grpc.TunnelServiceStub(channel), site)
    await server.stop(5)
    await service.close()


@pytest.fixture
async def gate(transport: Transport, tmp_path: Path) -> AsyncIterator[Gate]:
    async with served(transport, tmp_path) as gate:
        yield gate


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    """A server of the job's, which the test plays; its connections end with it."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_each_side_closes_its_half_and_the_other_goes_on(gate: Gate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read())
        writer.close()

    async with listening(answer) as port:
        call = await gate.connect(port)
        assert (await call.read()).HasField("opened")
        await call.write(tunnel_pb2.ConnectRequest(data=b"hello"))
        await call.write(EOF)
        told = await frames(call)
    assert b"".join(frame.data for frame in told) == b"you said hello"
    assert told[-1].HasField("eof")


async def test_fifty_connections_carry_their_bytes_both_ways(gate: Gate) -> None:
    async def exchange(port: int) -> None:
        sent = os.urandom(300_000)
        call = await gate.connect(port)
        assert (await call.read()).HasField("opened")

        async def send() -> None:
            for at in range(0, len(sent), 1 << 16):
                await call.write(tunnel_pb2.ConnectRequest(data=sent[at : at + (1 << 16)]))
            await call.write(EOF)

        sending = asyncio.create_task(send())
        digest = hashlib.sha256()
        for frame in await frames(call):
            digest.update(frame.data)
        await sending
        assert digest.digest() == hashlib.sha256(sent).digest()

    async with listening(echo) as port:
        await asyncio.gather(*(exchange(port) for _ in range(50)))


async def test_a_job_reaches_a_port_that_is_listened_on_for_it(gate: Gate) -> None:
    port = free_port()
    listener = await gate.listen(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    call = await gate.accept(listener)
    writer.write(b"from the job")
    writer.write_eof()
    assert (await call.read()).data == b"from the job"
    assert (await call.read()).HasField("eof")
    await call.write(tunnel_pb2.AcceptRequest(data=b"from the core"))
    await call.write(tunnel_pb2.AcceptRequest(eof=tunnel_pb2.TunnelEof()))
    async with asyncio.timeout(WITHIN_S):
        assert await reader.read() == b"from the core"
    assert await frames(call) == []
    writer.close()
    listener.cancel()


async def test_a_connection_outlives_its_listen_and_a_later_listen_replaces_it(gate: Gate) -> None:
    port = free_port()
    first = await gate.listen(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    call = await gate.accept(first)
    second = await gate.listen(port)
    await refused(first, "REPLACED")
    await call.write(tunnel_pb2.AcceptRequest(data=b"still there\n"))
    async with asyncio.timeout(WITHIN_S):
        assert await reader.readline() == b"still there\n"
    _, other = await asyncio.open_connection("127.0.0.1", port)
    assert await incoming(second)
    for each in (writer, other):
        each.close()
    call.cancel()
    second.cancel()


async def test_a_caller_that_goes_ends_the_connection(gate: Gate) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set_result(None)
        writer.close()

    async with listening(wait) as port:
        call = await gate.connect(port)
        assert (await call.read()).HasField("opened")
        call.cancel()
        await asyncio.wait_for(ended, WITHIN_S)


async def test_what_is_refused_is_refused_by_name(gate: Gate) -> None:
    found = await refused(await gate.connect(free_port()), "TARGET_REFUSED")
    assert found.metadata["node"] == "n1"
    await refused(await gate.connect(0), "FIELD_REQUIRED")
    await refused(await gate.connect(1, node="n2"), "FIELD_MALFORMED")
    other = types_pb2.JobRef()
    other.CopyFrom(REF)
    other.job_id = "j2"
    await refused(await gate.connect(1, other), "JOB_NOT_FOUND")
    early = await gate.listen(free_port(), other)  # it comes before the start
    early.cancel()
    gate.site.buried.add("j2")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await gate.listen(free_port(), other)
    assert Problem.from_error(raised.value).reason == "JOB_NOT_RUNNING"
    async with listening(echo) as port:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gate.listen(port)
    assert Problem.from_error(raised.value).reason == "PORT_IN_USE"
    gate.site.statuses["j1"].end.SetInParent()
    await refused(await gate.connect(1), "JOB_NOT_RUNNING")


async def test_a_lost_link_is_told_and_all_is_had_again(
    sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    transport = reach(sshd.target)
    async with served(transport, tmp_path) as gate, listening(echo) as port:
        out = free_port()
        listener = await gate.listen(out)
        _, writer = await asyncio.open_connection("127.0.0.1", out)
        accepted = await gate.accept(listener)
        call = await gate.connect(port)
        assert (await call.read()).HasField("opened")
        await call.write(tunnel_pb2.ConnectRequest(data=b"x"))
        assert (await call.read()).data == b"x"
        sshd.stop()
        for each in (listener, accepted, call):
            found = await refused(each, "NODE_UNREACHABLE")
            assert (found.code, found.metadata["node"]) == (grpc.StatusCode.UNAVAILABLE, "n1")
        writer.close()
        await refused(await gate.connect(port), "NODE_UNREACHABLE")
        sshd.start()
        listener = await again(gate, out)
        _, writer = await asyncio.open_connection("127.0.0.1", out)
        await gate.accept(listener)
        call = await gate.connect(port)
        assert (await call.read()).HasField("opened")
        writer.close()


async def test_a_port_is_listened_on_again_after_a_link_through_which_nothing_passed(
    hosts: Bed, reach: Reach, tmp_path: Path
) -> None:
    host = hosts["h1"]
    transport = reach(host.target())
    async with served(transport, tmp_path) as gate:
        port = free_port()
        listener = await gate.listen(port)
        await (await transport.open("true")).wait()
        with host.blackhole():
            await refused(listener, "NODE_UNREACHABLE")
        listener = await again(gate, port)
        line = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3"
        host.run(f"bash -c '{line}'", user="alice")
        call = await gate.accept(listener)
        assert (await call.read()).data == b"hello\n"


async def again(gate: Gate, port: int) -> Any:
    """Listen, as often as it takes until the link is there again."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return await gate.listen(port)
            except grpc.aio.AioRpcError as error:
                if Problem.from_error(error).reason != "NODE_UNREACHABLE":
                    raise
                await asyncio.sleep(0.1)
