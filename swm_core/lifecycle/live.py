"""The jobs and partitions that have not ended, in memory, and the only way to change one.

The store is the truth; this is what it holds, kept at hand. A change is committed first and seen
here afterwards, one change of an object at a time.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from swm_core.domain.job import Job
from swm_core.domain.partition import Partition
from swm_core.domain.states import JobState, PartitionState
from swm_core.gateways.slots import Slot
from swm_core.store.jobs import Jobs, Step
from swm_core.store.partitions import Partitions


class NotLive(Exception):
    """The job or partition has ended, or never was."""


class Change(NamedTuple):
    """What happened to a job. `before` is None when it was submitted."""

    before: Job | None
    after: Job


class LiveJobs:
    """The jobs that have not ended.

    Args:
        store: Where they are kept.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: Jobs, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._queued: dict[str, Job] = {}
        self._placed: dict[str, Job] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._listeners: list[Callable[[Change], None]] = []

    def load(self) -> None:
        """Read what the store has; once, before anything else."""
        for job in self._store.active():
            self._keep(job)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    @property
    def queued(self) -> Collection[Job]:
        """Those that wait for a place; to be gone through at once."""
        return self._queued.values()

    @property
    def placed(self) -> Collection[Job]:
        """Those that have a place, or hold one still; to be gone through at once."""
        return self._placed.values()

    def get(self, job_id: str) -> Job | None:
        """The job as it is now; None when it has ended or never was."""
        return self._jobs.get(job_id)

    def attempt(self, job_id: str, attempt: int) -> Job | None:
        """The job, while `attempt` is its latest and has not ended; None otherwise."""
        job = self._jobs.get(job_id)
        if job is None or job.attempt != attempt or job.state is JobState.QUEUED:
            return None
        return job

    def count(self, owner: str) -> int:
        """How many the owner has."""
        return self._counts[owner]

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Have `listener` called after every change, on the event loop; it must not block."""
        self._listeners.append(listener)

    def add(self, job: Job) -> None:
        """A job was submitted, and is stored."""
        self._keep(job)
        self._tell(Change(None, job))

    async def move(
        self, job_id: str, to: JobState, reason: str = "", message: str = "", **changes: Any
    ) -> Job:
        """Bring a job into the state `to`.

        Args:
            job_id: Which.
            to: The state that it enters now.
            reason: Why, for programs; may be empty.
            message: Why, for people; becomes the job's text unless `changes` has one.
            changes: Other fields of the job that change with it.

        Raises:
            NotLive: It has ended meanwhile.
            IllegalTransition: The table has no such transition.
        """

        def decide(job: Job) -> Sequence[Step]:
            return [self.step(job, to, reason, message, **changes)]

        return await self.apply(job_id, decide)

    async def note(self, job_id: str, message: str = "", **changes: Any) -> Job:
        """Change fields of a job that stays in its state; does nothing if nothing differs.

        Args:
            job_id: Which.
            message: The job's new text, when it is not empty.
            changes: Other fields that change.
        """
        if message:
            changes.setdefault("text", message)

        def decide(job: Job) -> Sequence[Step]:
            after = dataclasses.replace(job, **changes)
            return [] if after == job else [Step(after, "", message)]

        return await self.apply(job_id, decide)

    def step(
        self, job: Job, to: JobState, reason: str = "", message: str = "", **changes: Any
    ) -> Step:
        """`job` in the state `to`, from now on, with `changes`; for `apply`."""
        changes.setdefault("text", message)
        after = dataclasses.replace(job, state=to, state_time=self._clock(), **changes)
        return Step(after, reason, message)

    async def apply(self, job_id: str, decide: Callable[[Job], Sequence[Step]]) -> Job:
        """Commit what `decide` makes of the job as it is now; returns what it then is.

        The commit is not given up half-way when the caller is cancelled: what is stored is what
        this shows.

        Raises:
            NotLive: It has ended meanwhile.
        """
        return await asyncio.shield(asyncio.create_task(self._apply(job_id, decide)))

    async def _apply(self, job_id: str, decide: Callable[[Job], Sequence[Step]]) -> Job:
        if job_id not in self._jobs:
            # Before a lock is made, which nobody would forget.
            raise NotLive(f"job {job_id} has ended")
        async with self._locks.setdefault(job_id, asyncio.Lock()):
            before = self._jobs.get(job_id)
            if before is None:
                raise NotLive(f"job {job_id} has ended")
            steps = decide(before)
            if not steps:
                return before
            if all(step.job.state is before.state for step in steps):
                last = steps[-1]
                after = await self._store.update(before, last.job, last.reason, last.message)
            else:
                after = await self._store.transitions(before, steps)
            self._drop(job_id)
            if after.state.terminal:
                self._locks.pop(job_id, None)
            else:
                self._keep(after)
        self._tell(Change(before, after))
        return after

    def _keep(self, job: Job) -> None:
        if job.job_id not in self._jobs:
            self._counts[job.owner] += 1
        self._jobs[job.job_id] = job
        group = self._queued if job.state is JobState.QUEUED else self._placed
        group[job.job_id] = job

    def _drop(self, job_id: str) -> None:
        if job := self._jobs.get(job_id):
            self._counts[job.owner] -= 1
        for group in (self._jobs, self._queued, self._placed):
            group.pop(job_id, None)

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)


class LivePartitions:
    """The dynamic partitions that are not gone.

    Args:
        store: Where they are kept.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: Partitions, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._slots: dict[str, Slot[Partition]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._listeners: list[Callable[[Partition], None]] = []

    def listen(self, listener: Callable[[Partition], None]) -> None:
        """Have `listener` called after every change, on the event loop; it must not block."""
        self._listeners.append(listener)

    def load(self) -> None:
        """Read what the store has; once, before anything else."""
        for partition in self._store.active():
            self.add(partition)

    def __iter__(self) -> Iterator[Partition]:
        return iter([slot.value for slot in self._slots.values() if slot.value is not None])

    def get(self, partition_id: str) -> Partition | None:
        """The partition as it is now; None when it is gone."""
        slot = self._slots.get(partition_id)
        return slot.value if slot else None

    def slot(self, partition_id: str) -> Slot[Partition] | None:
        """Where changes of the partition are seen; None when it is gone."""
        return self._slots.get(partition_id)

    def touch(self, site: str) -> None:
        """Have those who look after the partitions of a site look at them now."""
        for slot in self._slots.values():
            if slot.value is not None and slot.value.site == site:
                slot.touch()

    def add(self, partition: Partition) -> None:
        """A partition was decided, and is stored."""
        slot = self._slots[partition.partition_id] = Slot[Partition]()
        slot.put(partition)
        self._tell(partition)

    async def move(self, partition_id: str, to: PartitionState, **changes: Any) -> Partition:
        """Bring a partition into the state `to`.

        Raises:
            NotLive: It is gone meanwhile.
            IllegalTransition: The table has no such transition.
        """
        return await self._change(partition_id, state=to, **changes)

    async def note(self, partition_id: str, **changes: Any) -> Partition:
        """Change fields of a partition that stays in its state."""
        return await self._change(partition_id, **changes)

    async def _change(self, partition_id: str, **changes: Any) -> Partition:
        return await self.apply(partition_id, lambda now: dataclasses.replace(now, **changes))

    async def apply(self, partition_id: str, decide: Callable[[Partition], Partition]) -> Partition:
        """Commit what `decide` makes of the partition as it is now; returns what it then is.

        Raises:
            NotLive: It is gone meanwhile.
            IllegalTransition: The table has no such transition.
        """
        return await asyncio.shield(asyncio.create_task(self._apply(partition_id, decide)))

    async def _apply(
        self, partition_id: str, decide: Callable[[Partition], Partition]
    ) -> Partition:
        if partition_id not in self._slots:
            raise NotLive(f"partition {partition_id} is gone")
        async with self._locks.setdefault(partition_id, asyncio.Lock()):
            slot = self._slots.get(partition_id)
            if slot is None or slot.value is None:
                raise NotLive(f"partition {partition_id} is gone")
            after = decide(slot.value)
            if after == slot.value:
                return after
            if after.state is slot.value.state:
                after = await self._store.update(slot.value, after)
            else:
                after = await self._store.transition(slot.value, after)
            if after.state is PartitionState.DELETED:
                del self._slots[partition_id]
                self._locks.pop(partition_id, None)
            slot.put(after)
        self._tell(after)
        return after

    def _tell(self, partition: Partition) -> None:
        for listener in self._listeners:
            listener(partition)
