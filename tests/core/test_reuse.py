"""Which partitions may wait for another job, and how often their jobs are looked at for that."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.partition import Partition, PartitionSpec
from swm_core.domain.states import JobState, PartitionState
from swm_core.lifecycle.reuse import Reuse
from swm_core.store import Attempt, Outcome

EMPTY = Partition(
    "p1", "cloud", "ann", PartitionSpec("small", node_count=1), "f", PartitionState.READY, 1.0
)


class Jobs:
    """Jobs that have run, each once, on one partition."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self.looked_at: list[str] = []
        attempts = SimpleNamespace(of_job=lambda job_id: [self._attempts[job_id]])
        self.context: Any = SimpleNamespace(
            store=SimpleNamespace(jobs=SimpleNamespace(get=self._get), attempts=attempts)
        )

    def _get(self, job_id: str) -> Job:
        self.looked_at.append(job_id)
        return Job(job_id, "ann", JobSpec(), "", JobState.SUCCEEDED, 1.0, 1.0)

    def ran(self, job_id: str, outcome: Outcome | None, reason: str = "") -> None:
        failure = Failure(FailureReason(reason), "") if reason else None
        place: Any = {"owner": "ann", "site": "cloud", "partition_id": "p1", "allocations": ()}
        times: Any = {"place_time": 1.0, "start_time": 2.0, "end_time": 3.0}
        self._attempts[job_id] = Attempt(
            job_id, 1, **place, **times, outcome=outcome, end=None, failure=failure, to_remove=False
        )


def test_each_job_is_looked_at_once() -> None:
    jobs = Jobs()
    gate: Any = SimpleNamespace(ready=True, drained=False, inventory=SimpleNamespace(nodes={}))
    reuse = Reuse(jobs.context, gate)
    partition = dataclasses.replace(EMPTY, job_id="first")
    jobs.ran("first", Outcome.SUCCEEDED)
    assert reuse.may_wait(partition)
    assert reuse.may_wait(partition)
    assert jobs.looked_at == ["first"]
    partition = dataclasses.replace(partition, served=("second",))
    jobs.ran("second", None)
    assert not reuse.may_wait(partition)
    jobs.ran("second", Outcome.FAILED, "EXIT_CODE")
    assert reuse.may_wait(partition)
    # The same job once more, and this time the node is at fault.
    partition = dataclasses.replace(partition, served=("second", "first"))
    jobs.ran("first", Outcome.FAILED, "NODE_FAIL")
    assert not reuse.may_wait(partition)
    assert jobs.looked_at == ["first", "second", "second", "first"]


def test_one_that_nothing_has_run_on_does_not_wait() -> None:
    gate: Any = SimpleNamespace(ready=True, drained=False, inventory=SimpleNamespace(nodes={}))
    assert not Reuse(Jobs().context, gate).may_wait(EMPTY)
