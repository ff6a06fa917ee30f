"""Level-triggered watches: what is, a boundary, then what changes, the latest of each object only.

A watcher that reads slowly never makes the gate hold more than one event for each object: a newer
one takes the place of the older. That is what lets watches have no resume token and no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from gate_kit.errors import Refusal, shutting_down
from skyport.gate.v1 import job_pb2, partition_pb2, types_pb2

HEARTBEAT_S = 15.0
"""Half of the longest silence that the contract allows."""

_BATCH = 100
_BATCH_BYTES = 1 << 20

E = TypeVar("E", job_pb2.JobEvent, partition_pb2.PartitionEvent)


def heartbeat(incarnation: str) -> types_pb2.Heartbeat:
    """What a stream tells after some silence.

    Args:
        incarnation: That of this run of the gate.
    """
    beat = types_pb2.Heartbeat(incarnation=incarnation)
    beat.time.FromNanoseconds(time.time_ns())
    return beat


class WatchHub(Generic[E]):
    """Tells changes to any number of watchers of one kind.

    Args:
        kind: `JobEvent` or `PartitionEvent`.
        incarnation: That of this run of the gate.
        heartbeat_s: Seconds of silence after which a watcher gets a heartbeat; at most 30.
    """

    def __init__(self, kind: type[E], incarnation: str, *, heartbeat_s: float = HEARTBEAT_S):
        self._kind: type[E] = kind
        self._incarnation = incarnation
        self._heartbeat_s = heartbeat_s
        self._watchers: set[_Watcher[E]] = set()
        self._closed = False

    def publish(self, key: Hashable, event: E, *, topic: str = "") -> None:
        """Tell all who watch `topic` that this is how things are now.

        Args:
            key: Of the object: an event of the same key that a watcher has not read yet is dropped.
            event: Not changed afterwards; watchers share it.
            topic: An installation; empty reaches every watcher.
        """
        for watcher in self._watchers:
            if not topic or watcher.wants(topic):
                watcher.put(key, event)

    async def watch(
        self,
        snapshot: Callable[[], AsyncIterable[E]],
        *,
        wants: Callable[[str], bool] = lambda topic: True,
        unreachable: Callable[[], Sequence[types_pb2.UnreachableNode]] = tuple,
    ) -> AsyncGenerator[list[E], None]:
        """What one watcher is to be sent, in batches, until it goes or the hub is closed.

        Close it when the watcher goes (`contextlib.aclosing`).

        Args:
            snapshot: Called once; tells all objects as they are. Changes while it reads are told
                after the boundary, so nothing falls between.
            wants: Which topics this watcher has asked for.
            unreachable: Asked after the snapshot: nodes that it could not see.

        Raises:
            Refusal: SHUTTING_DOWN once the hub is closed; what `interrupt` was given.
        """
        if self._closed:
            raise shutting_down()
        watcher = _Watcher[E](wants)
        self._watchers.add(watcher)
        try:
            batch = _Batch[E]()
            async with contextlib.aclosing(self._with_heartbeats(snapshot())) as told:
                async for event in told:
                    full = batch.add(event)
                    if not full and event.WhichOneof("event") == "heartbeat":
                        full = batch.take()
                    if full:
                        yield full
                    if watcher.refusal is not None:
                        raise watcher.refusal
            boundary = types_pb2.SnapshotEnd(
                incarnation=self._incarnation, unreachable=unreachable()
            )
            batch.add(self._kind(snapshot_end=boundary))
            yield batch.take()
            while True:
                events = await watcher.next(self._heartbeat_s)
                yield events or [self._heartbeat()]
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        """End every watch, once its watcher has read what was published before."""
        self._closed = True
        self.interrupt(shutting_down())

    def interrupt(self, refusal: Refusal) -> None:
        """As `close`, with another reason, and without keeping anybody from watching again."""
        for watcher in self._watchers:
            watcher.end(refusal)

    async def _with_heartbeats(self, events: AsyncIterable[E]) -> AsyncGenerator[E, None]:
        """`events`, with a heartbeat in between wherever the next one is long in coming."""
        source = aiter(events)
        while True:
            coming = asyncio.ensure_future(anext(source, None))
            try:
                while not (await asyncio.wait((coming,), timeout=self._heartbeat_s))[0]:
                    yield self._heartbeat()
            except BaseException:
                coming.cancel()
                await asyncio.wait((coming,))
                raise
            event = coming.result()
            if event is None:
                return
            yield event

    def _heartbeat(self) -> E:
        return self._kind(heartbeat=heartbeat(self._incarnation))


class _Watcher(Generic[E]):
    """What one watcher has not been sent yet: at most one event for each object."""

    def __init__(self, wants: Callable[[str], bool]) -> None:
        self.wants = wants
        self.refusal: Refusal | None = None
        """Why it is over."""
        self._pending: dict[Hashable, E] = {}
        self._changed = asyncio.Event()

    def put(self, key: Hashable, event: E) -> None:
        # Taken out first: a later event must not overtake those that it was published after.
        self._pending.pop(key, None)
        self._pending[key] = event
        self._changed.set()

    def end(self, refusal: Refusal) -> None:
        self.refusal = self.refusal or refusal
        self._changed.set()

    async def next(self, timeout_s: float) -> list[E]:
        """The next batch; empty after `timeout_s` of silence.

        Raises:
            Refusal: When all was read and the watch is over.
        """
        while not self._pending:
            if self.refusal is not None:
                raise self.refusal
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return []
        batch = _Batch[E]()
        while self._pending:
            key = next(iter(self._pending))
            if full := batch.add(self._pending.pop(key)):
                return full
        return batch.take()


class _Batch(Generic[E]):
    """Events for one message, bounded in number and bytes."""

    def __init__(self) -> None:
        self._events: list[E] = []
        self._bytes = 0

    def add(self, event: E) -> list[E] | None:
        """Take one more; returns the batch when it is full, and begins anew."""
        self._events.append(event)
        self._bytes += event.ByteSize()
        if len(self._events) >= _BATCH or self._bytes >= _BATCH_BYTES:
            return self.take()
        return None

    def take(self) -> list[E]:
        events, self._events, self._bytes = self._events, [], 0
        return events
