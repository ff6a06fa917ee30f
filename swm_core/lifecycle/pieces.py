"""Long work on the event loop, in pieces: others get their turn in between.

A thread is no way out: it wants the interpreter as well, and a call that comes meanwhile waits for
it again and again, at each of its own steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

R = TypeVar("R")

_PIECE_S = 0.0005
"""A call takes several turns of the loop, and waits for one piece at each."""


class Pieces:
    """How long the pieces of one work have taken."""

    def __init__(self) -> None:
        self._spent_s = 0.0
        self._began = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds for all pieces so far, without what others did in between."""
        return self._spent_s + time.monotonic() - self._began

    async def pause(self) -> None:
        """Let others go on, if this piece has taken long enough."""
        if time.monotonic() - self._began >= _PIECE_S:
            self._spent_s = self.spent_s
            await asyncio.sleep(0)
            self._began = time.monotonic()

    async def all_of(self, work: Generator[None, None, R]) -> R:
        """What a work returns that yields wherever it may be interrupted."""
        while True:
            try:
                next(work)
            except StopIteration as done:
                result: R = done.value
                return result
            await self.pause()
