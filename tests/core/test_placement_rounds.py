"""A round of placements is over when all that it gives away is committed, or was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from swm_core.lifecycle import placement
from swm_core.lifecycle.pieces import Pieces
from swm_core.scheduler import Enqueue
from swm_core.store import StoreUnavailable


async def test_a_commit_that_fails_does_not_end_the_round_before_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits, go = asyncio.Event(), asyncio.Event()
    committed = []

    async def apply(job_id: str, decide: object) -> None:
        if job_id == "a":
            raise StoreUnavailable("somebody else holds the lock")
        waits.set()
        await go.wait()
        committed.append(job_id)

    def decided(*_: object) -> Generator[None, None, list[Enqueue]]:
        yield
        return [Enqueue("a", "lab", "batch"), Enqueue("b", "lab", "batch")]

    def queued(*_: object) -> Generator[None, None, list[Any]]:
        yield
        return [SimpleNamespace(owner="ann")]

    monkeypatch.setattr(placement, "schedule_in_steps", decided)
    context: Any = SimpleNamespace(clock=lambda: 1.0, gates={}, jobs=SimpleNamespace(apply=apply))
    views: Any = SimpleNamespace(queued_jobs=queued, sites=list)
    costs: Any = SimpleNamespace(policy=lambda _: None)
    placing = placement.Placement(context, lambda _: None, costs, views)
    running = asyncio.create_task(placing._round(Pieces()))
    async with asyncio.timeout(20):
        await waits.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not running.done()
    go.set()
    with pytest.raises(StoreUnavailable):
        await running
    assert committed == ["b"]
    assert not placing._placing
