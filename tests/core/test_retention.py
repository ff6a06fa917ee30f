"""What is kept for a time is not deleted by a clock that jumps."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import types
from pathlib import Path
from typing import Any

from rpc_kit.units import Seconds
from swm_core.config import Spool as SpoolConfig
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.lifecycle.retention import Retention
from swm_core.spool import Spool
from swm_core.store import Store

KEPT_S = 3_600
TWO_DAYS_S = 2 * 86_400


class Clock:
    """Tells how late it is, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.ahead_s = 0
        self.wrong = 0

    def __call__(self) -> float:
        self.asked += 1
        if self.wrong:
            self.wrong -= 1
            return time.time() + TWO_DAYS_S
        return time.time() + self.ahead_s

    async def rounds(self, count: int) -> None:
        """Wait until so many rounds have begun and ended since."""
        until = self.asked + 3 * (count + 1)
        async with asyncio.timeout(30):
            while self.asked < until:  # noqa: ASYNC110 - nothing tells of a round
                await asyncio.sleep(0.01)


async def test_a_clock_that_jumps_deletes_nothing_at_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "swm.db")
    spool = Spool.open(tmp_path / "spool", 1 << 20, 1 << 20)
    now = time.time()
    new = Job("j1", "ann", JobSpec(), "", JobState.QUEUED, now, now)
    queued, _ = await store.jobs.submit(new, b"true", "", "f", {})
    ended = dataclasses.replace(queued, state=JobState.FAILED, state_time=now)
    await store.jobs.transition(queued, ended)
    clock = Clock()
    context: Any = types.SimpleNamespace(store=store, spool=spool, clock=clock)
    config = SpoolConfig(job_retention=Seconds(KEPT_S))
    running = asyncio.create_task(Retention(context, config, every_s=0.01).run())
    try:
        await clock.rounds(2)
        # It is wrong for a round, and is put right then.
        clock.wrong = 2
        await clock.rounds(3)
        assert store.jobs.get("j1") is not None
        clock.ahead_s = TWO_DAYS_S
        async with asyncio.timeout(30):
            while store.jobs.get("j1") is not None:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        spool.close()
        await store.close()
