"""Carries the bytes of one TCP connection over a stream of frames, both ways, each with its end.

A gRPC server can't close its half alone, so each side says eof in a frame. Nothing is queued beyond
what the transports themselves hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from gate_kit.errors import invalid

FRAME_BYTES = 256 * 1024
"""Most bytes of one frame that we send; larger ones gain little and wait longer."""

MAX_FRAME_BYTES = 1 << 20
"""Most bytes of one frame that we take."""


class Reader(Protocol):
    """What asyncio.StreamReader and an SSH channel have in common."""

    async def read(self, n: int = ..., /) -> bytes: ...


class Writer(Protocol):
    """What asyncio.StreamWriter and an SSH channel have in common."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...


F = TypeVar("F")


async def carry(
    frames: AsyncIterator[Any],
    reader: Reader,
    writer: Writer,
    *,
    data: Callable[[bytes], F],
    eof: Callable[[], F],
    abort: Callable[[], None],
) -> AsyncGenerator[F, None]:
    """The frames to send; meanwhile those of `frames` are written to the connection.

    It ends after both sides have said eof, and without our eof when the connection breaks (the
    reader or the writer raises OSError): nobody takes such bytes for complete.

    Args:
        frames: From the caller, after its open frame.
        reader: The connection's bytes.
        writer: The connection's other way; closed at a good end.
        data: Makes a frame of data.
        eof: Makes the last frame.
        abort: Resets the connection, so that a read that waits ends; called at any other end.

    Raises:
        Refusal: INVALID_ARGUMENT for a frame that does not belong there.
    """
    caller = _Caller(frames, writer)
    writing = asyncio.create_task(caller.write_all())

    # Who reads is told by the connection's end: to wait for both costs more than all the rest.
    def end(done: asyncio.Task[None]) -> None:
        # A call that was cut ends the frames by a cancel of their own.
        if done.cancelled() or done.exception():
            abort()

    writing.add_done_callback(end)
    is_complete = False
    try:
        while received := await _read(reader, writing):
            yield data(received)
        yield eof()
        await _first(asyncio.ensure_future(caller.said_eof.wait()), writing)
        is_complete = True
    except (OSError, EOFError):
        return
    finally:
        writing.remove_done_callback(end)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        if is_complete:
            writer.close()
        else:
            abort()


async def _read(reader: Reader, writing: asyncio.Task[None]) -> bytes:
    """What comes next; raises what the writing broke with, if that came first."""
    try:
        received = await reader.read(FRAME_BYTES)
    except OSError:
        if writing.done():
            writing.result()
        raise
    if writing.done():
        writing.result()
    return received


T = TypeVar("T")


async def _first(wanted: asyncio.Future[T], writing: asyncio.Task[None]) -> T:
    """The result of `wanted`; or what the writing broke with, if that comes first."""
    try:
        while not wanted.done():
            if writing.done():
                writing.result()
                await asyncio.wait((wanted,))
            else:
                await asyncio.wait((wanted, writing), return_when=asyncio.FIRST_COMPLETED)
        return wanted.result()
    finally:
        wanted.cancel()


class _Caller:
    """The caller's half."""

    def __init__(self, frames: AsyncIterator[Any], writer: Writer) -> None:
        self.said_eof = asyncio.Event()
        self._frames = frames
        self._writer = writer

    async def write_all(self) -> None:
        """Write what comes.

        Raises:
            Refusal: INVALID_ARGUMENT.
            EOFError: The caller ended without saying so.
        """
        async for frame in self._frames:
            kind = frame.WhichOneof("frame")
            if kind == "open" or self.said_eof.is_set():
                raise invalid(f"{kind} may not come any more", field=kind or "frame")
            if kind == "data":
                if len(frame.data) > MAX_FRAME_BYTES:
                    raise invalid(
                        "a frame has more than 1 MiB", field="data", reason="FIELD_OUT_OF_RANGE"
                    )
                self._writer.write(frame.data)
                await self._writer.drain()
            elif kind == "eof":
                self._writer.write_eof()
                self.said_eof.set()
        if not self.said_eof.is_set():
            raise EOFError
