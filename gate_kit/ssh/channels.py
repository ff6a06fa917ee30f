"""Commands, connections and listeners on one SSH connection, as `transport` tells of them.

asyncssh ends a channel alike whether the other side closed it or the connection went. Here the
latter is always a LinkLost: who reads half a file must not take it for a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncssh

from gate_kit.ssh.flow import SteadyStream
from gate_kit.ssh.tail import Tail
from gate_kit.ssh.transport import LinkLost, Reader, Writer

_WAITING = 64
"""Connections to a listener that nobody has taken yet. More wait on the host, unconfirmed: an
unread one may hold 3 MiB here."""
_CLOSED_WITHIN_S = 15.0
_CHUNK_BYTES = 1 << 16
_LINE_BYTES = 1 << 22
"""Of one line: what a host says is not held without bounds."""


class _Reader:
    """A stream of a channel."""

    def __init__(self, reader: asyncssh.SSHReader[bytes], is_cut_off: Callable[[], bool]) -> None:
        self._reader = reader
        self._is_cut_off = is_cut_off
        self._rest = b""
        """What came with a line, and has not been read."""

    async def read(self, n: int) -> bytes:
        if self._rest:
            data, self._rest = self._rest[:n], self._rest[n:]
            return data
        try:
            data = await self._reader.read(n)
        except (asyncssh.Error, OSError) as error:
            raise _lost(error) from error
        if not data and n and self._is_cut_off():
            raise LinkLost("the link was closed")
        return data

    async def readline(self) -> bytes:
        # The one of asyncssh makes many steps for each line, and most come several at a time.
        begin = 0
        while not (end := self._rest.find(b"\n", begin) + 1):
            begin = len(self._rest)
            if begin > _LINE_BYTES:
                raise LinkLost("a line has no end")
            try:
                data = await self._reader.read(_CHUNK_BYTES)
            except (asyncssh.Error, OSError) as error:
                raise _lost(error) from error
            if not data:
                if self._is_cut_off():
                    raise LinkLost("the link was closed")
                end = begin
                break
            self._rest += data
        line, self._rest = self._rest[:end], self._rest[end:]
        return line

    async def readexactly(self, n: int) -> bytes:
        begin, self._rest = self._rest[:n], self._rest[n:]
        if len(begin) == n:
            return begin
        try:
            return begin + await self._reader.readexactly(n - len(begin))
        except (asyncssh.Error, OSError) as error:
            raise _lost(error) from error
        except asyncio.IncompleteReadError as error:
            if self._is_cut_off():
                raise LinkLost("the link was closed") from error
            raise


class _Writer:
    """The other direction."""

    def __init__(self, writer: asyncssh.SSHWriter[bytes], is_cut_off: Callable[[], bool]) -> None:
        self._writer = writer
        self._is_cut_off = is_cut_off
        self._refused: Exception | None = None

    def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except (asyncssh.Error, OSError) as error:
            self._refused = error  # told by `drain`, as sockets and pipes do

    async def drain(self) -> None:
        if self._refused is not None:
            raise self._broken(self._refused) from self._refused
        try:
            await self._writer.drain()
        except (asyncssh.Error, OSError) as error:
            raise self._broken(error) from error
        # asyncssh raises nothing where all that was written had been sent before the end.
        if self._is_cut_off():
            raise LinkLost("the link was closed")

    def write_eof(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def _broken(self, error: Exception) -> ConnectionError:
        if isinstance(error, ConnectionError) and not self._is_cut_off():
            return error
        return _lost(error)


def _lost(error: Exception) -> LinkLost:
    return LinkLost(str(error) or "the link was closed")


class SshProcess:
    """A command that runs on a host."""

    def __init__(
        self, process: asyncssh.SSHClientProcess[bytes], connection: asyncssh.SSHClientConnection
    ) -> None:
        self.stdin: Writer = _Writer(process.stdin, self._is_cut_off)
        self.stdout: Reader = _Reader(process.stdout, self._is_cut_off)
        self._process = process
        self._connection = connection
        self._tail = Tail(_Reader(process.stderr, self._is_cut_off))

    def _is_cut_off(self) -> bool:
        """Whether the connection went before the command's end was told."""
        return self._connection.is_closed() and self._process.exit_status is None

    @property
    def stderr(self) -> bytes:
        """The end of what it wrote to its standard error."""
        return self._tail.data

    async def wait(self) -> int | None:
        """Its exit code; None when a signal ended it, or the link was lost."""
        await self._process.wait_closed()
        await self._tail.ended(within_s=0.5)
        code = self._process.exit_status
        return code if code is not None and code >= 0 else None

    def close(self) -> None:
        """Let go of it: its streams end, and its process group gets TERM."""
        self._tail.close()
        if self._process.exit_status is None and not self._process.is_closing():
            # sshd counts the session until the command has ended, and not all of them notice that
            # nobody is there any more.
            with contextlib.suppress(asyncssh.Error, OSError):
                self._process.terminate()
        self._process.channel.abort()


