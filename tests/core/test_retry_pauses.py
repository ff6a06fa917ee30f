"""What is tried again at no cost is so at growing intervals, whatever core counts them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.lifecycle.ending import conclude
from swm_core.lifecycle.live import LiveJobs
from swm_core.store import Store

NO_ENGINE = Failure(FailureReason.START_FAILED, "the engine is down", retryable=True)
NO_ROOM = Failure(FailureReason.NO_CAPACITY, "no room", retryable=True)
NODE_FAIL = Failure(FailureReason.NODE_FAIL, "lost", retryable=True)


class Core:
    """What ends attempts, with a store that may be opened anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_000.0
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.path)
        jobs = LiveJobs(self.store.jobs, self.clock)
        for job in self.store.jobs.active():
            jobs.add(job)
        self.context: Any = types.SimpleNamespace(store=self.store, jobs=jobs, clock=self.clock)

    def clock(self) -> float:
        return self.now

    async def submit(self) -> None:
        new = Job(
            "j1", "ann", JobSpec(retries=1), "", JobState.QUEUED, self.now, self.now, retries_left=1
        )
        queued, _ = await self.store.jobs.submit(new, b"true", "", "f", {})
        self.context.jobs.add(queued)

    async def fails(self, failure: Failure, *, ran: bool = False) -> Job:
        """One more attempt that ends so; the job as it is then."""
        jobs = self.context.jobs
        job = jobs.get("j1")
        self.now = max(self.now, job.not_before) + 1
        fresh: dict[str, Any] = {"claimed": False, "start_time": None, "failure": None}
        await jobs.move("j1", JobState.PROVISIONING, attempt=job.attempt + 1, site="lab", **fresh)
        await jobs.move("j1", JobState.STAGING_IN)
        await jobs.move("j1", JobState.STARTING)
        if ran:
            await jobs.move("j1", JobState.RUNNING, claimed=True, start_time=self.now)
        await conclude(self.context, "j1", failure)
        ended: Job = jobs.get("j1")
        assert ended.state is JobState.QUEUED
        return ended

    async def pause_after(self, failure: Failure, *, ran: bool = False) -> float:
        return (await self.fails(failure, ran=ran)).not_before - self.now


@pytest_asyncio.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    core = Core(tmp_path / "swm.db")
    await core.submit()
    yield core
    await core.store.close()


async def test_the_pause_doubles_up_to_a_minute_and_begins_anew_after_a_run(core: Core) -> None:
    pauses = [await core.pause_after(NO_ENGINE) for _ in range(6)]
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert await core.pause_after(NODE_FAIL, ran=True) == 5
    assert [await core.pause_after(NO_ENGINE) for _ in range(2)] == [5, 10]


async def test_a_core_that_begins_anew_goes_on_with_it(core: Core) -> None:
    for _ in range(3):
        await core.fails(NO_ENGINE)
    await core.store.close()
    core.open()
    assert await core.pause_after(NO_ENGINE) == 40


async def test_a_place_without_room_is_left_for_another_at_once(core: Core) -> None:
    assert [await core.pause_after(NO_ENGINE) for _ in range(2)] == [5, 10]
    without = await core.fails(NO_ROOM)
    assert without.not_before == 0
    assert without.text == "attempt 3 failed (no room); trying again"
    assert await core.pause_after(NO_ENGINE) == 20


@pytest.mark.parametrize(("before", "seconds"), [(0, 5), (1, 10), (40, 60)])
async def test_the_text_says_when_and_why(core: Core, before: int, seconds: int) -> None:
    for _ in range(before):
        await core.fails(NO_ENGINE)
    job = await core.fails(NO_ENGINE)
    assert job.text == (
        f"attempt {before + 1} failed (the engine is down); trying again in {seconds} s"
    )


async def test_a_job_that_its_owner_queues_again_begins_anew(core: Core) -> None:
    for _ in range(3):
        await core.fails(NO_ENGINE)
    jobs = core.context.jobs
    job = jobs.get("j1")
    await jobs.move("j1", JobState.PROVISIONING, attempt=job.attempt + 1)
    ended = await jobs.move("j1", JobState.FAILED, failure=NO_ENGINE)
    queued = dataclasses.replace(ended, state=JobState.QUEUED, failure=None)
    jobs.add(await core.store.jobs.transition(ended, queued))
    assert await core.pause_after(NO_ENGINE) == 5
