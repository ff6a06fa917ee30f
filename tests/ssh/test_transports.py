"""What every way to a host does alike, by SSH and on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket

import pytest

from gate_kit.errors import Refusal
from gate_kit.ssh.transport import Process, Reader, Transport

WITHIN_S = 30.0


async def drained(reader: Reader) -> bytes:
    found = b""
    while data := await reader.read(1 << 16):
        found += data
    return found


async def ran(transport: Transport, command: str, data: bytes = b"") -> tuple[bytes, Process]:
    process = await transport.open(command)
    process.stdin.write(data)
    process.stdin.write_eof()
    async with asyncio.timeout(WITHIN_S):
        return await drained(process.stdout), process


async def test_a_command_has_its_streams_and_its_exit_code(transport: Transport) -> None:
    told, process = await ran(transport, "tr a-z A-Z; echo oops >&2; exit 3", b"hello\n")
    assert told == b"HELLO\n"
    assert await process.wait() == 3
    assert process.stderr == b"oops\n"


async def test_a_signal_is_no_exit_code(transport: Transport) -> None:
    _, process = await ran(transport, "kill -KILL $$")
    assert await process.wait() is None


async def test_a_command_begins_at_home_with_a_login_s_environment(transport: Transport) -> None:
    os.environ["GATE_SECRET"] = "s3cret"
    try:
        told, _ = await ran(transport, 'pwd; echo "$HOME"; env | grep -c GATE_SECRET')
    finally:
        del os.environ["GATE_SECRET"]
    here, home, leaked = told.decode().splitlines()
    assert (here, leaked) == (home, "0")


async def test_any_bytes_go_both_ways_without_piling_up(transport: Transport) -> None:
    data = os.urandom(1 << 16) * 64
    process = await transport.open("cat")

    async def send() -> None:
        for start in range(0, len(data), 1 << 15):
            process.stdin.write(data[start : start + (1 << 15)])
            await process.stdin.drain()
        process.stdin.write_eof()

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        group.create_task(send())
        digest = hashlib.sha256()
        while piece := await process.stdout.read(1 << 16):
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert await process.wait() == 0


async def test_a_writer_is_held_up_while_nobody_reads(transport: Transport) -> None:
    process = await transport.open("cat")

    async def fill() -> None:
        while True:  # ends: what is under way is bounded
            process.stdin.write(bytes(1 << 20))
            await process.stdin.drain()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fill(), 1)
    process.close()


async def test_only_the_end_of_much_on_standard_error_is_kept(transport: Transport) -> None:
    command = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done >&2; echo over >&2"
    _, process = await ran(transport, command)
    assert await process.wait() == 0
    assert len(process.stderr) <= 8192
    assert process.stderr.endswith(b"line 2999\nover\n")


async def test_lines_and_counted_bytes_are_read_as_such(transport: Transport) -> None:
    process = await transport.open("printf 'one\\ntwo\\n12345rest'")
    assert await process.stdout.readline() == b"one\n"
    assert await process.stdout.readline() == b"two\n"
    assert await process.stdout.readexactly(5) == b"12345"
    with pytest.raises(asyncio.IncompleteReadError):
        await process.stdout.readexactly(5)


async def test_what_a_command_left_running_goes_on_when_it_is_let_go(
    transport: Transport, tmp_path: object
) -> None:
    there = f"{tmp_path}/there"
    process = await transport.open(
        f"setsid sh -c 'echo up; exec </dev/null >/dev/null 2>&1; sleep 0.5; : >{there}' & sleep 60"
    )
    assert await process.stdout.readline() == b"up\n"
    process.close()
    async with asyncio.timeout(WITHIN_S):
        while not os.path.exists(there):  # noqa: PTH110, ASYNC110 - a file of another process
            await asyncio.sleep(0.05)


async def test_fifty_commands_at_once_all_have_their_turn(transport: Transport) -> None:
    async with asyncio.timeout(WITHIN_S):
        told = await asyncio.gather(*(ran(transport, f"echo {n}") for n in range(50)))
    assert [int(out) for out, _ in told] == list(range(50))


# Ports.


async def test_a_port_of_the_host_is_reached_with_half_closed_ends(transport: Transport) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())  # to the caller's end
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        stream = await transport.connect(port)
        stream.writer.write(b"hello")
        stream.writer.write_eof()
        async with asyncio.timeout(WITHIN_S):
            assert await drained(stream.reader) == b"HELLO"
        stream.writer.close()
        stream.abort()


async def test_a_port_that_nobody_listens_on_is_refused(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Refusal) as raised:
        await transport.connect(port)
    assert raised.value.reason == "TARGET_REFUSED"


async def test_connections_to_a_port_that_is_listened_on_are_handed_out(
    transport: Transport,
) -> None:
    listener = await transport.listen(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    accepted = aiter(listener.accepted())
    async with asyncio.timeout(WITHIN_S):
        stream = await anext(accepted)
        writer.write(b"from a job")
        writer.write_eof()
        assert await drained(stream.reader) == b"from a job"
        stream.writer.write(b"to a job")
        stream.writer.write_eof()
        assert await reader.read() == b"to a job"
        await listener.close()
        with pytest.raises(StopAsyncIteration):
            await anext(accepted)
        stream.writer.close()
    writer.close()
    await writer.wait_closed()


async def test_a_port_is_listened_on_by_both_kinds_of_addresses(transport: Transport) -> None:
    listener = await transport.listen(0)
    accepted = aiter(listener.accepted())
    for address in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(address, listener.port)
        async with asyncio.timeout(WITHIN_S):
            (await anext(accepted)).abort()
        writer.close()
    await listener.close()


async def test_connections_that_nobody_takes_yet_wait(transport: Transport) -> None:
    count = 100
    listener = await transport.listen(0)

    async def ask(n: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"%d\n" % n)
        answer = await reader.readline()
        writer.close()
        return answer

    async def serve() -> None:
        served = 0
        async for stream in listener.accepted():
            stream.writer.write(await stream.reader.readline())
            await stream.writer.drain()
            stream.writer.close()
            served += 1
            if served == count:
                return

    async with asyncio.timeout(WITHIN_S):
        asking = asyncio.gather(*(ask(n) for n in range(count)))
        await asyncio.sleep(0)
        await serve()
        assert await asking == [b"%d\n" % n for n in range(count)]
    await listener.close()


async def test_connections_go_on_when_their_listener_does_not(transport: Transport) -> None:
    listener = await transport.listen(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    async with asyncio.timeout(WITHIN_S):
        stream = await anext(aiter(listener.accepted()))
        await listener.close()
        again = await transport.listen(listener.port)
        writer.write(b"still there\n")
        assert await stream.reader.readline() == b"still there\n"
        stream.abort()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    await again.close()
    writer.close()


async def test_fifty_connections_at_once_carry_their_own_bytes(transport: Transport) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def exchange(port: int, n: int) -> None:
        stream = await transport.connect(port)
        sent = bytes([n]) * 100_000

        async def send() -> None:
            stream.writer.write(sent)
            await stream.writer.drain()
            stream.writer.write_eof()

        sending = asyncio.create_task(send())
        assert await drained(stream.reader) == sent
        await sending
        stream.abort()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN_S):
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(exchange(port, n) for n in range(50)))


async def test_a_connection_that_is_aborted_ends_at_the_other_side(transport: Transport) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ended.set_result(await reader.read())
        except ConnectionError:
            ended.set_result(b"")
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN_S):
        stream = await transport.connect(server.sockets[0].getsockname()[1])
        stream.abort()
        assert await ended == b""


async def test_who_writes_to_a_command_that_has_ended_is_told(transport: Transport) -> None:
    process = await transport.open("exec true")
    async with asyncio.timeout(WITHIN_S):
        assert await process.stdout.read(100) == b""
        await process.wait()
        process.stdin.write(b"x")
        with pytest.raises(ConnectionError):
            await process.stdin.drain()


async def test_a_port_in_use_is_told(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Refusal) as raised:
            await transport.listen(port)
    assert (raised.value.reason, raised.value.metadata.get("node")) == ("PORT_IN_USE", "n1")
