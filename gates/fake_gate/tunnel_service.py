"""TunnelService: connections to ports of jobs, and from ports that jobs connect to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from gate_kit import Context, Fields, LatestWins, errors
from gate_kit.tunnels import carry
from gates.fake_gate.admission import Admission
from gates.fake_gate.config import LOOPBACK
from gates.fake_gate.evidence import Evidence
from skyport.gate.v1 import job_pb2, tunnel_pb2, tunnel_pb2_grpc, types_pb2

_LOOPBACK_6 = "::1"
_ACCEPT_WITHIN_S = 30.0
_WAITING = 128


@dataclasses.dataclass(eq=False, slots=True)
class _Incoming:
    """A connection that nobody has accepted yet."""

    connection: socket.socket
    expiry: asyncio.TimerHandle
    room: asyncio.Semaphore


class TunnelService(tunnel_pb2_grpc.TunnelServiceServicer):
    """Serves tunnels. Every node is an address of this machine's loopback.

    Args:
        admission: Checks who asks.
        evidence: Tells whether a job runs.
        incarnation: For heartbeats.
        heartbeat_s: Seconds of silence before one.
        loopback: The address that plays the nodes' own loopback.
    """

    def __init__(
        self,
        admission: Admission,
        evidence: Evidence,
        incarnation: str,
        heartbeat_s: float,
        loopback: str,
    ) -> None:
        self._loopback = loopback
        self._admission = admission
        self._evidence = evidence
        self._incarnation = incarnation
        self._heartbeat_s = heartbeat_s
        self._waiting: dict[str, _Incoming] = {}
        self._listeners = LatestWins()

    async def Connect(
        self, request_iterator: AsyncIterator[tunnel_pb2.ConnectRequest], context: Context
    ) -> AsyncIterator[tunnel_pb2.ConnectResponse]:
        self._admission.need(types_pb2.CAPABILITY_TUNNELS, "Connect")
        frames = aiter(request_iterator)
        opened = _opened(await anext(frames, None)).open
        node = self._target(opened.ref, opened.node, opened.port)
        # A port of a job that has ended may be another's by now.
        status = self._evidence.status(self._evidence.find(opened.ref))
        if status is None or not _has_node(status):
            raise errors.job_not_running(opened.ref)
        try:
            reader, writer = await asyncio.open_connection(self._loopback, opened.port)
        except OSError:
            raise errors.target_refused(node, opened.port) from None
        with _aborted_unless_carried(writer):
            yield tunnel_pb2.ConnectResponse(opened=tunnel_pb2.ConnectOpened())
            carried = carry(
                frames,
                reader,
                writer,
                data=lambda data: tunnel_pb2.ConnectResponse(data=data),
                eof=lambda: tunnel_pb2.ConnectResponse(eof=tunnel_pb2.TunnelEof()),
                abort=writer.transport.abort,
            )
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    async def Listen(
        self, request: tunnel_pb2.ListenRequest, context: Context
    ) -> AsyncIterator[tunnel_pb2.ListenResponse]:
        self._admission.need(types_pb2.CAPABILITY_REVERSE_TUNNELS, "Listen")
        node = self._target(request.ref, request.node, request.port)
        attempt = self._evidence.locate(request.ref)
        status = self._evidence.status(attempt)
        is_over = self._evidence.site.is_buried(attempt.key) or (status and status.HasField("end"))
        # It may come before the start; at a queue the nodes are not known then.
        if is_over or not (request.ref.nodes or (status and _has_node(status))):
            raise errors.job_not_running(request.ref)
        key = (attempt.key, node, request.port)
        told: asyncio.Queue[str] = asyncio.Queue()
        async with self._listeners.hold(key, lambda: errors.replaced("Listen")):
            sockets = _listen(node, request.port, self._loopback)
            room = asyncio.Semaphore(_WAITING)
            accepting = [
                asyncio.create_task(self._take(listening, room, told)) for listening in sockets
            ]
            try:
                yield tunnel_pb2.ListenResponse(listening=tunnel_pb2.Listening())
                while True:
                    yield await self._next(told)
            finally:
                for task in accepting:
                    task.cancel()
                await asyncio.gather(*accepting, return_exceptions=True)
                for listening in sockets:
                    listening.close()
                while not told.empty():
                    self._drop(told.get_nowait())

    async def Accept(
        self, request_iterator: AsyncIterator[tunnel_pb2.AcceptRequest], context: Context
    ) -> AsyncIterator[tunnel_pb2.AcceptResponse]:
        self._admission.need(types_pb2.CAPABILITY_REVERSE_TUNNELS, "Accept")
        frames = aiter(request_iterator)
        opened = _opened(await anext(frames, None)).open
        connection = self._claim(opened.connection_id)
        if connection is None:
            raise errors.connection_not_found()
        reader, writer = await asyncio.open_connection(sock=connection)
        with _aborted_unless_carried(writer):
            yield tunnel_pb2.AcceptResponse(opened=tunnel_pb2.AcceptOpened())
            carried = carry(
                frames,
                reader,
                writer,
                data=lambda data: tunnel_pb2.AcceptResponse(data=data),
                eof=lambda: tunnel_pb2.AcceptResponse(eof=tunnel_pb2.TunnelEof()),
                abort=writer.transport.abort,
            )
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    def close(self) -> None:
        """Close what nobody accepted."""
        for connection_id in list(self._waiting):
            self._drop(connection_id)

    def _target(self, ref: types_pb2.JobRef, node: str, port: int) -> str:
        self._admission.ref(ref)
        fields = Fields()
        fields.port("port", port)
        fields.done()
        self._admission.node(ref, node)
        return node or (ref.nodes[0] if ref.nodes else "")

    async def _take(
        self, listening: socket.socket, room: asyncio.Semaphore, told: asyncio.Queue[str]
    ) -> None:
        """Take connections; beyond a number that nobody accepts, the rest wait in the backlog."""
        loop = asyncio.get_running_loop()
        while True:
            await room.acquire()
            connection, _ = await loop.sock_accept(listening)
            connection_id = secrets.token_hex(16)
            expiry = loop.call_later(_ACCEPT_WITHIN_S, self._drop, connection_id)
            self._waiting[connection_id] = _Incoming(connection, expiry, room)
            told.put_nowait(connection_id)

    def _claim(self, connection_id: str) -> socket.socket | None:
        """The connection with this id, which works once."""
        incoming = self._waiting.pop(connection_id, None)
        if incoming is None:
            return None
        incoming.expiry.cancel()
        incoming.room.release()
        return incoming.connection

    def _drop(self, connection_id: str) -> None:
        connection = self._claim(connection_id)
        if connection is not None:
            connection.close()

    async def _next(self, told: asyncio.Queue[str]) -> tunnel_pb2.ListenResponse:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                connection_id = await told.get()
        except TimeoutError:
            beat = types_pb2.Heartbeat(incarnation=self._incarnation)
            beat.time.FromNanoseconds(time.time_ns())
            return tunnel_pb2.ListenResponse(heartbeat=beat)
        return tunnel_pb2.ListenResponse(
            connection=tunnel_pb2.IncomingConnection(connection_id=connection_id)
        )


@contextlib.contextmanager
def _aborted_unless_carried(writer: asyncio.StreamWriter) -> Iterator[None]:
    """End the connection of a call that is cancelled before its bytes are carried."""
    try:
        yield
    except BaseException:
        writer.transport.abort()
        raise


F = TypeVar("F", tunnel_pb2.ConnectRequest, tunnel_pb2.AcceptRequest)


def _opened(first: F | None) -> F:
    """The first frame, which has to open the connection."""
    if first is None or first.WhichOneof("frame") != "open":
        raise errors.invalid("open has to come first", field="open", reason="FIELD_REQUIRED")
    return first


def _has_node(status: job_pb2.JobStatus) -> bool:
    """Whether the attempt has nodes, and has not ended."""
    return bool(status.ref.nodes or status.allocations) and not status.HasField("end")


def _listen(node: str, port: int, loopback: str) -> list[socket.socket]:
    """Sockets on the port of the loopback, of both kinds where there are both.

    Raises:
        Refusal: PORT_IN_USE.
    """
    sockets: list[socket.socket] = []
    wanted = [(socket.AF_INET, loopback)]
    if loopback == LOOPBACK:
        # Who dials "localhost" may try this one first; other addresses have no such twin.
        wanted.append((socket.AF_INET6, _LOOPBACK_6))
    for family, address in wanted:
        try:
            listening = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # no such family here
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        try:
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((address, port))
            listening.listen()
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRNOTAVAIL and sockets:
                continue
            for each in sockets:
                each.close()
            raise errors.port_in_use(node or "the first node", port) from None
        sockets.append(listening)
    return sockets
