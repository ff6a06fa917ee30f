"""What the store promises about jobs: submitted once, changed in order, forgotten on request."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from swm_core.domain.job import Allocation, End, Job
from swm_core.domain.states import IllegalTransition, JobState
from swm_core.store import (
    AlreadyExists,
    EventKind,
    NotFound,
    NotTerminal,
    RequestIdReused,
    StaleJob,
    Step,
    Store,
)
from tests.core.store.conftest import MakeJob


def at(job: Job, state: JobState, **fields: object) -> Job:
    return dataclasses.replace(job, state=state, state_time=job.state_time + 1, **fields)  # type: ignore[arg-type]


async def submitted(store: Store, job: Job, script: bytes = b"true", **secrets: str) -> Job:
    stored, created = await store.jobs.submit(job, script, "", "f", secrets)
    assert created
    return stored


async def run_to_end(store: Store, job: Job) -> Job:
    """Through all states to SUCCEEDED, as one attempt."""
    placed = at(job, JobState.PROVISIONING, attempt=job.attempt + 1, site="here")
    staging = at(placed, JobState.STAGING_IN)
    starting = at(staging, JobState.STARTING)
    out = at(starting, JobState.STAGING_OUT, end=End(exit_code=0))
    done = at(out, JobState.SUCCEEDED)
    return await store.jobs.transitions(
        job, [Step(each) for each in (placed, staging, starting, out, done)]
    )


async def test_a_submitted_job_is_found_again_after_a_restart(
    store_path: Path, make_job: MakeJob
) -> None:
    store = Store.open(store_path)
    job = await submitted(store, make_job(), b"#!/bin/sh\n\xff\n", TOKEN="abc")
    await store.close()

    again = Store.open(store_path)
    assert again.jobs.get(job.job_id) == job
    assert again.jobs.active() == [job]
    assert again.jobs.script(job.job_id) == b"#!/bin/sh\n\xff\n"
    assert again.jobs.secrets(job.job_id) == {"TOKEN": "abc"}
    assert again.journal.latest() == job.last_sequence
    await again.close()


async def test_the_same_request_answers_the_same_job_as_it_is_now(
    store: Store, make_job: MakeJob
) -> None:
    first, created = await store.jobs.submit(make_job(), b"true", "r1", "f1", {})
    assert created
    moved = await store.jobs.update(first, dataclasses.replace(first, text="waiting"))
    second, created = await store.jobs.submit(make_job(), b"true", "r1", "f1", {})
    assert (second, created) == (moved, False)
    assert store.jobs.active() == [moved]
    assert store.journal.latest() == moved.last_sequence


async def test_the_same_request_at_the_same_time_makes_one_job(
    store: Store, make_job: MakeJob
) -> None:
    answers = await asyncio.gather(
        *(store.jobs.submit(make_job(), b"true", "r1", "f1", {}) for _ in range(16))
    )
    assert [created for _, created in answers].count(True) == 1
    assert len({job.job_id for job, _ in answers}) == 1


async def test_a_request_id_with_other_content_is_refused(store: Store, make_job: MakeJob) -> None:
    await store.jobs.submit(make_job(), b"true", "r1", "f1", {})
    with pytest.raises(RequestIdReused, match="r1"):
        await store.jobs.submit(make_job(), b"false", "r1", "f2", {})
    # Another owner's requests, and requests without an id, have nothing to do with it.
    for owner, request_id in (("bob", "r1"), ("alice", ""), ("alice", "")):
        _, created = await store.jobs.submit(make_job(owner=owner), b"", request_id, "f2", {})
        assert created


async def test_a_job_id_is_taken_once(store: Store, make_job: MakeJob) -> None:
    job = await submitted(store, make_job(job_id="one"))
    with pytest.raises(AlreadyExists, match="one"):
        await store.jobs.submit(make_job(job_id="one", owner="bob"), b"", "r1", "f", {})
    assert store.jobs.get("one") == job
    assert store.journal.latest() == job.last_sequence


async def test_a_transition_is_journaled_with_its_reason(store: Store, make_job: MakeJob) -> None:
    job = await submitted(store, make_job())
    failed = await store.jobs.transition(
        job, at(job, JobState.FAILED), reason="NO_CAPACITY", message="no node has 64 cpus"
    )
    assert store.jobs.get(job.job_id) == failed
    event = store.journal.since(job.last_sequence).events[-1]
    assert event.sequence == failed.last_sequence == job.last_sequence + 1
    assert (event.kind, event.from_state, event.to_state) == (
        EventKind.TRANSITION,
        JobState.QUEUED,
        JobState.FAILED,
    )
    assert (event.reason, event.message) == ("NO_CAPACITY", "no node has 64 cpus")
    assert event.time == failed.state_time


async def test_an_illegal_transition_raises_and_writes_nothing(
    store: Store, make_job: MakeJob
) -> None:
    job = await submitted(store, make_job())
    steps = [Step(at(job, JobState.PROVISIONING)), Step(at(job, JobState.RUNNING))]
    with pytest.raises(IllegalTransition):
        await store.jobs.transitions(job, steps)
    assert store.jobs.get(job.job_id) == job
    assert store.journal.latest() == job.last_sequence


async def test_of_two_changes_of_the_same_value_one_is_stale(
    store: Store, make_job: MakeJob
) -> None:
    job = await submitted(store, make_job())
    results = await asyncio.gather(
        store.jobs.transition(job, at(job, JobState.CANCELLED)),
        store.jobs.transition(job, at(job, JobState.PROVISIONING, attempt=1)),
        store.jobs.update(job, dataclasses.replace(job, text="late")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Job, StaleJob, StaleJob]
    assert store.jobs.get(job.job_id) == results[0]
    # The loser can go on from what it reads.
    assert store.attempts.of_job(job.job_id) == []


async def test_several_transitions_are_kept_together_or_not_at_all(
    store: Store, make_job: MakeJob
) -> None:
    job = await submitted(store, make_job())
    placed = at(job, JobState.PROVISIONING, attempt=1, site="here")
    staging = at(placed, JobState.STAGING_IN)
    moved = await store.jobs.transitions(job, [Step(placed), Step(staging, message="5 files")])
    assert moved.state is JobState.STAGING_IN
    assert moved.last_sequence == job.last_sequence + 2
    with pytest.raises(StaleJob):
        await store.jobs.transitions(job, [Step(placed), Step(staging)])
    assert store.journal.latest() == moved.last_sequence


async def test_an_update_keeps_the_state_and_is_marked_as_such(
    store: Store, make_job: MakeJob
) -> None:
    job = await submitted(store, make_job())
    changed = await store.jobs.update(
        job, dataclasses.replace(job, text="waits for a node"), message="waits for a node"
    )
    assert store.jobs.get(job.job_id) == changed
    event = store.journal.since(job.last_sequence).events[-1]
    assert event.kind is EventKind.UPDATED
    assert event.from_state is event.to_state is JobState.QUEUED
    with pytest.raises(ValueError, match="state"):
        await store.jobs.update(changed, at(changed, JobState.CANCELLED))


async def test_secrets_are_erased_from_the_file_when_the_job_ends(
    store_path: Path, make_job: MakeJob
) -> None:
    secret = "correct-horse-battery-staple"
    store = Store.open(store_path)
    job = await submitted(store, make_job(), TOKEN=secret)
    assert store.jobs.secrets(job.job_id) == {"TOKEN": secret}
    assert secret in on_disk(store_path)
    ended = await run_to_end(store, job)
    assert store.jobs.secrets(job.job_id) == {}
    assert store.jobs.secret_names(job.job_id) == {"TOKEN"}
    # Also of a store that stays open, and of its log.
    await erased(store_path, secret)
    await store.close()
    assert secret not in on_disk(store_path)

    # A requeue brings them again.
    store = Store.open(store_path)
    again = at(ended, JobState.QUEUED)
    await store.jobs.transitions(ended, [Step(again, "REQUEUED")], secrets={"TOKEN": "new"})
    assert store.jobs.secrets(job.job_id) == {"TOKEN": "new"}
    await store.close()


async def test_what_a_reader_keeps_in_the_log_is_erased_when_it_has_gone(
    store_path: Path, make_job: MakeJob
) -> None:
    secret = "correct-horse-battery-staple"
    store = Store.open(store_path)
    job = await submitted(store, make_job(), TOKEN=secret)
    reader = sqlite3.connect(store_path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM secrets").fetchone() == (1,)
    ended = await run_to_end(store, job)
    await asyncio.sleep(1.5)  # longer than it waits for a quiet moment
    assert secret in on_disk(store_path)
    await store.jobs.update(ended, dataclasses.replace(ended, text="writes go on meanwhile"))
    reader.close()
    await erased(store_path, secret)
    await store.close()


async def erased(store_path: Path, secret: str) -> None:
    """Wait until a secret is in no file of a store."""
    for _ in range(600):
        if secret not in on_disk(store_path):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it is on disk still")


def on_disk(store_path: Path) -> str:
    """All that the files of a store hold."""
    files = sorted(store_path.parent.glob("swm.db*"))
    return b"".join(path.read_bytes() for path in files).decode("latin-1")


async def test_only_a_job_that_has_ended_can_be_deleted(store: Store, make_job: MakeJob) -> None:
    job = await submitted(store, make_job(), TOKEN="abc")
    with pytest.raises(NotTerminal, match="cancel it first"):
        await store.jobs.delete(job.job_id)
    ended = await store.jobs.transition(job, at(job, JobState.CANCELLED))
    assert await store.jobs.delete(job.job_id) == ended
    assert store.jobs.get(job.job_id) is None
    assert store.jobs.secret_names(job.job_id) == frozenset()
    for read in (store.jobs.script, store.jobs.submit_sequence):
        with pytest.raises(NotFound):
            read(job.job_id)
    event = store.journal.since(ended.last_sequence).events[-1]
    assert (event.kind, event.job_id) == (EventKind.DELETED, job.job_id)
    for gone in (
        store.jobs.delete(job.job_id),
        store.jobs.update(ended, dataclasses.replace(ended, text="x")),
    ):
        with pytest.raises(NotFound):
            await gone


async def test_watching_from_before_the_submit_tells_everything_of_the_job(
    store: Store, make_job: MakeJob
) -> None:
    await submitted(store, make_job())
    job = await submitted(store, make_job())
    await run_to_end(store, job)
    first = store.jobs.submit_sequence(job.job_id)
    events = store.journal.since(first - 1, job_ids=[job.job_id]).events
    assert [event.to_state for event in events] == [
        JobState.QUEUED,
        JobState.PROVISIONING,
        JobState.STAGING_IN,
        JobState.STARTING,
        JobState.STAGING_OUT,
        JobState.SUCCEEDED,
    ]


async def test_retention_finds_jobs_by_the_time_of_their_end(
    store: Store, make_job: MakeJob
) -> None:
    jobs = [await submitted(store, make_job()) for _ in range(4)]
    ends = (30.0, 10.0, 20.0)
    for job, time in zip(jobs, ends, strict=False):
        cancelled = dataclasses.replace(job, state=JobState.CANCELLED, state_time=time)
        await store.jobs.transition(job, cancelled)
    assert store.jobs.ended_before(25.0) == [jobs[1].job_id, jobs[2].job_id]
    assert store.jobs.ended_before(25.0, limit=1) == [jobs[1].job_id]
    # A requeued job has not ended.
    again = store.jobs.get(jobs[1].job_id)
    assert again is not None
    await store.jobs.transition(again, dataclasses.replace(again, state=JobState.QUEUED))
    assert store.jobs.ended_before(25.0) == [jobs[2].job_id]


async def test_references_name_the_manifests_of_every_job(store: Store, make_job: MakeJob) -> None:
    first = await submitted(store, make_job(manifest_sha256="aa"))
    await store.jobs.update(first, dataclasses.replace(first, output_manifest_sha256="bb"))
    second = await submitted(store, make_job(owner="bob"))
    references = await asyncio.to_thread(lambda: list(store.jobs.references()))
    assert references == [("alice", first.job_id, ("aa", "bb")), ("bob", second.job_id, ())]


async def test_allocations_and_ends_survive(store: Store, make_job: MakeJob) -> None:
    job = await submitted(store, make_job())
    share = Allocation("n1", 4, 2**33, gpu_ids=("0", "1"), ports={"nb": 8888})
    placed = at(job, JobState.PROVISIONING, attempt=1, site="here", allocations=(share,))
    moved = await store.jobs.transition(job, placed)
    assert store.jobs.get(job.job_id) == moved
    assert moved.allocations == (share,)
