"""How often the queue of a site is asked, whoever asks."""

from __future__ import annotations

import asyncio
import time

from gates.ssh_cluster_gate.slurm.commands import Account

LEAST_S = 1.0
"""Between two squeue of an account."""
_MOST_A_SECOND = 5
"""Of all accounts of a site."""


class Pace:
    """Keeps the squeue of each account, and those of all accounts of a site, apart."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._last = 0.0
        self._of: dict[Account, float] = {}

    async def wait(self, account: Account) -> None:
        """Wait for the turn of an account."""
        await _until(self._of.get(account, 0.0) + LEAST_S)
        self._of[account] = time.monotonic()
        async with self._turn:
            # Where many wait, some a second are asked, so that no cancel waits for all others.
            await _until(self._last + LEAST_S / min(len(self._of), _MOST_A_SECOND))
            self._last = self._of[account] = time.monotonic()


async def _until(at: float) -> None:
    rest_s = at - time.monotonic()
    if rest_s > 0:
        await asyncio.sleep(rest_s)
