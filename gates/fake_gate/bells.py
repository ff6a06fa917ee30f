"""Lets one task wait until another has done something about an object."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable


class Bells:
    """One bell for each object that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Event]] = {}

    def ring(self, key: Hashable) -> None:
        """Wake all who wait for `key`."""
        for event in self._waiting.get(key, ()):
            event.set()

    async def heard(self, key: Hashable, timeout_s: float) -> bool:
        """Wait until the bell of `key` rings; returns False if it did not within `timeout_s`."""
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]
        return True
