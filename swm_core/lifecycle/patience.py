"""Deadlines of two kinds: by the clock on the wall, and by time in which something could be done.

What would throw results away must not be decided by a laptop that slept over a weekend: such a
deadline counts only while the core runs and the site can be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from swm_core.gateways.gate import Gate

_TICK_S = 5.0


@contextlib.asynccontextmanager
async def reachable_time(gate: Gate, limit_s: float, *, reachable: bool) -> AsyncIterator[None]:
    """TimeoutError in the body once the site was (not) reachable for `limit_s` seconds together.

    The monotonic clock does not count the sleep of the machine.

    Args:
        gate: Whose site.
        limit_s: Seconds.
        reachable: Whether to count while the site is reachable; False: while it is not.
    """
    spent_s = 0.0
    async with asyncio.timeout(None) as timeout:

        async def count() -> None:
            nonlocal spent_s
            while spent_s < limit_s:
                tick_s = min(_TICK_S, limit_s - spent_s)
                counted, began = gate.ready is reachable, time.monotonic()
                await asyncio.sleep(tick_s)
                if counted and gate.ready is reachable:
                    spent_s += min(time.monotonic() - began, 2 * tick_s)
                elif not reachable and gate.ready:
                    spent_s = 0.0
            timeout.reschedule(asyncio.get_running_loop().time())

        counting = asyncio.create_task(count())
        try:
            yield
        finally:
            counting.cancel()
