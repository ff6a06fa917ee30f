"""Ports of jobs on hosts: what a `gate_kit.tunnel_service.TunnelService` needs, over transports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh import transport
from gate_kit.ssh.transport import LinkLost, Transport
from skyport.gate.v1 import job_pb2, types_pb2


class Admission(Protocol):
    """Lets requests in, or says why not."""

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it; `what` names the call."""
        ...

    def ref(self, ref: types_pb2.JobRef) -> object:
        """Raise unless the attempt may be asked for: FIELD_*, USER_NOT_MAPPED and the like."""
        ...


class Attempts(Protocol):
    """What the hosts say of attempts."""

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is on its hosts.

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


class SshTunnels:
    """Ports of the loopbacks of hosts.

    Args:
        admission: Checks who asks.
        attempts: Tells whether a job runs.
        way: The way to a node of an attempt, by the node's name, as the account of the attempt's
            owner; raises a Refusal where there is none.
    """

    def __init__(
        self,
        admission: Admission,
        attempts: Attempts,
        way: Callable[[types_pb2.JobRef, str], Transport],
    ) -> None:
        self._admission = admission
        self._attempts = attempts
        self._way = way

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        self._admission.need(capability, what)

    def check(self, ref: types_pb2.JobRef) -> None:
        """Raise unless the attempt may be asked for."""
        self._admission.ref(ref)

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is on its hosts."""
        return await self._attempts.status(ref)

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        """Whether the attempt has a tombstone."""
        return await self._attempts.never_starts(ref)

    async def connect(self, ref: types_pb2.JobRef, node: str, port: int) -> _Stream:
        """Connect to a port.

        Raises:
            Refusal: TARGET_REFUSED, NODE_UNREACHABLE, and more of `Transport`.
        """
        return _Stream(node, await self._way(ref, node).connect(port))

    async def listen(self, ref: types_pb2.JobRef, node: str, port: int) -> _Listener:
        """Listen on a port.

        Raises:
            Refusal: PORT_IN_USE, NODE_UNREACHABLE, and more of `Transport`.
        """
        return _Listener(node, await self._way(ref, node).listen(port))


class _Stream:
    """A connection at a host, which tells a lost link by its name on the wire."""

    def __init__(self, node: str, stream: transport.Stream) -> None:
        self.reader = _Reader(node, stream.reader)
        self.writer = _Writer(node, stream.writer)
        self._stream = stream

    def abort(self) -> None:
        self._stream.abort()


class _Reader:
    def __init__(self, node: str, reader: transport.Reader) -> None:
        self._node = node
        self._reader = reader

    async def read(self, n: int = -1, /) -> bytes:
        try:
            return await self._reader.read(n)
        except LinkLost as error:
            raise _lost(self._node, error) from error


class _Writer:
    def __init__(self, node: str, writer: transport.Writer) -> None:
        self._node = node
        self._writer = writer

    def write(self, data: bytes, /) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except LinkLost as error:
            raise _lost(self._node, error) from error

    def write_eof(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()


class _Listener:
    def __init__(self, node: str, listener: transport.Listener) -> None:
        self._node = node
        self._listener = listener

    async def accepted(self) -> AsyncIterator[_Stream]:
        async for stream in self._listener.accepted():
            yield _Stream(self._node, stream)

    async def close(self) -> None:
        await self._listener.close()


def _lost(node: str, error: LinkLost) -> Refusal:
    return errors.node_unreachable(node, f"the link to {node} was lost: {error}")
