"""The connections of one account on one host: how many, for what, and what becomes of them.

Stock sshd takes ten sessions on a connection and slows down who opens many connections at once, so
connections are made one after another, carry eight sessions each, and are kept. A host that could
not be reached is left alone for a while: everybody who wants it meanwhile is told at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncssh

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.leftovers import Served

T = TypeVar("T")

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MOST_S = 30.0
_MOST_LOST = 16


@dataclasses.dataclass(eq=False, slots=True)
class Link:
    """A connection, and what uses it."""

    connection: asyncssh.SSHClientConnection
    most_sessions: int
    sessions: int = 0
    streams: int = 0
    idle: asyncio.TimerHandle | None = None
    served: Served | None = None
    """Who serves it on the host, once that is known."""
    is_asked: bool = False
    """Whether the host has answered who serves it; some can't tell."""

    @property
    def has_room(self) -> bool:
        return self.sessions < self.most_sessions and not self.connection.is_closed()

    @property
    def is_used(self) -> bool:
        return bool(self.sessions or self.streams)


@dataclasses.dataclass(eq=False, slots=True)
class _Pool:
    """The connections of one kind of use."""

    most_links: int
    links: list[Link] = dataclasses.field(default_factory=list)
    making: asyncio.Task[Refusal | None] | None = None

    def with_room(self) -> Link | None:
        """The one that has room for another session, and fewest now."""
        open_ones = [link for link in self.links if link.has_room]
        return min(open_ones, key=lambda link: link.sessions, default=None)

    def least_used(self) -> Link | None:
        """The one with the fewest streams."""
        open_ones = [link for link in self.links if not link.connection.is_closed()]
        return min(open_ones, key=lambda link: link.streams, default=None)


class Links:
    """The connections of one account on one host.

    Args:
        connect: Makes one; raises a Refusal.
        on_made: Called with each that was made.
        is_way: Whether others go through a connection, which is therefore kept.
        most_links: At most so many at a time for commands that last, and as many for all else.
        most_sessions: Commands that run on one connection at a time. Further ones wait.
        idle_s: A connection that nothing uses is closed after so many seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Coroutine[Any, Any, asyncssh.SSHClientConnection]],
        on_made: Callable[[Link], None],
        is_way: Callable[[asyncssh.SSHClientConnection], bool],
        *,
        most_links: int,
        most_sessions: int,
        idle_s: float,
    ) -> None:
        self.lost: list[Served] = []
        """Who served links that were lost: there may be something left of them on the host."""
        self._connect = connect
        self._on_made = on_made
        self._is_way = is_way
        self._most_sessions = most_sessions
        self._idle_s = idle_s
        self._passing = _Pool(most_links)
        self._lasting = _Pool(most_links)
        self._connecting = asyncio.Lock()
        self._freed = asyncio.Condition()
        self._failures = 0
        self._failed_until = 0.0
        self._refusal: Refusal | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def session(self, *, lasting: bool) -> Link:
        """A link with room for a command, which is counted already; `release` it.

        Raises:
            Refusal: None can be made, and there is none.
        """
        pool = self._lasting if lasting else self._passing
        while True:
            link = pool.with_room()
            if link is not None:
                link.sessions += 1
                return link
            wait_s: float | None = None
            if len(pool.links) < pool.most_links:
                refusal = await self._another(pool)
                if refusal is None:
                    continue
                if not pool.links:
                    raise refusal
                # The host has no more connections for us now: others will be done some time.
                wait_s = refusal.retry_after_s or 0.0
            async with self._freed:
                if pool.with_room() is None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._freed.wait()

    async def any(self) -> Link:
        """A link for a connection or a listener, of which it may carry any number.

        Raises:
            Refusal: None can be made, and there is none.
        """
        while True:
            link = self._passing.least_used()
            if link is not None:
                return link
            refusal = await self._another(self._passing)
            if refusal is not None:
                raise refusal

    async def close(self) -> None:
        """Close all connections, and wait until all that went on beside has ended."""
        self._is_closed = True
        for link in [*self._passing.links, *self._lasting.links]:
            link.connection.close()  # says goodbye, so that nothing is left over
            link.connection.abort()
        for pool in (self._passing, self._lasting):
            if pool.making is not None:
                pool.making.cancel()
        # All else ends with the connections.
        while self._background:
            await asyncio.wait(set(self._background))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Have something done beside, which ends by itself when the connections do."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def until_done(
        self, link: Link, ended: Coroutine[Any, Any, None], *, session: bool = False
    ) -> None:
        """Release what is on a link when it has ended."""
        self.spawn(self._until_done(link, ended, session=session))

    def release(self, link: Link, *, session: bool = False) -> None:
        """Count a session, or something else, as done."""
        if session:
            link.sessions -= 1
        else:
            link.streams -= 1
        if not self._is_closed:
            self._arm(link)
            self.spawn(self._tell_freed())

    # Making and losing them.

    async def _another(self, pool: _Pool) -> Refusal | None:
        """Add a link; what hindered it. All who want one at a time wait for the same one."""
        if self._is_closed:
            return errors.shutting_down()
        if pool.making is None:
            pool.making = self.spawn(self._make(pool))
        refusal = await asyncio.shield(pool.making)
        if refusal is None:
            return None
        # Each who is told raises one of their own.
        return Refusal(
            refusal.code,
            refusal.reason,
            refusal.message,
            metadata=refusal.metadata,
            retry_after_s=max(0.0, self._failed_until - time.monotonic()) or None,
        )

    async def _make(self, pool: _Pool) -> Refusal | None:
        try:
            async with self._connecting:  # one at a time: sshd slows down who hurries
                if self._refusal is not None and time.monotonic() < self._failed_until:
                    return self._refusal
                try:
                    connection = await self._connect()
                except Refusal as refusal:
                    self._failures += 1
                    longest_s = min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2.0**self._failures)
                    pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret  # nosec B311
                    self._failed_until = time.monotonic() + pause_s
                    self._refusal = refusal
                    return refusal
                self._failures, self._refusal = 0, None
        except asyncio.CancelledError:
            return errors.shutting_down()  # by `close`; who waits for it was not cancelled
        finally:
            pool.making = None
        if self._is_closed:
            connection.abort()
            return errors.shutting_down()
        link = Link(connection, self._most_sessions)
        pool.links.append(link)
        self.spawn(self._until_lost(pool, link))
        self._on_made(link)
        self._arm(link)
        return None

    async def _until_lost(self, pool: _Pool, link: Link) -> None:
        try:
            await link.connection.wait_closed()
        finally:
            pool.links.remove(link)
            if link.idle is not None:
                link.idle.cancel()
        if link.served is not None:
            self.lost = [*self.lost, link.served][-_MOST_LOST:]
        await self._tell_freed()

    async def _until_done(
        self, link: Link, ended: Coroutine[Any, Any, None], *, session: bool = False
    ) -> None:
        try:
            with contextlib.suppress(asyncssh.Error, OSError):
                await ended
        finally:
            self.release(link, session=session)

    async def _tell_freed(self) -> None:
        async with self._freed:
            self._freed.notify_all()

    def _arm(self, link: Link) -> None:
        """Have a link closed if nothing uses it for a while."""
        if link.idle is not None:
            link.idle.cancel()
            link.idle = None
        if not link.is_used and not link.connection.is_closed():
            loop = asyncio.get_running_loop()
            link.idle = loop.call_later(self._idle_s, self._close_if_idle, link)

    def _close_if_idle(self, link: Link) -> None:
        if self._is_way(link.connection):
            self._arm(link)
        elif not link.is_used:
            link.served = None  # it says goodbye
            link.connection.close()
