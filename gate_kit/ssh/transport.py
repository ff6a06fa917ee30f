"""What is done on a host: run a command with its streams, reach a port, listen on one.

`connection` does it by SSH, `local` on this machine; all else in this package takes either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class Reader(Protocol):
    """One end of a stream of bytes, with flow control."""

    async def read(self, n: int) -> bytes:
        """Up to `n` bytes as soon as there are any; empty at the end."""
        ...

    async def readline(self) -> bytes:
        """A line with its newline; what there is if the end comes first."""
        ...

    async def readexactly(self, n: int) -> bytes:
        """Just `n` bytes; asyncio.IncompleteReadError if the end comes first."""
        ...


class Writer(Protocol):
    """The other end: `write`, then `drain`, so that nothing piles up."""

    def write(self, data: bytes) -> None:
        """Take `data` to send."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more; ConnectionError once nobody takes it."""
        ...

    def write_eof(self) -> None:
        """Say that nothing more comes, while the other direction stays open."""
        ...

    def close(self) -> None:
        """End both directions; what was written may be lost."""
        ...


class Process(Protocol):
    """A command that runs on a host."""

    @property
    def stdin(self) -> Writer:
        """Its standard input."""
        ...

    @property
    def stdout(self) -> Reader:
        """Its standard output."""
        ...

    @property
    def stderr(self) -> bytes:
        """The end of what it wrote to its standard error, at most 8 KiB; read all the time."""
        ...

    async def wait(self) -> int | None:
        """Its exit code when it has ended; None if that is not known: link lost, or a signal."""
        ...

    def close(self) -> None:
        """Let go of it: its streams end. What it left running on the host goes on."""
        ...


class Stream(Protocol):
    """A TCP connection at the host."""

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
    """A port of the host's loopback that is listened on."""

    @property
    def port(self) -> int:
        """The port; the one that was found if 0 was asked for."""
        ...

    def accepted(self) -> AsyncIterator[Stream]:
        """The connections, as they come; ends when the listener does."""
        ...

    async def close(self) -> None:
        """Listen no more. Connections that were accepted go on."""
        ...


class Transport(Protocol):
    """A way to one account on one host.

    Every method raises a `gate_kit.Refusal` with the reason of the wire: NODE_UNREACHABLE (no way
    there, or none within the time), HOST_KEY_MISMATCH, CREDENTIALS_INVALID. A connection that has
    been lost is made again by the next call, so a refusal is never final.
    """

    @property
    def node(self) -> str:
        """The node's name, as the gate tells it."""
        ...

    async def open(self, command: str) -> Process:
        """Start `command` by the account's login shell.

        Args:
            command: A line that was written by us, never made of anybody's text: what varies goes
                over standard input.
        """
        ...

    async def connect(self, port: int) -> Stream:
        """Connect to a port on the host's loopback.

        Raises:
            Refusal: TARGET_REFUSED as well, where nothing listens.
        """
        ...

    async def listen(self, port: int) -> Listener:
        """Listen on a port of the host's loopback; 0 finds a free one.

        Raises:
            Refusal: PORT_IN_USE as well.
        """
        ...

    async def close(self) -> None:
        """Let go of the host."""
        ...
