"""Attempts follow their job, and nothing that a site may still hold is forgotten."""

from __future__ import annotations

import dataclasses

from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Allocation, End, Job
from swm_core.domain.states import JobState
from swm_core.store import Outcome, Step, Store
from tests.core.store.conftest import MakeJob

NODE_FAIL = Failure(FailureReason.NODE_FAIL, "the node went away", retryable=True)


def at(job: Job, state: JobState, **fields: object) -> Job:
    return dataclasses.replace(job, state=state, state_time=job.state_time + 1, **fields)  # type: ignore[arg-type]


async def placed(store: Store, job: Job, site: str = "here") -> Job:
    after = at(
        job,
        JobState.PROVISIONING,
        attempt=job.attempt + 1,
        site=site,
        partition_id="p1",
        allocations=(Allocation("n1", 1, 0),),
    )
    return await store.jobs.transition(job, after)


async def submitted(store: Store, job: Job) -> Job:
    stored, _ = await store.jobs.submit(job, b"true", "", "f", {})
    return stored


async def test_a_job_that_was_never_placed_has_no_attempt(store: Store, make_job: MakeJob) -> None:
    job = await submitted(store, make_job())
    await store.jobs.transition(job, at(job, JobState.CANCELLED))
    assert store.attempts.of_job(job.job_id) == []
    assert store.attempts.pending_removals() == []


async def test_an_attempt_tells_where_and_how_it_went(store: Store, make_job: MakeJob) -> None:
    job = await placed(store, await submitted(store, make_job()))
    [attempt] = store.attempts.of_job(job.job_id)
    assert (attempt.site, attempt.partition_id, attempt.outcome) == ("here", "p1", None)
    assert attempt.place_time == job.state_time

    steps = [at(job, JobState.STAGING_IN)]
    steps.append(at(steps[-1], JobState.STARTING))
    steps.append(at(steps[-1], JobState.RUNNING, start_time=5.0, claimed=True))
    job = await store.jobs.transitions(job, [Step(each) for each in steps])
    # A port that the node gave comes with an update, within the state.
    share = Allocation("n1", 1, 0, ports={"nb": 40001})
    job = await store.jobs.update(job, dataclasses.replace(job, allocations=(share,)))
    [attempt] = store.attempts.of_job(job.job_id)
    assert (attempt.start_time, attempt.allocations) == (5.0, (share,))

    end = End(exit_code=3, cpu_time_s=1.5, max_mem_bytes=4096)
    failure = Failure(FailureReason.EXIT_CODE, "exit code 3")
    out = at(job, JobState.STAGING_OUT, end=end)
    failed = at(out, JobState.FAILED, failure=failure)
    job = await store.jobs.transitions(job, [Step(out), Step(failed)])
    [attempt] = store.attempts.of_job(job.job_id)
    assert (attempt.outcome, attempt.end, attempt.failure) == (Outcome.FAILED, end, failure)
    assert (attempt.start_time, attempt.end_time) == (5.0, job.state_time)


async def test_each_placement_is_an_attempt_and_the_last_ends_with_the_job(
    store: Store, make_job: MakeJob
) -> None:
    job = await placed(store, await submitted(store, make_job()), "one")
    back = at(job, JobState.QUEUED, site="", partition_id="", allocations=())
    job = await store.jobs.transition(job, back, reason="NODE_FAIL", failure=NODE_FAIL)
    job = await placed(store, job, "two")
    job = await store.jobs.transition(job, at(job, JobState.CANCELLED))
    first, second = store.attempts.of_job(job.job_id)
    assert (first.attempt, first.site, first.outcome) == (1, "one", Outcome.REQUEUED)
    assert first.failure == NODE_FAIL
    assert first.allocations == (Allocation("n1", 1, 0),)
    assert (second.attempt, second.site, second.outcome) == (2, "two", Outcome.CANCELLED)


async def test_what_happens_in_the_queue_does_not_change_an_attempt_that_has_ended(
    store: Store, make_job: MakeJob
) -> None:
    job = await placed(store, await submitted(store, make_job()))
    job = await store.jobs.transition(job, at(job, JobState.QUEUED), failure=NODE_FAIL)
    before = store.attempts.of_job(job.job_id)
    job = await store.jobs.update(job, dataclasses.replace(job, text="waits again"))
    job = await store.jobs.transition(job, at(job, JobState.CANCELLED))
    await store.jobs.transition(job, at(job, JobState.QUEUED))
    assert store.attempts.of_job(job.job_id) == before


async def test_a_folder_is_to_be_removed_once_its_attempt_has_ended_until_it_is(
    store: Store, make_job: MakeJob
) -> None:
    job = await placed(store, await submitted(store, make_job()), "one")
    assert store.attempts.pending_removals() == []
    job = await store.jobs.transition(job, at(job, JobState.QUEUED), failure=NODE_FAIL)
    job = await placed(store, job, "two")
    assert [each.attempt for each in store.attempts.pending_removals()] == [1]

    job = await store.jobs.transition(job, at(job, JobState.CANCELLED))
    # Also when the job itself is gone.
    await store.jobs.delete(job.job_id)
    assert [each.attempt for each in store.attempts.pending_removals()] == [1, 2]
    assert [each.attempt for each in store.attempts.pending_removals("two")] == [2]
    await store.attempts.removed(job.job_id, 1)
    await store.attempts.removed(job.job_id, 1)
    assert [each.attempt for each in store.attempts.pending_removals()] == [2]
    await store.attempts.removed(job.job_id, 2)
    assert store.attempts.pending_removals() == []
    assert [each.to_remove for each in store.attempts.of_job(job.job_id)] == [False, False]


async def test_all_that_were_placed_are_read_however_many_there_are(
    store: Store, make_job: MakeJob
) -> None:
    for number in range(20):
        owner = "ann" if number % 2 else "bo"
        job = await placed(store, await submitted(store, make_job(owner=owner)))
        back = at(job, JobState.QUEUED, site="", partition_id="", allocations=())
        job = await store.jobs.transition(job, back, reason="NODE_FAIL", failure=NODE_FAIL)
        await placed(store, job)
    of_ann = list(store.attempts.placed(owner="ann"))
    everybodys = list(store.attempts.placed())
    assert (len(of_ann), len(everybodys)) == (20, 40)
    keys = [(each.job_id, each.attempt) for each in everybodys]
    assert keys == sorted(set(keys))
    assert {each.owner for each in of_ann} == {"ann"}
    assert not list(store.attempts.placed(before=everybodys[0].place_time))
