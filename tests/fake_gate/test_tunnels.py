"""Tunnels: bytes both ways, each with its end, and nothing left open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from skyport.gate.v1 import tunnel_pb2, types_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import STATIC, WITHIN_S, Gate, drained, make_ref, refused
from tests.system.harness.core import free_port


@contextlib.asynccontextmanager
async def _server(handler: Any) -> AsyncIterator[int]:
    """A server of the job's, which the test plays."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _running(gate: Gate) -> types_pb2.JobRef:
    ref, _ = await gate.start_job("sleep 60")
    await gate.running(ref)
    return ref


async def _connect(gate: Gate, ref: types_pb2.JobRef, port: int, node: str = "") -> Any:
    call = gate.tunnels.Connect()
    opened = tunnel_pb2.ConnectOpen(ref=ref, port=port, node=node)
    await call.write(tunnel_pb2.ConnectRequest(open=opened))
    return call


def _data(data: bytes) -> tunnel_pb2.ConnectRequest:
    return tunnel_pb2.ConnectRequest(data=data)


_EOF = tunnel_pb2.ConnectRequest(eof=tunnel_pb2.TunnelEof())


async def _frames(call: Any) -> list[Any]:
    """What comes until the call ends with OK."""
    found = []
    async with asyncio.timeout(WITHIN_S):
        while (frame := await call.read()) is not grpc.aio.EOF:
            found.append(frame)
    assert await call.code() is grpc.StatusCode.OK
    return found


async def test_each_side_closes_its_half_and_the_other_goes_on(gate: Gate) -> None:
    ref = await _running(gate)

    async def answer_after_eof(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(b"you said " + asked)
        writer.close()

    async with _server(answer_after_eof) as port:
        call = await _connect(gate, ref, port)
        assert (await call.read()).HasField("opened")
        await call.write(_data(b"hello "))
        await call.write(_data(b"there"))
        await call.write(_EOF)
        frames = await _frames(call)
    assert b"".join(frame.data for frame in frames) == b"you said hello there"
    assert frames[-1].HasField("eof")
    await gate.cancel(ref, 0)


async def test_a_server_that_closes_first_still_gets_the_rest(gate: Gate) -> None:
    ref = await _running(gate)
    got = asyncio.get_running_loop().create_future()

    async def close_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        got.set_result(await reader.read())
        writer.close()

    async with _server(close_first) as port:
        call = await _connect(gate, ref, port)
        assert (await call.read()).HasField("opened")
        assert (await call.read()).data == b"bye"
        assert (await call.read()).HasField("eof")
        await call.write(_data(b"the rest"))
        await call.write(_EOF)
        assert await asyncio.wait_for(got, WITHIN_S) == b"the rest"
        assert await _frames(call) == []
    await gate.cancel(ref, 0)


async def test_many_bytes_arrive_whole_both_ways(gate: Gate) -> None:
    ref = await _running(gate)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    sent = bytes(range(256)) * 20_000
    async with _server(echo) as port:
        call = await _connect(gate, ref, port)
        assert (await call.read()).HasField("opened")

        async def send() -> None:
            for start in range(0, len(sent), 1 << 18):
                await call.write(_data(sent[start : start + (1 << 18)]))
            await call.write(_EOF)

        sending = asyncio.create_task(send())
        frames = await _frames(call)
        await sending
    assert b"".join(frame.data for frame in frames) == sent
    await gate.cancel(ref, 0)


async def test_a_connection_that_breaks_ends_without_eof(gate: Gate) -> None:
    ref = await _running(gate)

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with _server(reset) as port:
        call = await _connect(gate, ref, port)
        assert (await call.read()).HasField("opened")
        await call.write(_data(b"x"))
        assert not [frame for frame in await _frames(call) if frame.HasField("eof")]
    await gate.cancel(ref, 0)


async def test_a_caller_that_goes_resets_the_connection(gate: Gate) -> None:
    ref = await _running(gate)
    ended = asyncio.get_running_loop().create_future()

    async def wait_for_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ended.set_result(await reader.read())
        except ConnectionResetError:
            ended.set_result(None)
        writer.close()

    async with _server(wait_for_end) as port:
        call = await _connect(gate, ref, port)
        assert (await call.read()).HasField("opened")
        call.cancel()
        await asyncio.wait_for(ended, WITHIN_S)
    await gate.cancel(ref, 0)


async def test_refusals_of_connect(gate: Gate) -> None:
    ref = await _running(gate)
    await refused(
        drained(await _connect(gate, ref, free_port())),
        "TARGET_REFUSED",
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    await refused(drained(await _connect(gate, ref, 0)), "FIELD_REQUIRED")
    await refused(drained(await _connect(gate, ref, 65_536)), "FIELD_OUT_OF_RANGE")
    await refused(drained(await _connect(gate, ref, 80, "n2")), "FIELD_MALFORMED")
    unopened = gate.tunnels.Connect()
    await unopened.write(_data(b"x"))
    await refused(drained(unopened), "FIELD_REQUIRED")
    unknown = await _connect(gate, make_ref("unknown"), 80)
    await refused(drained(unknown), "JOB_NOT_FOUND")
    await gate.cancel(ref, 0)
    await refused(drained(await _connect(gate, ref, 80)), "JOB_NOT_RUNNING")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([_EOF, _data(b"late")], "FIELD_MALFORMED"),
        ([tunnel_pb2.ConnectRequest(open=tunnel_pb2.ConnectOpen())], "FIELD_MALFORMED"),
        ([_data(b"x" * ((1 << 20) + 1))], "FIELD_OUT_OF_RANGE"),
    ],
)
async def test_frames_that_do_not_belong_there_are_refused(
    gate: Gate, frames: list[tunnel_pb2.ConnectRequest], reason: str
) -> None:
    ref = await _running(gate)
    hold = asyncio.Event()

    async def stay_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    async with _server(stay_open) as port:
        call = await _connect(gate, ref, port)
        assert (await call.read()).HasField("opened")
        for frame in frames:
            await call.write(frame)
        await refused(drained(call), reason)
        hold.set()
    await gate.cancel(ref, 0)


