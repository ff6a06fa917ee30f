"""Watches: snapshot, boundary, the latest of each object, heartbeats, and no queue that grows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from gate_kit import Refusal, WatchHub, errors
from skyport.gate.v1 import job_pb2, types_pb2


def _event(job_id: str, text: str = "") -> job_pb2.JobEvent:
    status = job_pb2.JobStatus(ref=types_pb2.JobRef(job_id=job_id), text=text)
    return job_pb2.JobEvent(status=status)


def _shown(events: Sequence[job_pb2.JobEvent]) -> list[str]:
    return [
        f"{event.status.ref.job_id}{event.status.text}"
        if event.HasField("status")
        else str(event.WhichOneof("event"))
        for event in events
    ]


def _hub(heartbeat_s: float = 60.0) -> WatchHub[job_pb2.JobEvent]:
    return WatchHub(job_pb2.JobEvent, "i1", heartbeat_s=heartbeat_s)


async def _nothing() -> AsyncIterator[job_pb2.JobEvent]:
    return
    yield


async def test_a_snapshot_ends_with_a_boundary_and_changes_follow() -> None:
    hub = _hub()

    async def snapshot() -> AsyncIterator[job_pb2.JobEvent]:
        yield _event("a")
        hub.publish("b", _event("b", " changed meanwhile"))
        yield _event("b")

    away = types_pb2.UnreachableNode(name="n1")
    watch = hub.watch(snapshot, unreachable=lambda: [away])
    async with contextlib.aclosing(watch):
        first = await anext(watch)
        assert _shown(first) == ["a", "b", "snapshot_end"]
        boundary = first[-1].snapshot_end
        assert (boundary.incarnation, list(boundary.unreachable)) == ("i1", [away])
        assert _shown(await anext(watch)) == ["b changed meanwhile"]


async def test_a_slow_watcher_gets_the_latest_of_each_object_in_order() -> None:
    hub = _hub()
    watch = hub.watch(_nothing)
    async with contextlib.aclosing(watch):
        await anext(watch)
        for number in range(1_000):
            hub.publish("a", _event("a", str(number)))
            hub.publish(f"k{number % 3}", _event(f"k{number % 3}-", str(number)))
        assert _shown(await anext(watch)) == ["k1-997", "k2-998", "a999", "k0-999"]


async def test_many_events_come_in_bounded_batches() -> None:
    hub = _hub()
    watch = hub.watch(_nothing)
    async with contextlib.aclosing(watch):
        await anext(watch)
        for number in range(250):
            hub.publish(number, _event(f"j{number}"))
        sizes = [len(await anext(watch)) for _ in range(3)]
        assert sizes == [100, 100, 50]
        hub.publish("big", _event("big", "x" * (1 << 20)))
        hub.publish("small", _event("small"))
        assert len(await anext(watch)) == 1
        assert _shown(await anext(watch)) == ["small"]


async def test_a_batch_that_was_exactly_full_is_followed_by_silence_not_an_end() -> None:
    hub = _hub(heartbeat_s=0.05)
    watch = hub.watch(_nothing)
    async with contextlib.aclosing(watch):
        await anext(watch)
        for number in range(100):
            hub.publish(number, _event(f"j{number}"))
        assert len(await anext(watch)) == 100
        assert _shown(await anext(watch)) == ["heartbeat"]


async def test_topics_reach_only_who_wants_them() -> None:
    hub = _hub()
    mine = hub.watch(_nothing, wants=lambda topic: topic == "mine")
    every = hub.watch(_nothing)
    async with contextlib.aclosing(mine), contextlib.aclosing(every):
        await anext(mine)
        await anext(every)
        hub.publish("a", _event("a"), topic="other")
        hub.publish("b", _event("b"), topic="mine")
        hub.publish("c", _event("c"))
        assert _shown(await anext(mine)) == ["b", "c"]
        assert _shown(await anext(every)) == ["a", "b", "c"]


async def test_silence_has_heartbeats_also_within_a_slow_snapshot() -> None:
    hub = _hub(heartbeat_s=0.02)
    go = asyncio.Event()

    async def slow() -> AsyncIterator[job_pb2.JobEvent]:
        yield _event("a")
        await go.wait()
        yield _event("b")

    watch = hub.watch(slow)
    async with contextlib.aclosing(watch), asyncio.timeout(5):
        assert _shown(await anext(watch)) == ["a", "heartbeat"]
        assert _shown(await anext(watch)) == ["heartbeat"]
        go.set()
        rest: list[str] = []
        while "snapshot_end" not in rest:
            rest += _shown(await anext(watch))
        assert [each for each in rest if each != "heartbeat"] == ["b", "snapshot_end"]
        beat = (await anext(watch))[0].heartbeat
        assert beat.incarnation == "i1"


async def test_close_tells_what_was_published_and_ends_every_watch() -> None:
    hub = _hub()
    watch = hub.watch(_nothing)
    await anext(watch)
    hub.publish("a", _event("a"))
    await hub.close()
    assert _shown(await anext(watch)) == ["a"]
    with pytest.raises(Refusal) as ended:
        await anext(watch)
    assert ended.value.reason == "SHUTTING_DOWN"
    with pytest.raises(Refusal):
        await anext(hub.watch(_nothing))


async def test_an_interrupted_watch_ends_with_its_reason_and_can_be_called_again() -> None:
    hub = _hub()
    watch = hub.watch(_nothing)
    await anext(watch)
    hub.publish("a", _event("a"))
    hub.interrupt(errors.site_unreachable("none of 2 hosts answers"))
    assert _shown(await anext(watch)) == ["a"]
    with pytest.raises(Refusal) as ended:
        await anext(watch)
    assert ended.value.reason == "SITE_UNREACHABLE"
    assert _shown(await anext(hub.watch(_nothing))) == ["snapshot_end"]


async def test_a_watcher_that_has_gone_is_forgotten() -> None:
    hub = _hub()
    watch = hub.watch(_nothing)
    await anext(watch)
    await watch.aclose()
    assert not hub._watchers
