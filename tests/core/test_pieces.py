"""Work in pieces: others get their turn, and only the work itself counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

from swm_core.lifecycle.pieces import Pieces

_STEPS, _STEP_S = 20, 0.002


def _work() -> Generator[None, None, str]:
    for _ in range(_STEPS):
        began = time.monotonic()
        while time.monotonic() - began < _STEP_S:
            pass
        yield
    return "done"


async def test_others_get_their_turn_after_each_piece() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert await Pieces().all_of(_work()) == "done"
    task.cancel()
    assert turns >= _STEPS


async def test_what_others_do_in_between_does_not_count() -> None:
    async def others() -> None:
        while True:
            time.sleep(_STEP_S)  # noqa: ASYNC251 - what keeps the loop from us
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    pieces = Pieces()
    began = time.monotonic()
    await pieces.all_of(_work())
    whole_s = time.monotonic() - began
    task.cancel()
    assert _STEPS * _STEP_S <= pieces.spent_s <= whole_s - (_STEPS - 1) * _STEP_S
