"""The time of the stand-in's cloud, which can be moved on without waiting."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

__all__ = ["Clock"]


class Clock:
    """Runs like any other clock, and ahead of it by what was added."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Move it on; what waits for a time that has passed thereby goes on at once."""
        assert seconds >= 0, "time does not go back"
        self._ahead_s += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def sleep_until(self, when: float) -> None:
        """Wait until it is that late."""
        while (left := when - self.now()) > 0:
            moved = self._moved
            try:
                await asyncio.wait_for(moved.wait(), left)
            except TimeoutError:
                continue

    async def sleep(self, seconds: float) -> None:
        """Wait so long by this clock."""
        await self.sleep_until(self.now() + seconds)

    async def moved(self, within_s: float) -> None:
        """Wait until it is moved on, or so long."""
        moved = self._moved
        try:
            await asyncio.wait_for(moved.wait(), within_s)
        except TimeoutError:
            return

    def stamp(self, when: float | None = None) -> str:
        """A time as ARM writes it."""
        moment = datetime.fromtimestamp(self.now() if when is None else when, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0+00:00"
