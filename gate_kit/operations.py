"""Work that outlives the call that asked for it.

A client's deadline raises CancelledError inside a grpc.aio handler, wherever it stands: a create
that was half-way would be lost, and the retry would make a second one. So the work belongs to a
task of its own, keyed by what it is about; calls only wait for it. A retry joins the work that is
already under way, and mutations of one object go one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from typing import Any, TypeVar, cast

from gate_kit.errors import Refusal, shutting_down

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[Hashable, ...]


@dataclasses.dataclass(eq=False, slots=True)
class _Lock:
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    users: int = 0


@dataclasses.dataclass(eq=False, slots=True)
class _Work:
    task: asyncio.Task[Any]
    waiting: int = 0
    refusal: Refusal | None = None
    """What it was interrupted with."""


class Operations:
    """The mutations that a gate has under way. Call `close` before the event loop ends."""

    def __init__(self) -> None:
        self._running: dict[Key, _Work] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._locks: dict[Hashable, _Lock] = {}
        self._closing = False

    async def run(self, key: Key, work: Callable[[], Awaitable[T]], *, on: Hashable = None) -> T:
        """The result of `work`, which goes on when the caller is cancelled.

        Args:
            key: What is asked, with all that decides the answer: a caller with a key that is under
                way gets that result. What differs must have another key.
            work: Makes the awaitable; called once for all callers who join.
            on: The object that it changes: works on the same object go one after the other.

        Raises:
            Refusal: SHUTTING_DOWN for new work after `close`; and what `work` raises.
        """
        under_way = self._running.get(key)
        if under_way is None:
            if self._closing:
                raise shutting_down()
            task = asyncio.create_task(self._locked(work, on), name=f"operation {key}")
            under_way = self._running[key] = _Work(task)
            task.add_done_callback(lambda done: self._forget(key))
        under_way.waiting += 1
        try:
            return cast("T", await asyncio.shield(under_way.task))
        except asyncio.CancelledError:
            # Either the caller has gone, or the work was interrupted; both look the same here.
            if under_way.refusal is not None and under_way.task.cancelled():
                raise under_way.refusal from None
            raise
        finally:
            under_way.waiting -= 1

    def interrupt(self, refusal: Refusal, *begins: Hashable) -> None:
        """End the work under way whose key begins so; who waits for it gets `refusal`.

        For a cancel or a delete, which must not wait for what it ends.
        """
        for key, under_way in self._running.items():
            if key[: len(begins)] == begins and not under_way.task.done():
                under_way.refusal = refusal
                under_way.task.cancel()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that nobody waits for, such as a boot; `close` cancels it. Failures are logged."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_report)
        return task

    @contextlib.asynccontextmanager
    async def exclusive(self, on: Hashable) -> AsyncIterator[None]:
        """Hold the object `on`: no other work on it runs meanwhile."""
        held = self._locks.setdefault(on, _Lock())
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._locks[on]

    async def close(self, grace_s: float = 5.0) -> None:
        """Take no new work, cancel background tasks, and wait for the rest.

        Args:
            grace_s: Seconds after which what still runs is cancelled: the next gate repeats it.
        """
        self._closing = True
        for task in self._background:
            task.cancel()
        running = [under_way.task for under_way in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=grace_s)
            for task in running:
                task.cancel()
        await asyncio.gather(*running, *self._background, return_exceptions=True)

    async def _locked(self, work: Callable[[], Awaitable[T]], on: Hashable) -> T:
        if on is None:
            return await work()
        async with self.exclusive(on):
            return await work()

    def _forget(self, key: Key) -> None:
        under_way = self._running.pop(key)
        task = under_way.task
        # Who waits is told. If all have gone, the log is the only one left to tell.
        if not task.cancelled() and (error := task.exception()) and not under_way.waiting:
            if isinstance(error, Refusal):
                log.info("%s: %r, and nobody waits for it", task.get_name(), error)
            else:
                log.error("%s failed", task.get_name(), exc_info=error)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("%s failed", task.get_name(), exc_info=error)
