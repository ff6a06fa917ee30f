"""Asks a host about many attempts at a time.

Each request costs programs on the host, and many jobs that begin and end together ask again and
again. So while one request is under way, all others wait, and go together in the next: nobody gets
an answer that is older than the question.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from gate_kit.ssh.host import Host

_MOST = 100
"""Questions in one request."""

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class Batch(Generic[Q, A]):
    """Questions to one host.

    Args:
        ask: Puts several at once, and returns the answer to each; raises what holds for all.
        name: Of the task that does it.
    """

    def __init__(
        self, ask: Callable[[Sequence[Q]], Awaitable[Mapping[Q, A | Exception]]], name: str
    ) -> None:
        self._ask = ask
        self._name = name
        self._waiting: dict[Q, asyncio.Future[A]] = {}
        self._task: asyncio.Task[None] | None = None

    async def answer(self, question: Q) -> A:
        """The answer to a question that was put after this was called."""
        future = self._waiting.get(question)
        if future is None:
            future = self._waiting[question] = asyncio.get_running_loop().create_future()
            # Who asked may be gone when the answer comes.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                chosen = list(self._waiting)[:_MOST]
                batch = {question: self._waiting.pop(question) for question in chosen}
                try:
                    told = await self._ask(chosen)
                    for question, future in batch.items():
                        answer = told[question]
                        if isinstance(answer, Exception):
                            future.set_exception(answer)
                        else:
                            future.set_result(answer)
                except Exception as error:  # noqa: BLE001 - it is told to all who asked
                    for future in batch.values():
                        if not future.done():
                            future.set_exception(error)
                finally:
                    for future in batch.values():
                        future.cancel()
        finally:
            self._task = None


B = TypeVar("B")


class PerHost(Generic[B]):
    """Something of each host, for as long as there is that host."""

    def __init__(self, make: Callable[[Host], B]) -> None:
        self._make = make
        self._of: weakref.WeakKeyDictionary[Host, B] = weakref.WeakKeyDictionary()

    def of(self, host: Host) -> B:
        """The one of `host`."""
        found = self._of.get(host)
        if found is None:
            found = self._of[host] = self._make(host)
        return found
