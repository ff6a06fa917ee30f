"""Accounts on hosts, reached by SSH: commands, ports and listeners on a few kept connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncssh

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh import leftovers
from gate_kit.ssh.channels import SshListener, SshProcess, SshStream
from gate_kit.ssh.flow import STREAM_WINDOW, SteadyProcess, SteadyStream
from gate_kit.ssh.links import Link, Links
from gate_kit.ssh.login import Logins
from gate_kit.ssh.target import SshTarget

T = TypeVar("T")

_ANSWER_S = 20.0
"""A host that takes longer to open a channel does not answer. A lost link is found before that."""
_SETTLE_AFTER_S = 5.0
_SETTLE_S = 20.0
_SETTLE_BYTES = 1 << 16
_LOOPBACK = "127.0.0.1"
_LOOPBACK_6 = "::1"

# asyncssh tells of each connection and channel at INFO.
logging.getLogger("asyncssh").setLevel(logging.WARNING)


class SshTransport:
    """One account on one host.

    Args:
        node: The node's name.
        target: The account, and how to get there.
        logins: Makes the connections. Who reaches several hosts through another one hands the same
            one to all of them.
        max_connections: At most so many at a time for commands that last, and as many for all else.
        max_sessions: Commands that run on one connection at a time. Further ones wait.
        idle_s: A connection that nothing uses is closed after so many seconds.
    """

    def __init__(
        self,
        node: str,
        target: SshTarget,
        *,
        logins: Logins | None = None,
        max_connections: int = 4,
        max_sessions: int = 8,
        idle_s: float = 300.0,
    ) -> None:
        self._node = node
        self._target = target
        self._logins = Logins() if logins is None else logins
        self._has_own_logins = logins is None
        self._links = Links(
            self._connect,
            self._on_made,
            self._logins.is_way,
            most_links=max_connections,
            most_sessions=max_sessions,
            idle_s=idle_s,
        )
        self._settling = asyncio.Lock()

    @property
    def node(self) -> str:
        """The node's name."""
        return self._node

    async def open(self, command: str, *, lasting: bool = False) -> SshProcess:
        """Start `command` by the account's login shell.

        Raises:
            Refusal: See `Transport`.
        """
        while True:  # ends: a link that refuses has room for fewer sessions afterwards
            link = await self._links.session(lasting=lasting)
            taken = link.sessions
            try:
                return await self._kept(link, self._start(link, command), SshProcess.close)
            except asyncssh.ChannelOpenError as error:
                # It takes fewer than we thought. A link that takes none at all is of no use.
                if taken == 1:
                    raise errors.permission_missing(
                        f"{self._target} opens no session: {error.reason}; see MaxSessions in its "
                        "sshd_config"
                    ) from error
                link.most_sessions = min(link.most_sessions, taken - 1)

    async def connect(self, port: int, address: str = "") -> SshStream:
        """Connect to a port of the host's loopback, or of what it reaches at `address`.

        Raises:
            Refusal: TARGET_REFUSED where nothing listens; PERMISSION_MISSING where sshd forwards
                nothing; see `Transport` for more.
        """
        link = await self._links.any()
        try:
            return await self._kept(
                link, self._dial(link, port, address or _LOOPBACK), SshStream.abort
            )
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise self._forbidden() from error
            raise errors.target_refused(self._node, port) from error

    async def listen(self, port: int) -> SshListener:
        """Listen on a port of the host's loopback; 0 finds a free one.

        Raises:
            Refusal: PORT_IN_USE; PERMISSION_MISSING where sshd forwards nothing; see `Transport`.
        """
        link = await self._links.any()
        # Else nobody could end this listener if the link was lost now.
        await self._settle_quietly(link)
        try:
            return await self._listen_on(link, port)
        except asyncssh.ChannelListenError as error:
            if not port:
                raise self._forbidden() from error
        # A link that was lost meanwhile may have it: its sshd does not know yet.
        with contextlib.suppress(asyncssh.ChannelListenError):
            await self._settle(link)
            return await self._listen_on(link, port)
        # sshd does not say whether it may not or cannot.
        try:
            probe = await self._listen_on(link, 0)
        except asyncssh.ChannelListenError as error:
            raise self._forbidden() from error
        await probe.close()
        raise errors.port_in_use(self._node, port)

    async def close(self) -> None:
        """Close all connections. What runs on the host goes on."""
        await self._links.close()
        if self._has_own_logins:
            self._logins.close()

    # Links.

    async def _connect(self) -> asyncssh.SSHClientConnection:
        return await self._logins.connect(self._node, self._target)

    def _on_made(self, link: Link) -> None:
        self._links.spawn(self._settle_soon(link))

    async def _settle_soon(self, link: Link) -> None:
        """Not at once where nothing was lost: whoever made the link is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._links.lost else _SETTLE_AFTER_S):
                await link.connection.wait_closed()
                return
        await self._settle_quietly(link)

    async def _settle_quietly(self, link: Link) -> None:
        with contextlib.suppress(Refusal, asyncssh.Error):
            await self._settle(link)

    async def _settle(self, link: Link) -> None:
        """Learn who serves the link, and have those ended who served lost ones."""
        async with self._settling:
            if link.is_asked and not self._links.lost:
                return
            lost = list(self._links.lost)
            link.sessions += 1
            starting = self._start(link, leftovers.command(lost))
            process = await self._kept(link, starting, SshProcess.close)
            told = b""
            try:
                async with asyncio.timeout(_SETTLE_S):
                    while data := await process.stdout.read(_SETTLE_BYTES):
                        told = (told + data)[-_SETTLE_BYTES:]
            except (OSError, TimeoutError):
                return
            finally:
                process.close()
            link.served, link.is_asked = leftovers.parse(told), True
            self._links.lost = [served for served in self._links.lost if served not in lost]

    # Channels. Each of these runs to its end, so that nothing is left open that nobody knows of.

    async def _start(self, link: Link, command: str) -> SshProcess:
        """A command on a session that is counted already."""
        try:
            _, process = await link.connection.create_session(SteadyProcess, command, encoding=None)
            assert isinstance(process, SteadyProcess)  # noqa: S101 - for the type only
        except BaseException:
            self._links.release(link, session=True)
            raise
        self._links.until_done(link, process.wait_closed(), session=True)
        return SshProcess(process, link.connection)

    async def _dial(self, link: Link, port: int, address: str) -> SshStream:
        channel, session = await link.connection.create_connection(
            SteadyStream, address, port, encoding=None, window=STREAM_WINDOW
        )
        assert isinstance(session, SteadyStream)  # noqa: S101 - for the type only
        reader, writer = asyncssh.SSHReader(session, channel), asyncssh.SSHWriter(session, channel)
        stream = SshStream(reader, writer, link.connection)
        self._count(link, stream)
        return stream

    async def _listen_on(self, link: Link, port: int) -> SshListener:
        return await self._kept(link, self._bind(link, port), self._abandon)

    async def _bind(self, link: Link, port: int) -> SshListener:
        connection = link.connection
        listener = SshListener(connection, lambda stream: self._count(link, stream))
        listening = await connection.create_server(
            listener.session, _LOOPBACK, port, encoding=None, window=STREAM_WINDOW
        )
        listener.listeners.append(listening)
        # Who dials "localhost" may try this one first. A host without it refuses.
        with contextlib.suppress(asyncssh.ChannelListenError):
            listener.listeners.append(
                await connection.create_server(
                    listener.session,
                    _LOOPBACK_6,
                    listener.port,
                    encoding=None,
                    window=STREAM_WINDOW,
                )
            )
        link.streams += 1
        self._links.until_done(link, listener.wait_closed())
        return listener

    def _abandon(self, listener: SshListener) -> None:
        self._links.spawn(listener.close())

    async def _kept(
        self, link: Link, opening: Coroutine[Any, Any, T], let_go: Callable[[T], None]
    ) -> T:
        """What is opened; it is let go if nobody waits any more when it is there.

        Raises:
            asyncssh.ChannelOpenError, asyncssh.ChannelListenError: The host refused.
            Refusal: NODE_UNREACHABLE: the link is lost, or the host does not answer.
        """
        task = self._links.spawn(opening)
        is_taken = False
        try:
            async with asyncio.timeout(_ANSWER_S):
                opened = await asyncio.shield(task)
            is_taken = True
            return opened
        except (asyncssh.ChannelOpenError, asyncssh.ChannelListenError) as error:
            # asyncssh says so as well when the connection goes while it waits.
            if link.connection.is_closed():
                raise self._link_lost(error) from error
            raise
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise self._link_lost(error) from error
        finally:
            if not is_taken:
                task.add_done_callback(lambda done: _let_go(done, let_go))

    def _link_lost(self, error: BaseException) -> Refusal:
        why = str(error) or "it does not answer"
        return errors.node_unreachable(self._node, f"the link to {self._target} was lost: {why}")

    def _count(self, link: Link, stream: SshStream) -> None:
        link.streams += 1
        self._links.until_done(link, stream.wait_closed())

    def _forbidden(self) -> Refusal:
        return errors.permission_missing(
            f"{self._target} forwards no ports; set AllowTcpForwarding yes in its sshd_config"
        )


def _let_go(task: asyncio.Task[T], let_go: Callable[[T], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        let_go(task.result())
