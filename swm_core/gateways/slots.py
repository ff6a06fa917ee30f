"""The latest word about one object, and a way to wait for a newer one."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Holds one value. States may be skipped, the latest is never lost."""

    def __init__(self) -> None:
        self.value: T | None = None
        """What the gate last said; None: nothing yet."""
        self.missing = False
        """Whether a complete snapshot since then lacked the object. Not a proof: ask for it."""
        self.version = 0
        """Grows with every change."""
        self._changed = asyncio.Event()

    def put(self, value: T) -> None:
        """The gate said `value`."""
        self.value = value
        self.missing = False
        self.touch()

    def miss(self) -> None:
        """A complete snapshot lacked it."""
        if not self.missing:
            self.missing = True
            self.touch()

    def touch(self) -> None:
        """Wake those who wait, for whatever they may find."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, than: int) -> int:
        """Wait until the version is not `than`; returns it."""
        while self.version == than:
            await self._changed.wait()
        return self.version
