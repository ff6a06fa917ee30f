"""A connection is carried over frames: both halves, both ends, and every way to break."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gate_kit import Refusal
from gate_kit.tunnels import MAX_FRAME_BYTES, carry
from skyport.gate.v1 import tunnel_pb2

Frame = tunnel_pb2.ConnectRequest
Told = tunnel_pb2.ConnectResponse
EOF = Frame(eof=tunnel_pb2.TunnelEof())


class Connection:
    """Plays a connection: what the test feeds is read, what is written is noted."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.written = b""
        self.said_eof = asyncio.Event()
        self.closed = False
        self.aborted = False
        self.full = asyncio.Event()
        self.full.set()
        self.wrote = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written += data
        self.wrote.set()

    async def drain(self) -> None:
        await self.full.wait()

    def write_eof(self) -> None:
        self.said_eof.set()

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
        self.reader.feed_eof()


async def _frames(queue: asyncio.Queue[Frame | None]) -> AsyncIterator[Frame]:
    while (frame := await queue.get()) is not None:
        yield frame


class Call:
    """One call of the core's."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.connection = Connection()
        self.told = carry(
            _frames(self.sent),
            self.connection.reader,
            self.connection,
            data=lambda data: Told(data=data),
            eof=lambda: Told(eof=tunnel_pb2.TunnelEof()),
            abort=self.connection.abort,
        )

    async def rest(self) -> list[Told]:
        async with asyncio.timeout(5):
            return [frame async for frame in self.told]


async def test_both_halves_end_by_themselves() -> None:
    call = Call()
    call.sent.put_nowait(Frame(data=b"ask"))
    call.sent.put_nowait(EOF)
    reading = asyncio.create_task(call.rest())
    await call.connection.said_eof.wait()
    call.connection.reader.feed_data(b"answer")
    call.connection.reader.feed_eof()
    frames = await reading
    assert [frame.data for frame in frames if frame.data] == [b"answer"]
    assert frames[-1].HasField("eof")
    assert call.connection.written == b"ask"
    assert (call.connection.closed, call.connection.aborted) == (True, False)


async def test_it_waits_for_the_callers_eof() -> None:
    call = Call()
    call.connection.reader.feed_eof()
    reading = asyncio.create_task(call.rest())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(reading), 0.05)
    assert not reading.done()
    call.sent.put_nowait(Frame(data=b"late"))
    call.sent.put_nowait(EOF)
    assert [frame.WhichOneof("frame") for frame in await reading] == ["eof"]
    assert call.connection.written == b"late"


@pytest.mark.parametrize("broken", ["read", "write", "caller"])
async def test_what_breaks_ends_without_eof_and_resets(broken: str) -> None:
    call = Call()
    if broken == "read":
        call.connection.reader.set_exception(ConnectionResetError())
    elif broken == "write":

        async def fail() -> None:
            raise BrokenPipeError

        call.connection.drain = fail  # type: ignore[method-assign]
        call.sent.put_nowait(Frame(data=b"x"))
    else:
        call.sent.put_nowait(None)
    assert not [frame for frame in await call.rest() if frame.HasField("eof")]
    assert (call.connection.closed, call.connection.aborted) == (False, True)


async def test_a_call_whose_frames_are_cancelled_resets() -> None:
    async def cut() -> AsyncIterator[Frame]:
        yield Frame(data=b"half")
        raise asyncio.CancelledError

    connection = Connection()
    told = carry(
        cut(),
        connection.reader,
        connection,
        data=lambda data: Told(data=data),
        eof=lambda: Told(eof=tunnel_pb2.TunnelEof()),
        abort=connection.abort,
    )
    reading = asyncio.create_task(anext(told))
    await asyncio.wait((reading,), timeout=5)
    assert reading.cancelled()
    assert (connection.closed, connection.aborted) == (False, True)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([Frame(open=tunnel_pb2.ConnectOpen())], "FIELD_MALFORMED"),
        ([EOF, Frame(data=b"x")], "FIELD_MALFORMED"),
        ([EOF, EOF], "FIELD_MALFORMED"),
        ([Frame(data=b"x" * (MAX_FRAME_BYTES + 1))], "FIELD_OUT_OF_RANGE"),
    ],
)
async def test_frames_that_do_not_belong_there_are_refused(
    frames: list[Frame], reason: str
) -> None:
    call = Call()
    for frame in frames:
        call.sent.put_nowait(frame)
    with pytest.raises(Refusal) as found:
        await call.rest()
    assert found.value.reason == reason
    assert call.connection.aborted


async def test_a_slow_connection_holds_up_the_caller() -> None:
    call = Call()
    call.connection.full.clear()
    for _ in range(5):
        call.sent.put_nowait(Frame(data=b"x"))
    reading = asyncio.create_task(call.rest())
    await call.connection.wrote.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert call.connection.written == b"x"
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await call.told.aclose()
    assert call.connection.aborted
