"""What becomes of jobs when their store was put back from a backup, or copied.

What was done since is not known, and sites prove it only for a while and where they are asked: a
job that waits here for a place may have run somewhere, long ago. So nothing of before is started
any more. What had a place is only followed: if its site has it still, its results come home.
"""

from __future__ import annotations

import dataclasses

from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.domain.partition import Partition
from swm_core.domain.states import JobState, PartitionState
from swm_core.store.database import Transaction
from swm_core.store.jobs import Jobs, Step
from swm_core.store.partitions import Partitions

_ATTEMPTS = 100
"""So many numbers of attempts are left to those that this store does not know of."""
_ON_THE_WAY = (JobState.PROVISIONING, JobState.STAGING_IN, JobState.STARTING, JobState.RUNNING)


def raise_attempts(transaction: Transaction) -> None:
    """Have the next attempt of every job be one whose number no store has given yet."""
    transaction.execute(
        "UPDATE jobs SET record = json_set(record, '$.attempt_floor',"
        " (max(coalesce(json_extract(record, '$.attempt'), 0),"
        " coalesce(json_extract(record, '$.attempt_floor'), 0)) / ? + 1) * ?)",
        (_ATTEMPTS, _ATTEMPTS),
    )


async def hold_back(jobs: Jobs, partitions: Partitions, *, time: float) -> int:
    """Start nothing any more of what the store has; may be done twice.

    Args:
        jobs: All jobs; nobody else changes them meanwhile.
        partitions: All partitions.
        time: Now; seconds since the epoch.

    Returns:
        How many jobs have ended by it: whether they ran is not known.
    """
    ended = 0
    for job in jobs.active():
        if job.state is JobState.QUEUED:
            await jobs.transitions(job, [_given_up(job, time)])
            ended += 1
        elif not job.uncertain:
            steps = _followed(job, time)
            if steps[-1].job.state is job.state:
                await jobs.update(job, steps[-1].job, message=steps[-1].message)
            else:
                await jobs.transitions(job, steps)
    for partition in partitions.active():
        if partition.state is PartitionState.CREATING:
            await partitions.transition(partition, _as_it_may_be(partition, time))
    return ended


def _given_up(job: Job, time: float) -> Step:
    text = (
        "the core's store was put back from a backup or copied, so whether the job has run since "
        f"is not known; `swm requeue {job.job_id}` runs it, maybe once more"
    )
    after = dataclasses.replace(
        job,
        state=JobState.FAILED,
        state_time=time,
        end_time=time,
        text=text,
        failure=Failure(FailureReason.END_UNKNOWN, text),
    )
    return Step(after, FailureReason.END_UNKNOWN, text)


def _followed(job: Job, time: float) -> list[Step]:
    text = "the core's store was put back from a backup or copied: looking for it at its site"
    after = dataclasses.replace(
        job, uncertain=True, claimed=True, retries_left=0, state_time=time, text=text
    )
    if job.state is JobState.RUNNING or job.state is JobState.STAGING_OUT:
        return [Step(after, "", text)]
    later = _ON_THE_WAY[_ON_THE_WAY.index(job.state) + 1 :] if job.state in _ON_THE_WAY else ()
    states = later or (JobState.RUNNING,)
    return [Step(dataclasses.replace(after, state=state), "", text) for state in states]


def _as_it_may_be(partition: Partition, time: float) -> Partition:
    """It is looked for, and not created: that might make it anew."""
    text = "the core's store was put back from a backup or copied: looking for it"
    return dataclasses.replace(partition, state=PartitionState.READY, ready_time=time, text=text)
