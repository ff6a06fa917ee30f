"""TunnelService: connections to ports of jobs, and from ports that jobs connect to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator

from gate_kit import Context, Fields, errors
from gate_kit.latest import LatestWins
from gate_kit.tunnels import carry
from gates.fake_gate.admission import Admission
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.site import AttemptKey
from skyport.gate.v1 import job_pb2, tunnel_pb2, tunnel_pb2_grpc, types_pb2

_LOOPBACK = "127.0.0.1"
_ACCEPT_WITHIN_S = 30.0
_WAITING = 1_000


@dataclasses.dataclass(eq=False, slots=True)
class _Incoming:
    """A connection that nobody has accepted yet."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    expiry: asyncio.TimerHandle


class TunnelService(tunnel_pb2_grpc.TunnelServiceServicer):
    """Serves tunnels. Every node is this machine's loopback.

    Args:
        admission: Checks who asks.
        jobs: Tells whether a job runs.
        incarnation: For heartbeats.
        heartbeat_s: Seconds of silence before one.
    """

    def __init__(
        self, admission: Admission, jobs: Jobs, incarnation: str, heartbeat_s: float
    ) -> None:
        self._admission = admission
        self._jobs = jobs
        self._incarnation = incarnation
        self._heartbeat_s = heartbeat_s
        self._waiting: dict[str, _Incoming] = {}
        self._listeners = LatestWins()

    async def Connect(
        self, request_iterator: AsyncIterator[tunnel_pb2.ConnectRequest], context: Context
    ) -> AsyncIterator[tunnel_pb2.ConnectResponse]:
        self._admission.need(types_pb2.CAPABILITY_TUNNELS, "Connect")
        frames = aiter(request_iterator)
        first = await anext(frames, None)
        if first is None or first.WhichOneof("frame") != "open":
            raise errors.invalid("open has to come first", field="open", reason="FIELD_REQUIRED")
        node = self._target(first.open.ref, first.open.node, first.open.port)
        # A port of a job that has ended may be another's by now.
        status = self._jobs.status(self._jobs.find(first.open.ref))
        if status is None or status.state != job_pb2.JOB_STATE_RUNNING:
            raise errors.target_refused(node, first.open.port)
        try:
            reader, writer = await asyncio.open_connection(_LOOPBACK, first.open.port)
        except OSError:
            raise errors.target_refused(node, first.open.port) from None
        yield tunnel_pb2.ConnectResponse(opened=tunnel_pb2.ConnectOpened())
        with _broken(node):
            carried = carry(
                frames,
                reader,
                writer,
                data=lambda data: tunnel_pb2.ConnectResponse(data=data),
                eof=lambda: tunnel_pb2.ConnectResponse(eof=tunnel_pb2.TunnelEof()),
            )
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    async def Listen(
        self, request: tunnel_pb2.ListenRequest, context: Context
    ) -> AsyncIterator[tunnel_pb2.ListenResponse]:
        self._admission.need(types_pb2.CAPABILITY_REVERSE_TUNNELS, "Listen")
        node = self._target(request.ref, request.node, request.port)
        self._jobs.find(request.ref)
        key = (AttemptKey.of(request.ref), node, request.port)
        came: asyncio.Queue[str] = asyncio.Queue(_WAITING)

        def taken_over() -> errors.Refusal:
            return errors.busy("another Listen for the same port has come; it goes on there")

        async with self._listeners.hold(key, taken_over):
            try:
                server = await asyncio.start_server(
                    lambda reader, writer: self._arrived(reader, writer, came),
                    _LOOPBACK,
                    request.port,
                )
            except OSError as error:
                raise errors.busy(
                    f"port {request.port} of {node} is in use: {error.strerror}", retry_after_s=1.0
                ) from None
            try:
                yield tunnel_pb2.ListenResponse(listening=tunnel_pb2.Listening())
                while True:
                    yield await self._next(came)
            finally:
                server.close()
                while not came.empty():
                    self._drop(came.get_nowait())

    async def Accept(
        self, request_iterator: AsyncIterator[tunnel_pb2.AcceptRequest], context: Context
    ) -> AsyncIterator[tunnel_pb2.AcceptResponse]:
        self._admission.need(types_pb2.CAPABILITY_REVERSE_TUNNELS, "Accept")
        frames = aiter(request_iterator)
        first = await anext(frames, None)
        if first is None or first.WhichOneof("frame") != "open":
            raise errors.invalid("open has to come first", field="open", reason="FIELD_REQUIRED")
        incoming = self._waiting.pop(first.open.connection_id, None)
        if incoming is None:
            raise errors.connection_not_found()
        incoming.expiry.cancel()
        yield tunnel_pb2.AcceptResponse(opened=tunnel_pb2.AcceptOpened())
        with _broken("the job"):
            carried = carry(
                frames,
                incoming.reader,
                incoming.writer,
                data=lambda data: tunnel_pb2.AcceptResponse(data=data),
                eof=lambda: tunnel_pb2.AcceptResponse(eof=tunnel_pb2.TunnelEof()),
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
        return node or (ref.nodes[0] if ref.nodes else "the first node")

    def _arrived(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, came: asyncio.Queue[str]
    ) -> None:
        connection_id = secrets.token_hex(16)
        if came.full():
            writer.close()
            return
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(_ACCEPT_WITHIN_S, self._drop, connection_id)
        self._waiting[connection_id] = _Incoming(reader, writer, expiry)
        came.put_nowait(connection_id)

    def _drop(self, connection_id: str) -> None:
        incoming = self._waiting.pop(connection_id, None)
        if incoming is not None:
            incoming.expiry.cancel()
            incoming.writer.close()

    async def _next(self, came: asyncio.Queue[str]) -> tunnel_pb2.ListenResponse:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                connection_id = await came.get()
        except TimeoutError:
            beat = types_pb2.Heartbeat(incarnation=self._incarnation)
            beat.time.FromNanoseconds(time.time_ns())
            return tunnel_pb2.ListenResponse(heartbeat=beat)
        return tunnel_pb2.ListenResponse(
            connection=tunnel_pb2.IncomingConnection(connection_id=connection_id)
        )


@contextlib.contextmanager
def _broken(where: str) -> AsyncIterator[None]:  # type: ignore[misc]
    """Tell a connection that broke as the contract has it."""
    try:
        yield
    except OSError as error:
        raise errors.site_unreachable(f"the connection to {where} broke: {error}") from None
