"""Of several streams about one thing the latest counts: the one before is ended, and waited for.

A caller whose connection broke comes again before the server has noticed; refusing it would make it
wait for a keepalive, and letting both go on would have them write over each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Hashable

from gate_kit.errors import Refusal


@dataclasses.dataclass(eq=False, slots=True)
class _Holder:
    task: asyncio.Task[object] | None
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    refusal: Refusal | None = None
    """Why it is being ended."""

    def end(self, refusal: Refusal) -> None:
        if self.refusal is None and self.task is not None:
            self.refusal = refusal
            self.task.cancel()


class LatestWins:
    """Who holds what."""

    def __init__(self) -> None:
        self._holders: dict[Hashable, _Holder] = {}

    @contextlib.asynccontextmanager
    async def hold(self, key: Hashable, refusal: Callable[[], Refusal]) -> AsyncIterator[None]:
        """Hold `key` in this task, after its holder so far has let go.

        Args:
            key: What is held.
            refusal: Makes what the holder so far is ended with.

        Raises:
            Refusal: What this holder is ended with itself, by a later one or by `end`.
        """
        before = self._holders.get(key)
        mine = self._holders[key] = _Holder(asyncio.current_task())
        try:
            if before is not None:
                before.end(refusal())
                await before.gone.wait()
            yield
        except asyncio.CancelledError:
            if mine.refusal is None or mine.task is None:
                raise
            mine.task.uncancel()
            raise mine.refusal from None
        finally:
            if self._holders.get(key) is mine:
                del self._holders[key]
            mine.gone.set()

    async def end(self, key: Hashable, refusal: Refusal) -> None:
        """End the holder of `key`, if there is one, and wait until it has let go."""
        holder = self._holders.get(key)
        if holder is not None:
            holder.end(refusal)
            await holder.gone.wait()
