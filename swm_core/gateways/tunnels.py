"""Connections through a gate, as streams of bytes with an end of each half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from skyport.gate.v1 import tunnel_pb2, types_pb2
from swm_core.gateways.gate import Gate
from swm_core.gateways.watching import heard, readable

CHUNK_BYTES = 256 << 10
_OPEN_S = 30.0


class TunnelStream:
    """One connection at the other end of a Connect or Accept call.

    Args:
        gate: Through which.
        call: The bidirectional call, with its opening frame exchanged.
        frame: The type of the frames that are sent.
    """

    def __init__(self, gate: Gate, call: Any, frame: Any) -> None:
        self._gate = gate
        self._call = call
        self._frame = frame

    async def read(self) -> bytes:
        """Some bytes; empty at the end of that half.

        Raises:
            GateError: The tunnel broke.
        """
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                match readable(answer).WhichOneof("frame"):
                    case "data" if answer.data:
                        return bytes(answer.data)
                    case "eof":
                        return b""
                    case _:
                        pass
        except grpc.aio.AioRpcError as error:
            raise self._gate.problem(error) from error
        return b""

    async def write(self, data: bytes) -> None:
        """Send `data`; waits while the other side does not take it."""
        await self._write(self._frame(data=data))

    async def write_eof(self) -> None:
        """End this half."""
        await self._write(self._frame(eof=tunnel_pb2.TunnelEof()))

    async def _write(self, frame: Any) -> None:
        try:
            await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise self._gate.problem(error) from error
        except asyncio.InvalidStateError as error:
            raise ConnectionResetError("the tunnel has ended") from error

    def close(self) -> None:
        """Drop the connection, whatever is under way."""
        self._call.cancel()


async def connect(gate: Gate, ref: types_pb2.JobRef, node: str, port: int) -> TunnelStream:
    """A connection to `port` on a node of the attempt.

    Raises:
        GateError: TARGET_REFUSED when nothing listens there, or whatever else stands in the way.
    """
    opening = tunnel_pb2.ConnectRequest(open=tunnel_pb2.ConnectOpen(ref=ref, node=node, port=port))
    return await _open(gate, gate.tunnels.Connect(), opening, tunnel_pb2.ConnectRequest)


async def accept(gate: Gate, connection_id: str) -> TunnelStream:
    """The connection that a listen told.

    Raises:
        GateError: It is not there any more.
    """
    opening = tunnel_pb2.AcceptRequest(open=tunnel_pb2.AcceptOpen(connection_id=connection_id))
    return await _open(gate, gate.tunnels.Accept(), opening, tunnel_pb2.AcceptRequest)


async def _open(gate: Gate, call: Any, opening: Any, frame: Any) -> TunnelStream:
    try:
        async with asyncio.timeout(_OPEN_S):
            await call.write(opening)
            answer = readable(await call.read())
    except grpc.aio.AioRpcError as error:
        raise gate.problem(error) from error
    except BaseException:
        call.cancel()
        raise
    if answer is grpc.aio.EOF or answer.WhichOneof("frame") != "opened":
        call.cancel()
        raise ConnectionResetError("the gate ended the tunnel before it was open")
    return TunnelStream(gate, call, frame)


async def listen(
    gate: Gate, ref: types_pb2.JobRef, node: str, port: int
) -> AsyncIterator[str | None]:
    """None once the gate listens on `port` of the node; then the id of each connection.

    Raises:
        GateError: It cannot, or the link is lost.
        TimeoutError: The gate is silent.
    """
    call = gate.tunnels.Listen(tunnel_pb2.ListenRequest(ref=ref, node=node, port=port))
    try:
        async for answer in heard(call):
            match answer.WhichOneof("event"):
                case "listening":
                    yield None
                case "connection":
                    yield answer.connection.connection_id
                case _:
                    pass
    except grpc.aio.AioRpcError as error:
        raise gate.problem(error) from error
