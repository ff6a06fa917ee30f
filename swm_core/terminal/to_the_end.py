"""What is begun for a caller comes to its end, whether the caller waits for it or not.

A call whose caller leaves is cancelled wherever it is just then: that may be between what was
stored and what the core keeps of it in memory, and a job would be known to nobody but the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; it goes on when this is cancelled."""
    return await asyncio.shield(asyncio.create_task(work))
