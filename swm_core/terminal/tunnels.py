"""TunnelService: connections to and from running jobs, for terminals on any machine."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from rpc_kit.errors import Refusal, aborted, invalid, not_found, precondition, unavailable
from rpc_kit.interceptor import Context as CallContext
from skyport.terminal.v1 import tunnel_pb2, tunnel_pb2_grpc, types_pb2
from swm_core.domain.job import Job
from swm_core.domain.states import JobState
from swm_core.gateways import tunnels
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.ports import NoSuchPort, PortForwards, in_ports, ports_at
from swm_core.security.identity import current_caller
from swm_core.terminal import convert
from swm_core.terminal.access import Access

_HEARTBEAT_S = 15.0
_UNACCEPTED_S = 30.0
_WAITING_CONNECTIONS = 100


class TunnelService(tunnel_pb2_grpc.TunnelServiceServicer):
    """Tunnels of the callers' jobs."""

    def __init__(self, context: Context, forwards: PortForwards, access: Access) -> None:
        self._context = context
        self._forwards = forwards
        self._access = access
        # Connections that a Listen told and nobody has accepted yet: their gate, id and owner.
        self._offered: dict[str, tuple[Gate, str, str]] = {}

    async def Connect(
        self, request_iterator: AsyncIterator[tunnel_pb2.ConnectRequest], context: CallContext
    ) -> AsyncIterator[tunnel_pb2.ConnectResponse]:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("frame") != "open":
            raise invalid("the first frame must be open", field="open", reason="FIELD_REQUIRED")
        job, gate = self._running(first.open.job_id)
        port = _port(job, first.open)
        try:
            stream = await self._forwards.connect(job.job_id, gate, first.open.node, port)
        except (GateError, NoSuchPort, ConnectionError, TimeoutError) as error:
            raise _refused(error) from error
        carried = _carry(request_iterator, stream, tunnel_pb2.ConnectResponse)
        # A call may be cut at any yield, the first one too.
        with contextlib.closing(stream):
            yield tunnel_pb2.ConnectResponse(opened=tunnel_pb2.ConnectOpened())
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    async def Listen(
        self, request: tunnel_pb2.ListenRequest, context: CallContext
    ) -> AsyncIterator[tunnel_pb2.ListenResponse]:
        job = self._access.job(request.job_id)
        if job.state.terminal:
            raise _not_running(job)
        waiting: asyncio.Queue[str] = asyncio.Queue(_WAITING_CONNECTIONS)

        async def take_over(gate: Gate, gate_connection: str) -> None:
            offered = secrets.token_urlsafe(18)
            self._offered[offered] = (gate, gate_connection, job.owner)
            asyncio.get_running_loop().call_later(_UNACCEPTED_S, self._offered.pop, offered, None)
            # Behind so many others nobody would accept it in time; the job has no room for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNACCEPTED_S):
                    await waiting.put(offered)

        try:
            with self._forwards.taking_over(job, request.port, take_over) as replaced:
                yield tunnel_pb2.ListenResponse(listening=tunnel_pb2.Listening())
                while self._context.jobs.get(job.job_id) is not None:
                    offered = await _next(waiting, replaced)
                    if offered is None:
                        beat = types_pb2.Heartbeat(time=convert.timestamp(time.time()))
                        yield tunnel_pb2.ListenResponse(heartbeat=beat)
                    else:
                        yield tunnel_pb2.ListenResponse(
                            connection=tunnel_pb2.IncomingConnection(connection_id=offered)
                        )
        except NoSuchPort as error:
            raise precondition("PORT_NOT_FOUND", str(error)) from None

    async def Accept(
        self, request_iterator: AsyncIterator[tunnel_pb2.AcceptRequest], context: CallContext
    ) -> AsyncIterator[tunnel_pb2.AcceptResponse]:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("frame") != "open":
            raise invalid("the first frame must be open", field="open", reason="FIELD_REQUIRED")
        offered = first.open.connection_id
        found = self._offered.get(offered)
        if found is None or not current_caller().may_see(found[2]):
            raise not_found(
                "CONNECTION_NOT_FOUND", "there is no such connection, or somebody has taken it"
            )
        del self._offered[offered]
        gate, gate_connection, _ = found
        try:
            stream = await tunnels.accept(gate, gate_connection)
        except (GateError, ConnectionError, TimeoutError) as error:
            raise _refused(error) from error
        carried = _carry(request_iterator, stream, tunnel_pb2.AcceptResponse)
        # A call may be cut at any yield, the first one too.
        with contextlib.closing(stream):
            yield tunnel_pb2.AcceptResponse(opened=tunnel_pb2.AcceptOpened())
            async with contextlib.aclosing(carried):
                async for frame in carried:
                    yield frame

    def _running(self, job_id: str) -> tuple[Job, Gate]:
        job = self._access.job(job_id)
        gate = self._context.gates.get(job.site)
        if job.state is not JobState.RUNNING or gate is None:
            raise _not_running(job)
        return job, gate


