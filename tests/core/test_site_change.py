"""What lies on a place that an administrator gives up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from swm_core.domain.failures import Failure
from swm_core.domain.job import Allocation, Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.lifecycle.site_change import SiteChange
from swm_core.store import Root


def job(job_id: str, state: JobState, node: str) -> Job:
    allocations = (Allocation(node, cpus=1, mem_bytes=0),)
    place: dict[str, Any] = {"site": "lab", "partition_id": "hosts", "allocations": allocations}
    return Job(job_id, "ann", JobSpec(), "", state, 1.0, 1.0, attempt=1, **place)


async def test_all_that_lies_there_is_lost_at_once_and_nothing_else() -> None:
    lost: dict[str, bool] = {}
    all_are_told = asyncio.Event()

    async def lose(job: Job, failure: Failure) -> None:
        lost[job.job_id] = failure.retryable
        if len(lost) == 2:
            all_are_told.set()
        # Each takes a while to end; nobody waits for the others.
        async with asyncio.timeout(20):
            await all_are_told.wait()

    async def forget(root: Root) -> None:
        assert all_are_told.is_set()

    placed = [
        job("runs", JobState.RUNNING, "n1"),
        job("comes", JobState.STAGING_IN, "n1"),
        job("elsewhere", JobState.RUNNING, "n2"),
    ]
    context: Any = SimpleNamespace(
        jobs=SimpleNamespace(placed=placed),
        store=SimpleNamespace(roots=SimpleNamespace(forget=forget)),
    )
    gate: Any = SimpleNamespace(name="lab", given_up=set())
    await SiteChange(context, gate, lose)._give_up(Root("lab", "hosts", "n1", "ann", "uid"))
    assert lost == {"runs": False, "comes": True}
    assert gate.given_up == {"uid"}
