"""What is brought home of an attempt that has ended, whatever else can't be had."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from swm_core.config import Deadlines
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import End, Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.lifecycle import collecting
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.patience import Spent

REFUSED = Failure(FailureReason.STAGING_FAILED, "the site gives none of them")


async def test_what_it_wrote_is_waited_for_when_its_results_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Collection:
        refused = None

        def __init__(self, *_: object) -> None:
            self.run = None

        def close(self) -> None:
            pass

    async def ask(*_: object) -> None:
        raise AttemptFailed(REFUSED)

    monkeypatch.setattr(collecting, "Collection", Collection)
    context: Any = SimpleNamespace(deadlines=Deadlines(), partitions={})
    gate: Any = SimpleNamespace(name="lab", ready=True, chooses_nodes=lambda _: True)
    asker: Any = SimpleNamespace(ask=ask)
    meta: Any = SimpleNamespace(spent_s=dict)
    jobs: Any = SimpleNamespace(placed=())
    end = End(exit_code=0, start_time=1.0, end_time=2.0)
    job = Job("j1", "ann", JobSpec(), "", JobState.STAGING_OUT, 1.0, 1.0, attempt=1, end=end)
    written = asyncio.Event()

    async def mirror() -> None:
        await written.wait()

    output = asyncio.create_task(mirror())
    collected = asyncio.create_task(
        collecting.collect(context, gate, job, asker, Spent(meta, jobs), output)
    )
    for _ in range(10):
        await asyncio.sleep(0)
    assert not collected.done()
    written.set()
    outcome = await collected
    assert outcome.failure == REFUSED
    assert outcome.collected is None
