"""What is taken of the two ways by which a gate tells of an attempt."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from skyport.gate.v1 import job_pb2
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.gateways.slots import Slot
from swm_core.gateways.subscriptions import AttemptKey
from swm_core.lifecycle.at_site import AttemptAtSite

RUNS = job_pb2.JobStatus(state=job_pb2.JOB_STATE_RUNNING)
ENDED = job_pb2.JobStatus(state=job_pb2.JOB_STATE_RUNNING, end=job_pb2.JobEnd(exit_code=0))


@pytest.mark.parametrize(
    ("answered", "watched", "taken"),
    [
        (RUNS, None, RUNS),
        # What was asked for before it ended, and comes after that was told.
        (RUNS, ENDED, ENDED),
        (ENDED, RUNS, ENDED),
    ],
)
async def test_an_answer_that_is_older_than_the_watch_is_not_taken(
    answered: job_pb2.JobStatus, watched: job_pb2.JobStatus | None, taken: job_pb2.JobStatus
) -> None:
    slot: Slot[job_pb2.JobStatus] = Slot()

    async def ask(*_: object, **__: object) -> job_pb2.GetJobResponse:
        if watched is not None:
            slot.put(watched)
        return job_pb2.GetJobResponse(status=answered)

    asker: Any = SimpleNamespace(ask=ask)
    nobody: Any = None
    site = AttemptAtSite(nobody, nobody, AttemptKey("j1", 1), slot, asker, nobody)
    now = time.time()
    await site._look(Job("j1", "ann", JobSpec(), "", JobState.RUNNING, now, now, attempt=1))
    assert slot.value == taken
