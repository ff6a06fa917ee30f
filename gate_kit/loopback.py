"""Ports of this machine's loopback: connections to them, and sockets that listen on them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator

from gate_kit import errors

LOOPBACK = "127.0.0.1"
_LOOPBACK_6 = "::1"
_STREAM_BYTES = 1 << 17
"""Bytes of a connection that wait to be read; the peer is held up at twice that."""
_BACKLOG = 128


class LoopbackStream:
    """A TCP connection on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def abort(self) -> None:
        """End it at once, both ways."""
        self.writer.transport.abort()


class LoopbackListener:
    """A port of this machine that is listened on; what nobody takes waits in the backlog.

    Args:
        sockets: Bound to the port, and listening.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.port: int = sockets[0].getsockname()[1]
        self._sockets = sockets
        self._taken: asyncio.Queue[LoopbackStream | None] = asyncio.Queue(1)
        self._is_closed = False
        self._tasks = [asyncio.create_task(self._take(listening)) for listening in sockets]

    async def accepted(self) -> AsyncIterator[LoopbackStream]:
        """The connections, as they come; ends when it is closed."""
        while not self._is_closed:
            stream = await self._taken.get()
            if stream is None:
                return
            yield stream

    async def close(self) -> None:
        """Listen no more. Connections that were accepted go on."""
        if self._is_closed:
            return
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        while not self._taken.empty():
            stream = self._taken.get_nowait()
            if stream is not None:
                stream.abort()
        self._taken.put_nowait(None)

    async def _take(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                # Without a free descriptor it stays in the backlog until there is one.
                pause_s = 0.1 if error.errno in {errno.EMFILE, errno.ENFILE} else 0.0
                await asyncio.sleep(pause_s)
                continue
            stream: LoopbackStream | None = None
            try:
                reader, writer = await asyncio.open_connection(sock=connection, limit=_STREAM_BYTES)
                stream = LoopbackStream(reader, writer)
                await self._taken.put(stream)
            except BaseException:
                if stream is None:
                    connection.close()
                else:
                    stream.abort()
                raise


async def connect(node: str, loopback: str, port: int) -> LoopbackStream:
    """Connect to a port.

    Args:
        node: The node that this machine is, or plays; for the error.
        loopback: The address that plays the loopback of the node.
        port: The port.

    Raises:
        Refusal: TARGET_REFUSED.
    """
    try:
        reader, writer = await asyncio.open_connection(loopback, port, limit=_STREAM_BYTES)
    except OSError as error:
        raise errors.target_refused(node, port) from error
    return LoopbackStream(reader, writer)


def listen(node: str, loopback: str, port: int) -> LoopbackListener:
    """Listen on a port, by both kinds of addresses where there are both; 0 finds a free one.

    Args:
        node: The node that this machine is, or plays; for the error.
        loopback: The address that plays the loopback of the node.
        port: The port.

    Raises:
        Refusal: PORT_IN_USE.
    """
    wanted = [(socket.AF_INET, loopback)]
    if loopback == LOOPBACK:
        # Who dials "localhost" may try this one first; other addresses have no such twin.
        wanted.append((socket.AF_INET6, _LOOPBACK_6))
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for family, address in wanted:
            try:
                listening = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                continue  # no such family here
            undo.callback(listening.close)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            try:
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.bind((address, port or (sockets[0].getsockname()[1] if sockets else 0)))
                listening.listen(_BACKLOG)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and sockets:
                    continue
                raise errors.port_in_use(node or "the first node", port) from None
            sockets.append(listening)
        undo.pop_all()
    return LoopbackListener(sockets)
