"""What is done on a host: run a command with its streams, reach a port, listen on one.

`connection` does it by SSH, `local` on this machine; all else in this package takes either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class LinkLost(ConnectionError):
    """The way to the host broke, so nothing is known of what was at its other end."""


class Reader(Protocol):
    """One end of a stream of bytes, with flow control.

    Each method raises LinkLost where the way to the host broke, also after bytes that came: an end
    that is told as such is one that the other side made.
    """

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
        """Wait until there is room for more.

        Raises:
            ConnectionError: Nobody takes it any more; LinkLost where the way to the host broke.
        """
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
        """Its exit code when it has ended and nothing holds its output open any more.

        None if that is not known: the link was lost, or a signal ended it.
        """
        ...

    def close(self) -> None:
        """Let go of it: its streams end, and its process group gets TERM.

        Root's does not: sshd hands no signals to its commands. What it has detached goes on. What
        was written and not sent yet may be lost. Every process has to be closed, or waited for
        after its output was read to the end.
        """
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
        """The connections, as they come; ends when the listener does, or the link is lost."""
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

    async def open(self, command: str, *, lasting: bool = False) -> Process:
        """Start `command` by the account's login shell.

        Args:
            command: A line that was written by us, never made of anybody's text: what varies goes
                over standard input.
            lasting: Whether it stays for as long as somebody wants it. Such commands have a share
                of the host's sessions of their own, and connections of their own: neither they nor
                the others have to wait for each other.
        """
        ...

    async def connect(self, port: int, address: str = "") -> Stream:
        """Connect to a port on the host's loopback, or on what it reaches at `address`.

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