class SshStream:
    """A TCP connection at a host.

    sshd tells a connection that was reset as one that has ended, and a channel that is aborted
    becomes a connection that has ended: SSH has no word for a reset.
    """

    def __init__(
        self,
        reader: asyncssh.SSHReader[bytes],
        writer: asyncssh.SSHWriter[bytes],
        connection: asyncssh.SSHClientConnection,
    ) -> None:
        self.reader: Reader = _Reader(reader, connection.is_closed)
        self.writer: Writer = _Writer(writer, connection.is_closed)
        self._channel = writer.channel

    def abort(self) -> None:
        """End it at once, both ways."""
        self._channel.abort()

    async def wait_closed(self) -> None:
        """Wait until both ways have ended."""
        await self._channel.wait_closed()


class SshListener:
    """A port of a host's loopback that is listened on.

    Args:
        connection: By which it listens.
        on_stream: Called with each connection that comes.
    """

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        on_stream: Callable[[SshStream], None],
    ) -> None:
        self.listeners: list[asyncssh.SSHListener] = []
        self._connection = connection
        self._on_stream = on_stream
        self._streams: asyncio.Queue[SshStream | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_WAITING)
        self._is_closed = False

    @property
    def port(self) -> int:
        """The port."""
        return self.listeners[0].get_port()

    async def session(self, host: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        """For asyncssh: takes the next connection of `host` and `port` there, when there is room.

        Raises:
            asyncssh.ChannelOpenError: It listens no more.
        """
        await self._room.acquire()
        if self._is_closed:
            self._room.release()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "nobody listens any more")
        return SteadyStream(self._take)

    def _take(self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        stream = SshStream(reader, writer, self._connection)
        self._on_stream(stream)
        if self._is_closed:
            stream.abort()
        else:
            self._streams.put_nowait(stream)

    async def accepted(self) -> AsyncIterator[SshStream]:
        """The connections, as they come; ends when it is closed or the link is lost."""
        while not self._is_closed:
            stream = await self._streams.get()
            if stream is None:
                return
            self._room.release()
            yield stream

    async def wait_closed(self) -> None:
        """Wait until it listens no more; what nobody took is aborted then."""
        for listener in self.listeners:
            await listener.wait_closed()
        self._end()

    async def close(self) -> None:
        """Listen no more. Connections that were accepted go on."""
        for listener in self.listeners:
            listener.close()
        # Who listens again on the same port must not meet this one.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSED_WITHIN_S):
                for listener in self.listeners:
                    await listener.wait_closed()
        self._end()

    def _end(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        while not self._streams.empty():
            stream = self._streams.get_nowait()
            if stream is not None:
                stream.abort()
                self._room.release()
        # Those that wait for room are refused, one after another.
        self._room.release()
        self._streams.put_nowait(None)
