"""A way to one node, of which nothing is told as of the whole site."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.transport import Listener, Process, Stream, Transport

T = TypeVar("T")

# What is said of one account on one host is no word for the site as a whole.
_OF_SITES = frozenset({"CREDENTIALS_INVALID", "PERMISSION_MISSING"})


class OneWay:
    """A transport whose refusals are about its node.

    An account that one host refuses would otherwise be told as one that the whole site refuses, and
    nothing would be placed on hosts that are well. What was refused is the error's cause.

    Args:
        transport: The way itself.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def node(self) -> str:
        """The node's name."""
        return self._transport.node

    async def open(self, command: str, *, lasting: bool = False) -> Process:
        """As the transport does."""
        return await self._of_node(self._transport.open(command, lasting=lasting))

    async def connect(self, port: int, address: str = "") -> Stream:
        """As the transport does."""
        return await self._of_node(self._transport.connect(port, address))

    async def listen(self, port: int) -> Listener:
        """As the transport does."""
        return await self._of_node(self._transport.listen(port))

    async def close(self) -> None:
        """As the transport does."""
        await self._transport.close()

    async def _of_node(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except Refusal as refusal:
            if refusal.reason not in _OF_SITES:
                raise
            raise errors.node_unreachable(
                self.node, refusal.message, retry_after_s=refusal.retry_after_s
            ) from refusal