def _not_running(job: Job) -> Refusal:
    return precondition(
        "JOB_NOT_RUNNING",
        f"job {job.job_id} is {job.state}; ports can be reached while it runs",
        job_id=job.job_id,
        state=job.state,
    )


async def _next(waiting: asyncio.Queue[str], replaced: asyncio.Event) -> str | None:
    """The next connection; None when none came for so long that a heartbeat is due.

    Raises:
        Refusal: REPLACED.
    """
    coming = asyncio.create_task(waiting.get())
    gone = asyncio.create_task(replaced.wait())
    try:
        await asyncio.wait(
            (coming, gone), timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if gone.done():
            raise aborted("REPLACED", "another terminal has taken the port over")
        return coming.result() if coming.done() else None
    finally:
        coming.cancel()
        gone.cancel()


def _port(job: Job, opening: tunnel_pb2.ConnectOpen) -> int:
    if opening.port and opening.port_name:
        raise invalid("both port and port_name are given; send one of them", field="open.port")
    if opening.port_name:
        own = set(in_ports(job, opening.node))
        given = {name: port for name, port in ports_at(job, opening.node).items() if port in own}
        if opening.port_name not in given:
            raise precondition(
                "PORT_NOT_FOUND",
                f"job {job.job_id} has no port named {opening.port_name}; it has: "
                + (", ".join(given) or "none"),
            )
        return given[opening.port_name]
    if not 1 <= opening.port <= 65_535:
        raise invalid(
            f"port {opening.port} is none; give 1 to 65535, or a port_name",
            field="open.port",
            reason="FIELD_OUT_OF_RANGE" if opening.port else "FIELD_REQUIRED",
        )
    # Only what the script asked for: on a shared node, other ports are other people's.
    if opening.port not in in_ports(job, opening.node):
        has = ", ".join(map(str, in_ports(job, opening.node))) or "none"
        raise precondition(
            "PORT_NOT_FOUND",
            f"job {job.job_id} has no IN port {opening.port} (it has: {has}); ask for it in the "
            f'script: "#SWM ports {opening.port}/tcp/in"',
        )
    return opening.port


async def _carry(
    requests: AsyncIterator[Any], stream: tunnels.TunnelStream, frame: Any
) -> AsyncGenerator[Any, None]:
    """Frames for the terminal, while its own go to the gate; ends when both halves have."""

    async def up() -> None:
        async for request in requests:
            match request.WhichOneof("frame"):
                case "data":
                    await stream.write(request.data)
                case "eof":
                    break
                case _:
                    raise invalid("after open come data and one eof", field="frame")
        await stream.write_eof()

    sending = asyncio.create_task(up())
    try:
        while data := await stream.read():
            if sending.done() and sending.exception() is not None:
                break
            yield frame(data=data)
        yield frame(eof=tunnel_pb2.TunnelEof())
        await sending
    except (GateError, ConnectionError) as error:
        raise _refused(error) from error
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def _refused(error: Exception) -> Refusal:
    if isinstance(error, NoSuchPort):
        return precondition("JOB_NOT_RUNNING", str(error))
    if isinstance(error, GateError) and error.reason == "TARGET_REFUSED":
        return precondition("TARGET_REFUSED", error.message)
    return unavailable("SITE_UNREACHABLE", f"the tunnel could not be carried: {error}")
