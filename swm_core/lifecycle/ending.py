"""The two steps by which an attempt ends: it has ended at its site, then it is concluded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from skyport.gate.v1 import types_pb2
from swm_core.domain.failures import Failure, FailureReason, may_retry
from swm_core.domain.job import End, Job
from swm_core.domain.states import JobState
from swm_core.gateways import convert
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.staging_out import Collected
from swm_core.store import Step
from swm_core.store.attempts import Outcome

_PLACED_AGAIN_AFTER_S = 5.0
_PLACED_AGAIN_MOST_S = 60.0
_MOST_LOOKED_AT = 20
"""So many attempts are enough to tell that the pause is the longest."""


async def ended_at_site(
    context: Context, job_id: str, end: End, *, allocations: Sequence[types_pb2.Allocation] = ()
) -> None:
    """Store that nothing of the attempt runs any more; its results are to be collected.

    Args:
        context: The core's parts.
        job_id: Whose latest attempt it is.
        end: How it ended.
        allocations: What it had at its site, for a job of which that is not known.
    """

    def decide(job: Job) -> Sequence[Step]:
        changes: dict[str, Any] = {
            "end": end,
            # What has an exit code has begun, whether RUNNING was ever seen or not.
            "claimed": job.claimed or end.start_time is not None,
            "start_time": end.start_time or job.start_time,
        }
        if allocations and not job.allocations:
            changes["allocations"] = convert.allocations(allocations)
        return [
            context.jobs.step(job, JobState.STAGING_OUT, message="collecting results", **changes)
        ]

    await context.jobs.apply(job_id, decide)


async def conclude(
    context: Context, job_id: str, failure: Failure | None, collected: Collected | None = None
) -> None:
    """The attempt is over: the job ends with it, or is queued again.

    Args:
        context: The core's parts.
        job_id: Whose latest attempt it is.
        failure: Why it failed; None: it succeeded, or was cancelled.
        collected: Its results, where they are safe.
    """

    def decide(job: Job) -> Sequence[Step]:
        jobs = context.jobs
        ended: dict[str, Any] = {"end_time": context.clock()}
        if collected is not None:
            ended |= {
                "output_manifest_sha256": collected.manifest_sha256,
                "skipped_outputs": collected.skipped,
                "unmatched_outputs": collected.unmatched,
            }
        if job.cancel_requested:
            text = "cancelled; its site never confirmed it" if job.force else "cancelled"
            return [jobs.step(job, JobState.CANCELLED, "CANCELLED", text, **ended)]
        if failure is None:
            return [jobs.step(job, JobState.SUCCEEDED, message="done", **ended)]
        if may_retry(failure, claimed=job.claimed, retries_left=job.retries_left):
            return [_again(context, job, failure)]
        return [
            jobs.step(
                job, JobState.FAILED, failure.reason, failure.message, failure=failure, **ended
            )
        ]

    await context.jobs.apply(job_id, decide)


def _again(context: Context, job: Job, failure: Failure) -> Step:
    """Back into the queue, as an attempt to come."""
    partition = context.store.partitions.get(job.partition_id)
    where = f" on {partition.what}" if partition is not None else ""
    # Where there was no room is left out for a while; elsewhere there may be some.
    wait_s = 0.0 if failure.reason is FailureReason.NO_CAPACITY else _pause_s(context, job)
    when = f" in {wait_s:.0f} s" if wait_s else ""
    return context.jobs.step(
        job,
        JobState.QUEUED,
        failure.reason,
        f"attempt {job.attempt} failed{where} ({failure.message}); trying again{when}",
        retries_left=job.retries_left - (1 if job.claimed else 0),
        failure=failure,
        # A deadline was this attempt's own; what costs too much ends the next one as well.
        stop=job.stop if job.stop and job.stop.reason is FailureReason.BUDGET else None,
        partition_id="",
        allocations=(),
        not_before=context.clock() + wait_s if wait_s else 0.0,
    )


def _pause_s(context: Context, job: Job) -> float:
    """How long the job's next attempt is put off: longer with each that came to nothing in a row.

    What its site lacks may be lacking for hours, and nothing limits how often it is tried.
    """
    if job.claimed:
        return _PLACED_AGAIN_AFTER_S
    before = context.store.attempts.latest(job.job_id, _MOST_LOOKED_AT, before=job.attempt)
    in_vain = itertools.takewhile(
        lambda each: each.outcome is Outcome.REQUEUED and each.start_time is None, before
    )
    count = sum(
        each.failure is None or each.failure.reason is not FailureReason.NO_CAPACITY
        for each in in_vain
    )
    return min(_PLACED_AGAIN_MOST_S, _PLACED_AGAIN_AFTER_S * 2.0**count)
