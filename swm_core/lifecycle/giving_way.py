"""Work that is dropped as soon as somebody wants something else."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Await `work`, but drop it as soon as `event` is set; whether it came to its end.

    Raises:
        Exception: What `work` raised.
    """
    working = asyncio.create_task(work)
    asked = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        working.cancel()
        outcome = (await asyncio.gather(working, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        raise outcome
    return not isinstance(outcome, BaseException)
