"""The journal: nothing is lost or told twice, and a watcher that is too late is told so."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path

import pytest

from swm_core.domain.job import Job
from swm_core.domain.states import JobState
from swm_core.store import Event, EventKind, SequenceExpired, Store, Subscription, journal
from tests.core.store.conftest import MakeJob

DEADLINE_S = 10


async def submitted(store: Store, job: Job) -> Job:
    stored, _ = await store.jobs.submit(job, b"true", "", "f", {})
    return stored


async def cancelled(store: Store, job: Job) -> Job:
    after = dataclasses.replace(job, state=JobState.CANCELLED, state_time=job.state_time + 1)
    return await store.jobs.transition(job, after)


async def next_events(subscription: Subscription, limit: int = 1000) -> list[Event]:
    return await asyncio.wait_for(subscription.next(limit), DEADLINE_S)


async def test_sequences_have_no_gap_although_writes_fail_between(
    store: Store, make_job: MakeJob
) -> None:
    job = await submitted(store, make_job(job_id="one"))
    await asyncio.gather(
        submitted(store, make_job()),
        store.jobs.submit(make_job(job_id="one"), b"", "", "f", {}),
        submitted(store, make_job()),
        return_exceptions=True,
    )
    events = store.journal.since(0).events
    assert [event.sequence for event in events] == [1, 2, 3]
    assert store.journal.latest() == job.last_sequence + 2


@pytest.mark.parametrize("ring", [4, 8192], ids=["from the table", "from memory"])
@pytest.mark.parametrize("scan", [3, 5000])
async def test_events_are_told_in_order_to_whom_they_concern(
    store: Store, make_job: MakeJob, ring: int, scan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_RING", ring)
    monkeypatch.setattr(journal, "_SCAN", scan)
    jobs = [await submitted(store, make_job(owner="ab"[n % 2])) for n in range(20)]
    ended = [await cancelled(store, job) for job in jobs]

    def told(**query: object) -> list[Event]:
        found: list[Event] = []
        position = 0
        for _ in range(100):
            page = store.journal.since(position, limit=5, **query)  # type: ignore[arg-type]
            assert page.position > position
            position = page.position
            found.extend(page.events)
            if position == store.journal.latest():
                return found
        raise AssertionError("the pages do not end")

    everything = told()
    assert [event.sequence for event in everything] == list(range(1, 41))
    assert everything[0].kind is EventKind.SUBMITTED
    assert everything[-1].sequence == ended[-1].last_sequence
    assert told(owner="a") == [event for event in everything if event.owner == "a"]
    chosen = {jobs[3].job_id, jobs[4].job_id}
    some = [event for event in everything if event.job_id in chosen]
    assert told(job_ids=chosen) == some
    assert told(job_ids=chosen, owner="a") == [event for event in some if event.owner == "a"]
    many = {job.job_id for job in jobs}
    assert told(job_ids=many) == everything


async def test_a_watcher_is_woken_by_what_it_watches_only(store: Store, make_job: MakeJob) -> None:
    mine = await submitted(store, make_job(owner="alice"))
    theirs = await submitted(store, make_job(owner="bob"))
    latest = store.journal.latest()
    with (
        store.journal.subscribe(latest) as everything,
        store.journal.subscribe(latest, owner="alice") as alice,
        store.journal.subscribe(latest, job_ids=[mine.job_id]) as one,
        store.journal.subscribe(latest, job_ids=[theirs.job_id], owner="alice") as nothing,
    ):
        waiting = [asyncio.create_task(each.next()) for each in (everything, alice, one, nothing)]
        await asyncio.sleep(0)
        await cancelled(store, theirs)
        assert [event.job_id for event in await waiting[0]] == [theirs.job_id]
        assert not any(task.done() for task in waiting[1:])
        await cancelled(store, mine)
        for task in waiting[1:3]:
            assert [event.job_id for event in await task] == [mine.job_id]
        assert not waiting[3].done()
        waiting[3].cancel()
        # Having nothing to tell is also a place to resume from.
        assert nothing.position == store.journal.latest()


async def test_a_watcher_misses_nothing_while_it_is_busy_elsewhere(
    store: Store, make_job: MakeJob
) -> None:
    with store.journal.subscribe(0, owner="alice") as watcher:
        seen: list[int] = []
        for _ in range(5):
            await asyncio.gather(*(submitted(store, make_job()) for _ in range(20)))
            await submitted(store, make_job(owner="bob"))
            seen.extend(event.sequence for event in await next_events(watcher, limit=7))
        while not watcher.caught_up:
            seen.extend(event.sequence for event in watcher.ready(limit=7))
    alices = [event.sequence for event in store.journal.since(0, owner="alice").events]
    assert len(alices) == 100
    assert seen == alices


async def test_waiting_can_be_given_up_and_taken_up_again(store: Store, make_job: MakeJob) -> None:
    """As a servicer does that sends heartbeats."""
    with store.journal.subscribe(0, owner="alice") as watcher:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watcher.next(), 0.01)
        job = await submitted(store, make_job())
        [event] = await next_events(watcher)
        assert event.job_id == job.job_id
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watcher.next(), 0.01)
        assert watcher.position == job.last_sequence


async def test_a_closed_watcher_leaves_nothing_behind(store: Store) -> None:
    for query in ({}, {"owner": "alice"}, {"job_ids": ["one", "two"]}):
        with store.journal.subscribe(0, **query):
            pass
    kept = store.journal
    assert (kept._everything, kept._by_owner, kept._by_job) == (set(), {}, {})


async def test_a_watcher_goes_on_after_a_restart(store_path: Path, make_job: MakeJob) -> None:
    store = Store.open(store_path)
    first = await submitted(store, make_job())
    await store.close()
    store = Store.open(store_path)
    second = await submitted(store, make_job())
    with store.journal.subscribe(first.last_sequence) as watcher:
        [event] = await next_events(watcher)
    assert event.job_id == second.job_id
    await store.close()


async def test_old_events_are_compacted_but_those_of_active_jobs(
    store: Store, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_CHUNK", 3)
    monkeypatch.setattr(journal, "_RING", 1)
    active = await submitted(store, make_job(submit_time=1.0))
    ended = [
        await cancelled(store, await submitted(store, make_job(submit_time=1.0))) for _ in range(5)
    ]
    young = await submitted(store, make_job(submit_time=5000.0))

    assert await store.journal.compact(before_time=4000.0, keep=0) == 10
    assert store.journal.oldest() == young.last_sequence
    # The active job can still be watched from its submit; everything cannot.
    page = store.journal.since(0, job_ids=[active.job_id])
    assert [event.sequence for event in page.events] == [active.last_sequence]
    for expired in ({}, {"owner": "alice"}, {"job_ids": [active.job_id, ended[0].job_id]}):
        with pytest.raises(SequenceExpired) as caught:
            store.journal.since(0, **expired)
        assert caught.value.oldest == young.last_sequence
    oldest = store.journal.since(store.journal.oldest() - 1)
    assert [event.job_id for event in oldest.events] == [young.job_id]

    # When the job has ended, the next compaction takes the rest of it.
    await cancelled(store, active)
    assert await store.journal.compact(before_time=4000.0, keep=0) >= 1
    with pytest.raises(SequenceExpired):
        store.journal.since(0, job_ids=[active.job_id])


async def test_the_latest_events_are_kept_whatever_their_age(
    store_path: Path, make_job: MakeJob
) -> None:
    store = Store.open(store_path)
    for _ in range(5):
        await cancelled(store, await submitted(store, make_job(submit_time=1.0)))
    assert await store.journal.compact(before_time=4000.0, keep=4) == 6
    assert len(store.journal.since(6).events) == 4
    assert await store.journal.compact(before_time=4000.0, keep=0) == 3
    await store.close()

    # A sequence is never given twice, and what has expired stays so.
    store = Store.open(store_path)
    assert (store.journal.latest(), store.journal.oldest()) == (10, 10)
    assert (await submitted(store, make_job())).last_sequence == 11
    with pytest.raises(SequenceExpired):
        store.journal.since(8)
    await store.close()


async def test_a_watcher_that_fell_behind_the_compaction_is_told(
    store: Store, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_RING", 1)
    with store.journal.subscribe(0) as watcher:
        for _ in range(5):
            await cancelled(store, await submitted(store, make_job(submit_time=1.0)))
        await store.journal.compact(before_time=4000.0, keep=2)
        with pytest.raises(SequenceExpired):
            await next_events(watcher)


async def test_a_token_from_the_future_is_not_waited_on(store: Store, make_job: MakeJob) -> None:
    """After an older copy of the store was put back, sequences begin again below it."""
    await submitted(store, make_job())
    with pytest.raises(SequenceExpired):
        store.journal.since(1000)


async def test_a_listener_that_fails_costs_no_writer_its_answer(
    store: Store, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(events: object) -> None:
        raise RuntimeError("not my day")

    store._database._listeners.insert(0, fail)
    job = await asyncio.wait_for(submitted(store, make_job()), DEADLINE_S)
    assert store.journal.latest() == job.last_sequence
    assert "a listener of the store failed" in caplog.text


async def test_of_many_watchers_each_is_told_and_none_skips_what_it_has_not_read(
    store: Store, make_job: MakeJob
) -> None:
    latest = store.journal.latest()
    with contextlib.ExitStack() as stack:
        watchers = [stack.enter_context(store.journal.subscribe(latest)) for _ in range(40)]
        reading = [asyncio.create_task(watcher.next()) for watcher in watchers]
        await asyncio.sleep(0)
        job, _ = await store.jobs.submit(make_job(), b"true", "", "f", {})
        # One that is to be told a little later has not read it yet, and does not say so.
        assert {watcher.position for watcher in watchers} <= {latest, job.last_sequence}
        assert not watchers[-1].caught_up or reading[-1].done()
        async with asyncio.timeout(20):
            told = await asyncio.gather(*reading)
        assert [[event.job_id for event in events] for events in told] == [[job.job_id]] * 40
        assert {watcher.position for watcher in watchers} == {job.last_sequence}
