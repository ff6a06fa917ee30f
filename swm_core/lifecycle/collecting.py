"""Bring what an attempt has left at its site home, and tell whether it has failed."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import NamedTuple

from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError
from swm_core.lifecycle.asking import Asker, AttemptFailed
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.patience import OutOfReach, Overdue, Spent, patient
from swm_core.lifecycle.staging_out import Collected, Collection
from swm_core.spool import SpoolFull


class Outcome(NamedTuple):
    """How an attempt came out."""

    failure: Failure | None
    """Why it failed: by itself, or because its results could not be had."""
    collected: Collected | None
    """Its results, if they are in the spool."""


async def collect(
    context: Context, gate: Gate, job: Job, asker: Asker, spent: Spent, output: asyncio.Task[None]
) -> Outcome:
    """Bring outputs and logs home.

    Args:
        context: The core's parts.
        gate: The attempt's.
        job: The job, which has ended at its site.
        asker: Asks the gate about the attempt.
        spent: What jobs have spent of their deadlines.
        output: Mirrors what it wrote; it goes on when this is given up.
    """
    failure = _failure_of(job)
    collected: Collected | None = None
    collection = Collection(context, gate, job)
    deadlines = context.deadlines
    lost_s, limit_s = deadlines.site_lost, deadlines.staging_out
    try:
        async with patient(job, gate, spent, limit_s=limit_s, lost_s=lost_s):
            if not job.cancel_requested and job.end is not None and job.end.start_time:
                try:
                    collected = await _results(context, job, asker, collection)
                    failure = failure or collected.failure
                except AttemptFailed as error:
                    # What it wrote may tell why, and is to be had all the same.
                    failure = failure or error.failure
            await asyncio.shield(output)
    except Overdue:
        text = f"results could not be collected within {limit_s:.0f} s"
        reason = FailureReason.STAGING_FAILED
        if collection.refused is not None:
            text, reason = f"{text}: {collection.refused}", FailureReason.SPOOL_FULL
        failure = failure or Failure(reason, text)
    except OutOfReach as error:
        text = f"its results are lost: {error}"
        failure = failure or Failure(FailureReason.SITE_LOST, text)
    finally:
        collection.close()
    return Outcome(_explained(context, job, failure), collected)


async def _results(context: Context, job: Job, asker: Asker, collection: Collection) -> Collected:
    """Its outputs, once the core has room for them."""
    backoff = Backoff(first_s=0.5, most_s=60.0)
    while True:
        try:
            return await asker.ask(job, "give its results", collection.run)
        except GateError as error:
            text = f"nothing is left of its results at site {job.site}: {error.message}"
            raise AttemptFailed(Failure(FailureReason.STAGING_FAILED, text)) from error
        except SpoolFull as error:
            text = f"its results wait for room in the core's spool: {error}"
            await context.jobs.note(job.job_id, text)
            await asyncio.sleep(backoff.next())


def _failure_of(job: Job) -> Failure | None:
    """Why the job failed, going by its end at the site."""
    end = job.end
    if end is None:
        return None
    if end.failure is not None:
        return end.failure
    if end.signal is not None:
        return Failure(FailureReason.SIGNAL, f"ended by signal {end.signal}")
    if end.exit_code:
        return Failure(FailureReason.EXIT_CODE, f"exit code {end.exit_code}")
    return None


def _explained(context: Context, job: Job, failure: Failure | None) -> Failure | None:
    """The failure, with what the core knows of why its nodes went down."""
    partition = context.partitions.get(job.partition_id)
    if failure is None or failure.reason is not FailureReason.NODE_FAIL:
        return failure
    if partition is None or not partition.expired:
        return failure
    text = f"its partition expired while this core was away: {failure.message}"
    return dataclasses.replace(failure, message=text)