async def _listen(gate: Gate, ref: types_pb2.JobRef, port: int) -> Any:
    call = gate.tunnels.Listen(tunnel_pb2.ListenRequest(ref=ref, port=port))
    assert (await call.read()).HasField("listening")
    return call


async def _incoming(call: Any) -> str:
    async with asyncio.timeout(WITHIN_S):
        while True:
            answer = await call.read()
            if answer.HasField("connection"):
                found: str = answer.connection.connection_id
                return found


async def _accept(gate: Gate, connection_id: str) -> Any:
    call = gate.tunnels.Accept()
    opened = tunnel_pb2.AcceptOpen(connection_id=connection_id)
    await call.write(tunnel_pb2.AcceptRequest(open=opened))
    return call


async def test_a_job_reaches_a_port_that_is_listened_on_for_it(gate: Gate) -> None:
    ref = make_ref()
    port = free_port()
    # Before the start, so that the script finds it open.
    listening = await _listen(gate, ref, port)
    await gate.start_job(f"exec 3<>/dev/tcp/127.0.0.1/{port}", ref)  # only to have an attempt
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection_id = await _incoming(listening)
    assert len(connection_id) >= 32
    call = await _accept(gate, connection_id)
    assert (await call.read()).HasField("opened")
    writer.write(b"from the job")
    writer.write_eof()
    assert (await call.read()).data == b"from the job"
    assert (await call.read()).HasField("eof")
    await call.write(tunnel_pb2.AcceptRequest(data=b"from the core"))
    await call.write(tunnel_pb2.AcceptRequest(eof=tunnel_pb2.TunnelEof()))
    assert await reader.read() == b"from the core"
    assert await _frames(call) == []
    writer.close()
    await refused(drained(await _accept(gate, connection_id)), "CONNECTION_NOT_FOUND")
    await refused(drained(await _accept(gate, "guessed")), "CONNECTION_NOT_FOUND")
    listening.cancel()


async def test_a_second_listen_replaces_the_first_on_the_same_port(gate: Gate) -> None:
    ref = await _running(gate)
    port = free_port()
    first = await _listen(gate, ref, port)
    second = await _listen(gate, ref, port)
    await refused(drained(first), "REPLACED", grpc.StatusCode.ABORTED)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await _incoming(second)
    writer.close()
    second.cancel()
    await gate.cancel(ref, 0)


async def test_a_port_is_closed_when_its_listen_ends(gate: Gate) -> None:
    ref = await _running(gate)
    port = free_port()
    call = await _listen(gate, ref, port)
    call.cancel()
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                continue  # it came in the moment in which the port was closed
            writer.close()
            await asyncio.sleep(0.01)
    again = await _listen(gate, ref, port)
    again.cancel()
    await gate.cancel(ref, 0)


async def test_refusals_of_listen(make_gate: MakeGate) -> None:
    gate = await make_gate(**STATIC, heartbeat_s=0.1)
    ref = await _running(gate)

    def listen(port: int, **fields: Any) -> Any:
        return gate.tunnels.Listen(tunnel_pb2.ListenRequest(ref=ref, port=port, **fields))

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = await refused(listen(taken.getsockname()[1]), "PORT_IN_USE")
        assert found.metadata["node"] == "n1"
    await refused(listen(0), "FIELD_REQUIRED")
    await refused(listen(80, node="n2"), "FIELD_MALFORMED")
    silent = listen(free_port())
    assert (await silent.read()).HasField("listening")
    assert (await silent.read()).HasField("heartbeat")
    silent.cancel()
    await gate.cancel(ref, 0)
    await refused(listen(free_port()), "JOB_NOT_RUNNING")
