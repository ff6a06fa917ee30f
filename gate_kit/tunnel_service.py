"""TunnelService: connections to ports of jobs, and from ports that jobs connect to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, Protocol, TypeVar

from gate_kit import errors
from gate_kit.latest import LatestWins
from gate_kit.tunnels import Reader, Writer, carry
from gate_kit.validation import Fields
from gate_kit.watches import heartbeat
from rpc_kit.interceptor import Context
from skyport.gate.v1 import job_pb2, tunnel_pb2, tunnel_pb2_grpc, types_pb2

_ACCEPT_WITHIN_S = 30.0
_WAITING = 128


class Stream(Protocol):
    """A TCP connection at a node.

    Its reader and writer raise OSError where the connection broke, and a Refusal where the way to
    the node did.
    """

    @property
    def reader(self) -> Reader:
        """What comes."""
        ...

    @property
    def writer(self) -> Writer:
        """What goes."""
        ...

    def abort(self) -> None:
        """End it at once, both ways."""
        ...


class Listener(Protocol):
    """A port of a node that is listened on."""

    def accepted(self) -> AsyncIterator[Stream]:
        """The connections, as they come; ends when the way to the node is lost."""
        ...

    async def close(self) -> None:
        """Listen no more. Connections that were accepted go on."""
        ...


class TunnelSite(Protocol):
    """What differs from gate to gate."""

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it; `what` names the call."""
        ...

    def check(self, ref: types_pb2.JobRef) -> None:
        """Raise unless the attempt may be asked for.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND, NODE_UNREACHABLE.
        """
        ...

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is at the site.

        Raises:
            Refusal: SITE_CHANGED, NODE_UNREACHABLE.
        """
        ...

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        """Whether the attempt has a tombstone.

        Raises:
            Refusal: SITE_CHANGED, NODE_UNREACHABLE.
        """
        ...

    async def connect(self, ref: types_pb2.JobRef, node: str, port: int) -> Stream:
        """Connect to a port of the loopback of a node of the attempt.

        Raises:
            Refusal: TARGET_REFUSED, NODE_UNREACHABLE.
        """
        ...

    async def listen(self, ref: types_pb2.JobRef, node: str, port: int) -> Listener:
        """Listen on a port of the loopback of a node of the attempt.

        Raises:
            Refusal: PORT_IN_USE, NODE_UNREACHABLE.
        """
        ...


@dataclasses.dataclass(eq=False, slots=True)
class _Incoming:
    """A connection that nobody has accepted yet."""

    stream: Stream
    expiry: asyncio.TimerHandle
    room: asyncio.Semaphore


class TunnelService(tunnel_pb2_grpc.TunnelServiceServicer):
    """Serves tunnels.

    Args:
        site: What is particular to the gate.
        incarnation: For heartbeats.
        heartbeat_s: Seconds of silence before one.
    """

    def __init__(self, site: TunnelSite, incarnation: str, heartbeat_s: float) -> None:
        self._site = site
        self._incarnation = incarnation
        self._heartbeat_s = heartbeat_s
        self._waiting: dict[str, _Incoming] = {}
        self._listeners = LatestWins()
        self._endings: set[asyncio.Task[None]] = set()

    async def Connect(
        self, request_iterator: AsyncIterator[tunnel_pb2.ConnectRequest], context: Context
    ) -> AsyncIterator[tunnel_pb2.ConnectResponse]:
        self._site.need(types_pb2.CAPABILITY_TUNNELS, "Connect")
        frames = aiter(request_iterator)
        opened = _opened(await anext(frames, None)).open
        self._check(opened.ref, opened.node, opened.port)
        # A port of a job that has ended may be another's by now.
        status = await self._site.status(opened.ref)
        if status is None:
            raise errors.job_not_found(opened.ref)
        if not _has_node(status):
            raise errors.job_not_running(opened.ref)
        node = _node(opened.ref, opened.node, status)
        stream = await self._site.connect(opened.ref, node, opened.port)
        carried = _carried(stream, frames, tunnel_pb2.ConnectResponse)
        with _aborted_unless_carried(stream):
            yield tunnel_pb2.ConnectResponse(opened=tunnel_pb2.ConnectOpened())
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    async def Listen(
        self, request: tunnel_pb2.ListenRequest, context: Context
    ) -> AsyncIterator[tunnel_pb2.ListenResponse]:
        self._site.need(types_pb2.CAPABILITY_REVERSE_TUNNELS, "Listen")
        ref = request.ref
        self._check(ref, request.node, request.port)
        status = await self._site.status(ref)
        is_over = status is not None and status.HasField("end")
        # It may come before the start; at a queue the nodes are not known then.
        has_node = bool(ref.nodes) or (status is not None and _has_node(status))
        if is_over or not has_node or await self._site.never_starts(ref):
            raise errors.job_not_running(ref)
        node = _node(ref, request.node, status)
        attempt = (ref.installation, ref.job_id, ref.attempt, ref.partition_id)
        async with self._listeners.hold(
            (*attempt, node, request.port), lambda: errors.replaced("Listen")
        ):
            listener = await self._site.listen(ref, node, request.port)
            told: asyncio.Queue[str | None] = asyncio.Queue()
            taking = asyncio.create_task(self._take(listener, told))
            try:
                yield tunnel_pb2.ListenResponse(listening=tunnel_pb2.Listening())
                while True:
                    answer = await self._next(told)
                    if answer is None:
                        raise errors.node_unreachable(
                            node, f"the link to {node} was lost, and with it port {request.port}"
                        )
                    yield answer
            finally:
                # Also where the call is cancelled again while it ends, its port has to be closed.
                ending = asyncio.create_task(self._end(listener, taking, told))
                self._endings.add(ending)
                ending.add_done_callback(self._endings.discard)
                await asyncio.shield(ending)

    async def Accept(
        self, request_iterator: AsyncIterator[tunnel_pb2.AcceptRequest], context: Context
    ) -> AsyncIterator[tunnel_pb2.AcceptResponse]:
        self._site.need(types_pb2.CAPABILITY_REVERSE_TUNNELS, "Accept")
        frames = aiter(request_iterator)
        opened = _opened(await anext(frames, None)).open
        stream = self._claim(opened.connection_id)
        if stream is None:
            raise errors.connection_not_found()
        carried = _carried(stream, frames, tunnel_pb2.AcceptResponse)
        with _aborted_unless_carried(stream):
            yield tunnel_pb2.AcceptResponse(opened=tunnel_pb2.AcceptOpened())
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    async def close(self) -> None:
        """Close what nobody accepted, and wait until the ports of calls that ended are closed."""
        for connection_id in list(self._waiting):
            self._drop(connection_id)
        await asyncio.gather(*self._endings, return_exceptions=True)

    def _check(self, ref: types_pb2.JobRef, node: str, port: int) -> None:
        self._site.check(ref)
        fields = Fields()
        fields.port("port", port)
        if node and ref.nodes and node not in ref.nodes:
            fields.wrong("node", f"is {node}, which is not a node of the job")
        fields.done()

    async def _take(self, listener: Listener, told: asyncio.Queue[str | None]) -> None:
        """Take connections; beyond a number that nobody accepts, the rest wait where they are."""
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(_WAITING)
        streams = aiter(listener.accepted())
        while True:
            await room.acquire()
            stream = await anext(streams, None)
            if stream is None:
                told.put_nowait(None)
                return
            connection_id = secrets.token_hex(16)
            expiry = loop.call_later(_ACCEPT_WITHIN_S, self._drop, connection_id)
            self._waiting[connection_id] = _Incoming(stream, expiry, room)
            told.put_nowait(connection_id)

    async def _end(
        self, listener: Listener, taking: asyncio.Task[None], told: asyncio.Queue[str | None]
    ) -> None:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await listener.close()
        while not told.empty():
            self._drop(told.get_nowait() or "")

    def _claim(self, connection_id: str) -> Stream | None:
        """The connection with this id, which works once."""
        incoming = self._waiting.pop(connection_id, None)
        if incoming is None:
            return None
        incoming.expiry.cancel()
        incoming.room.release()
        return incoming.stream

    def _drop(self, connection_id: str) -> None:
        stream = self._claim(connection_id)
        if stream is not None:
            stream.abort()

    async def _next(self, told: asyncio.Queue[str | None]) -> tunnel_pb2.ListenResponse | None:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                connection_id = await told.get()
        except TimeoutError:
            return tunnel_pb2.ListenResponse(heartbeat=heartbeat(self._incarnation))
        if connection_id is None:
            return None
        return tunnel_pb2.ListenResponse(
            connection=tunnel_pb2.IncomingConnection(connection_id=connection_id)
        )


R = TypeVar("R", tunnel_pb2.ConnectResponse, tunnel_pb2.AcceptResponse)


def _carried(
    stream: Stream, frames: AsyncIterator[Any], response: Callable[..., R]
) -> AsyncGenerator[R, None]:
    return carry(
        frames,
        stream.reader,
        stream.writer,
        data=lambda data: response(data=data),
        eof=lambda: response(eof=tunnel_pb2.TunnelEof()),
        abort=stream.abort,
    )


@contextlib.contextmanager
def _aborted_unless_carried(stream: Stream) -> Iterator[None]:
    """End the connection of a call that is cancelled before its bytes are carried."""
    try:
        yield
    except BaseException:
        stream.abort()
        raise


F = TypeVar("F", tunnel_pb2.ConnectRequest, tunnel_pb2.AcceptRequest)


def _opened(first: F | None) -> F:
    """The first frame, which has to open the connection."""
    if first is None or first.WhichOneof("frame") != "open":
        raise errors.invalid("open has to come first", field="open", reason="FIELD_REQUIRED")
    return first


def _nodes(status: job_pb2.JobStatus) -> list[str]:
    return list(status.ref.nodes) or [each.node for each in status.allocations]


def _has_node(status: job_pb2.JobStatus) -> bool:
    """Whether the attempt has nodes, and has not ended."""
    return bool(_nodes(status)) and not status.HasField("end")


def _node(ref: types_pb2.JobRef, node: str, status: job_pb2.JobStatus | None) -> str:
    """The node that is meant, one of the attempt's; the first one if none is named.

    Raises:
        Refusal: FIELD_MALFORMED.
    """
    nodes = list(ref.nodes) or (_nodes(status) if status is not None else [])
    if node and nodes and node not in nodes:
        fields = Fields()
        fields.wrong("node", f"is {node}, which is not a node of the job")
        fields.done()
    return node or (nodes[0] if nodes else "")
