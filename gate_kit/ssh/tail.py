"""Keeps the end of a stream that has to be read whether anybody wants it or not."""

from __future__ import annotations

import asyncio

from gate_kit.ssh.transport import Reader

TAIL_BYTES = 8192
"""So much of the end is kept: what a command says when it fails."""


class Tail:
    """Reads `reader` from now on, until its end or `close`.

    Args:
        reader: The standard error of a command; read in a task of its own, so that a command that
            says a lot is not held up.
    """

    def __init__(self, reader: Reader) -> None:
        self.data = b""
        self._reader = reader
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def ended(self, within_s: float) -> None:
        """Wait for the end of the stream, but not for longer than that."""
        await asyncio.wait({self._task}, timeout=within_s)

    def close(self) -> None:
        """Read no more."""
        self._task.cancel()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(TAIL_BYTES):
                self.data = (self.data + data)[-TAIL_BYTES:]
        except OSError:
            pass  # the link is lost: that is told by the other streams
