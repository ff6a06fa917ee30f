"""Lets one task wait until another has done something about an object."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Iterator


class Bell(asyncio.Event):
    """What somebody waits for, with what was last said when it rang."""

    def __init__(self) -> None:
        super().__init__()
        self.news: object = None


class Bells:
    """One bell for each object that somebody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Event]] = {}

    def ring(self, key: Hashable, news: object = None) -> None:
        """Wake all who wait for `key`; those with a `Bell` hear `news`, if there are any."""
        for event in self._waiting.get(key, ()):
            if news is not None and isinstance(event, Bell):
                event.news = news
            event.set()

    async def heard(self, key: Hashable, timeout_s: float) -> bool:
        """Wait until the bell of `key` rings; returns False if it did not within `timeout_s`."""
        event = asyncio.Event()
        with self.listening(key, event):
            try:
                async with asyncio.timeout(timeout_s):
                    await event.wait()
            except TimeoutError:
                return False
        return True

    @contextlib.contextmanager
    def listening(self, key: Hashable, event: asyncio.Event) -> Iterator[None]:
        """Have `event` set whenever the bell of `key` rings."""
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]
