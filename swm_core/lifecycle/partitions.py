"""One dynamic partition, from the decision to create it until its gate says that it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rpc_kit.units import format_duration
from skyport.gate.v1 import partition_pb2, types_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.partition import Partition
from swm_core.domain.states import JobState, PartitionState
from swm_core.domain.words import words
from swm_core.gateways import convert
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.gateways.slots import Slot
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.live import NotLive
from swm_core.lifecycle.reuse import Reuse

log = logging.getLogger(__name__)

_CREATE_S = 120.0
_TTL_S = 24 * 3600.0
"""How far ahead a partition's own end is set at least, where its site has one and allows it; it is
renewed after a third of that."""
_AFTER_JOB_S = 3600.0
"""How much later than a job's time limit it lies: for boot, and for what is brought and taken."""
_LOST_S = 30.0
"""How long one whose nodes are all lost is kept, for its gate to say how its jobs have ended."""
_RUNNING = frozenset({JobState.STARTING, JobState.RUNNING})
"""Jobs of which it has something to say."""
_TOLD_S = 0.25
"""How often it is looked whether it has."""

_ASKED_IN_PEACE = 6
"""A deletion takes its time: so often (some 12 s) it is asked for before it counts as failing."""
_LOOK_S = 15.0
"""How often it is looked whether that is due."""

_FAILURES = {
    "IMAGE_NOT_FOUND": FailureReason.IMAGE_UNAVAILABLE,
    "PREEMPTED": FailureReason.PREEMPTED,
    "NODE_FAIL": FailureReason.NODE_FAIL,
}
_NO_ROOM = frozenset({"CAPACITY", "QUOTA", "FLAVOR_NOT_FOUND", "IMAGE_NOT_FOUND"})


class PartitionDriver:
    """Drives one partition.

    Args:
        context: The core's parts.
        partition: As it is stored.
        gate: Its site's.
        wanted: Whether a job still needs it.
        idle_s: How long it waits for another job when none does; 0: not at all.
    """

    def __init__(
        self,
        context: Context,
        partition: Partition,
        gate: Gate,
        wanted: Callable[[str], bool],
        idle_s: float = 0.0,
    ) -> None:
        self._context = context
        self._id = partition.partition_id
        self._gate = gate
        self._wanted = wanted
        self._idle_s = idle_s
        self._reuse = Reuse(context, gate)
        self._renew_time = 0.0
        """When its end was moved on last; 0: not since the core's start."""

    async def run(self) -> None:
        """Returns when the partition is gone."""
        backoff = Backoff(first_s=0.5)
        with self._gate.partition(self._id) as slot:
            while (partition := self._context.partitions.get(self._id)) is not None:
                try:
                    await self._step(partition, slot)
                except NotLive:
                    return
                except Exception:
                    # A defect or a store that cannot write: what costs money is not forgotten.
                    log.exception("partition %s stumbled; again soon", self._id)
                    await asyncio.sleep(backoff.next())

    async def _step(self, partition: Partition, slot: Slot[partition_pb2.Partition]) -> None:
        if partition.state is PartitionState.DELETING:
            await self._delete(partition, slot)
        elif not self._wanted(self._id):
            if self._idle_s and self._reuse.may_wait(partition):
                await self._idle(slot)
            else:
                await self._give_back()
        elif partition.state is not PartitionState.READY:
            # One that its own end has stopped is started again: what lies there is the job's.
            await self._while_wanted(self._create(partition, slot))
        else:
            await self._while_wanted(self._watch(partition, slot))

    async def _give_back(self) -> None:
        """Have it deleted, unless a job has got a place on it just now."""

        def decide(now: Partition) -> Partition:
            if self._wanted(self._id):
                return now
            return dataclasses.replace(now, state=PartitionState.DELETING, text="being deleted")

        await self._context.partitions.apply(self._id, decide)

    async def _idle(self, slot: Slot[partition_pb2.Partition]) -> None:
        """Wait for another job of its owner; what is not wanted for too long is given back."""
        own = self._context.partitions.slot(self._id)
        while own is not None and not self._wanted(self._id):
            versions = own.version, slot.version
            partition, now = own.value, self._context.clock()
            if partition is None or partition.state is not PartitionState.READY:
                return
            if partition.idle_since is None:
                text = f"idle; waits {format_duration(int(self._idle_s))} for another job"
                await self._context.partitions.note(
                    self._id, idle_since=now, pooled=True, text=f"{text} of {partition.owner}"
                )
                self._gate.on_change()
                continue
            # A clock that was set back makes it wait no longer than it would have.
            left_s = min(self._idle_s, partition.idle_since + self._idle_s - now)
            if left_s <= 0 or not self._reuse.may_wait(partition):
                await self._give_back()
                return
            await self._renew(partition)
            if await self._noticed(slot):
                return
            waits = [
                asyncio.create_task(own.newer(versions[0])),
                asyncio.create_task(slot.newer(versions[1])),
            ]
            try:
                await asyncio.wait(
                    waits, timeout=min(left_s, _LOOK_S), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                for wait in waits:
                    wait.cancel()

    async def _while_wanted(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, but drop it as soon as no job needs the partition."""
        own = self._context.partitions.slot(self._id)
        if own is None:
            work.close()
            raise NotLive(f"partition {self._id} is gone")
        working = asyncio.create_task(work)
        try:
            while not working.done() and self._wanted(self._id):
                changed = asyncio.create_task(own.newer(own.version))
                await asyncio.wait((working, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            working.cancel()
            outcome = (await asyncio.gather(working, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome

    async def _create(self, partition: Partition, slot: Slot[partition_pb2.Partition]) -> None:
        """Until it is READY, or cannot be."""
        while True:
            incarnation = self._gate.incarnation
            if not await self._ask_to_create(partition, slot):
                return
            # A gate that was restarted, or that lost it, is asked again: that continues it.
            while not slot.missing and self._gate.incarnation == incarnation:
                version = slot.version
                if slot.value is not None and await self._saw(slot.value):
                    return
                await slot.newer(version)
            slot.missing = False

    async def _ask_to_create(
        self, partition: Partition, slot: Slot[partition_pb2.Partition]
    ) -> bool:
        request = partition_pb2.CreatePartitionRequest(
            partition_id=self._id,
            spec_fingerprint=partition.spec_fingerprint,
            spec=convert.partition_spec(partition.spec),
            origin=types_pb2.Origin(
                installation=self._context.installation,
                store_generation=self._context.generation,
            ),
            owner=partition.owner,
            scope_uid=self._scope(),
        )
        backoff = Backoff(most_s=60.0)
        while True:
            await self._gate.wait_ready()
            if self._gate.can("EXPIRY"):
                expire_time = self._context.clock() + self._ttl_s(partition)
                request.expire_time.CopyFrom(convert.timestamp(expire_time))
            version = slot.version
            try:
                answer = await self._gate.call(
                    self._gate.partitions.CreatePartition, request, timeout_s=_CREATE_S
                )
            except GateError as error:
                # What has been there is not given up with all that lies on it.
                was_there = error.meaning is Meaning.NO_ROOM and partition.ready_time is not None
                if error.meaning in (Meaning.NO_ROOM, Meaning.REFUSED) and not was_there:
                    await self._failed(_failure(error.reason, error.message))
                    return False
                await self._context.partitions.note(
                    self._id, text=f"site {partition.site} could not create it yet: {error.message}"
                )
                await asyncio.sleep(backoff.next(error.problem.retry_after_s))
                continue
            if slot.version == version:
                # With its nodes: where it is READY, jobs are placed on them at once.
                self._gate.inventory.put_partition(answer.partition)
                slot.put(answer.partition)
            return True

    async def _saw(self, told: partition_pb2.Partition) -> bool:
        """Commit what the gate says; whether the partition is in another state now."""
        partition = self._context.partitions.get(self._id)
        if partition is None or partition.state is PartitionState.DELETING:
            return True
        match told.state:
            case partition_pb2.PARTITION_STATE_READY:
                if partition.state is PartitionState.READY:
                    return False
                await self._ready(partition, told)
                return True
            case partition_pb2.PARTITION_STATE_FAILED:
                if partition.state is PartitionState.READY:
                    # Its jobs have ended, and their gate says how; that is worth a moment.
                    await self._context.partitions.note(
                        self._id,
                        failure=_told(told.failure),
                        pauses=self._paused(partition),
                        text=words(told.failure.message),
                    )
                    await self._ends_told()
                await self._failed(_told(told.failure))
                return True
            case partition_pb2.PARTITION_STATE_STOPPED:
                if partition.state is PartitionState.READY:
                    await self._context.partitions.move(
                        self._id,
                        PartitionState.STOPPED,
                        text="its time has passed while this core was away; is started again for "
                        "what lies there",
                        pauses=self._paused(partition),
                        expired=True,
                    )
                    return True
            case _:
                if told.text and (text := words(told.text)) != partition.text:
                    await self._context.partitions.note(self._id, text=text)
        return False

    async def _ends_told(self) -> None:
        """Wait until its jobs have ended; what they left went with its nodes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOST_S):
                while any(  # noqa: ASYNC110  seconds, once in the life of a partition
                    job is not None and job.partition_id == self._id and job.state in _RUNNING
                    for job in map(self._context.jobs.get, self._jobs())
                ):
                    await asyncio.sleep(_TOLD_S)

    def _jobs(self) -> Sequence[str]:
        partition = self._context.partitions.get(self._id)
        return partition.jobs if partition else ()

    def _paused(self, partition: Partition) -> tuple[tuple[float, float | None], ...]:
        """Its pauses, one of which has begun."""
        if partition.pauses and partition.pauses[-1][1] is None:
            return partition.pauses
        return (*partition.pauses, (self._context.clock(), None))

    async def _ready(self, partition: Partition, told: partition_pb2.Partition) -> None:
        now = self._context.clock()
        changes: dict[str, Any] = {"ready_time": partition.ready_time or now}
        if partition.pauses and partition.pauses[-1][1] is None:
            changes["pauses"] = (*partition.pauses[:-1], (partition.pauses[-1][0], now))
        price, currency = convert.price(told.price) if told.HasField("price") else (None, "")
        if partition.price_per_hour is None and price is not None:
            changes |= {"price_per_hour": price, "currency": currency}
        await self._context.partitions.move(self._id, PartitionState.READY, text="", **changes)

    async def _noticed(self, slot: Slot[partition_pb2.Partition]) -> bool:
        """Commit that it is not what it was, if so; whether it is in another state now."""
        if slot.missing and await self._is_gone():
            self._gate.partition_gone(self._id)
            await self._failed(
                Failure(
                    FailureReason.PROVISIONING_FAILED, "it vanished at its site", retryable=True
                )
            )
            return True
        slot.missing = False
        return slot.value is not None and await self._saw(slot.value)

    async def _watch(self, partition: Partition, slot: Slot[partition_pb2.Partition]) -> None:
        """While it is there: renew it, and notice when it is not what it was."""
        while True:
            version = slot.version
            await self._renew(partition)
            if await self._noticed(slot):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await slot.newer(version)

    def _ttl_s(self, partition: Partition) -> float:
        """How far ahead its own end is set: beyond its jobs' if the site can do that."""
        longest_s = self._gate.info.longest_expiry_s if self._gate.info else 0.0
        wanted_s = max(_TTL_S, partition.time_limit_s + _AFTER_JOB_S)
        return min(wanted_s, longest_s) if longest_s else wanted_s

    async def _renew(self, partition: Partition) -> None:
        """Have its end moved on, if that is due."""
        partition = self._context.partitions.get(self._id) or partition
        now, ttl_s = self._context.clock(), self._ttl_s(partition)
        # By the clock on the wall, as at the site: a machine that slept finds it due. One whose
        # clock was set back has it renewed at once.
        is_due = not 0 <= now - self._renew_time < ttl_s / 3
        if not is_due or not self._gate.can("EXPIRY") or not self._gate.ready:
            return
        request = partition_pb2.RenewPartitionRequest(
            partition_id=self._id,
            expire_time=convert.timestamp(now + ttl_s),
            scope_uid=self._scope(),
        )
        try:
            await self._gate.call(self._gate.partitions.RenewPartition, request)
            self._renew_time = now
        except GateError as error:
            log.warning("partition %s was not renewed: %s", self._id, error.message)

    async def _failed(self, failure: Failure) -> None:
        await self._context.partitions.move(
            self._id, PartitionState.DELETING, text=failure.message, failure=failure
        )

    async def _delete(self, partition: Partition, slot: Slot[partition_pb2.Partition]) -> None:
        """Ask for it until the gate says that it is gone; for ever, with backoff."""
        backoff = Backoff(first_s=0.2, most_s=60.0)
        asked = 0
        request = partition_pb2.DeletePartitionRequest(
            partition_id=self._id,
            installation=self._context.installation,
            scope_uid=self._scope(),
        )
        while True:
            await self._gate.wait_ready()
            version = slot.version
            try:
                await self._gate.call(self._gate.partitions.DeletePartition, request)
            except GateError as error:
                if error.meaning is Meaning.GONE:
                    await self._context.store.roots.forget_partition(partition.site, self._id)
                    await self._context.partitions.move(
                        self._id, PartitionState.DELETED, delete_time=self._context.clock()
                    )
                    return
                await self._not_deleted(partition, error.message)
            else:
                asked += 1
                # One that the site does not let go stays, with the reason in its text.
                if asked > _ASKED_IN_PEACE and slot.value is not None:
                    await self._not_deleted(partition, words(slot.value.text))
            # It says so by the watch as soon as it is gone; asking again is the proof.
            try:
                async with asyncio.timeout(backoff.next()):
                    await slot.newer(version)
            except TimeoutError:
                pass

    async def _not_deleted(self, partition: Partition, why: str) -> None:
        now = self._context.partitions.get(self._id) or partition
        text = f"not deleted yet: {why}"
        if text != now.text:
            log.warning("partition %s was not deleted: %s; again until it is", self._id, why)
        await self._context.partitions.note(self._id, text=text, delete_tries=now.delete_tries + 1)

    async def _is_gone(self) -> bool:
        request = partition_pb2.GetPartitionRequest(partition_id=self._id, scope_uid=self._scope())
        try:
            await self._gate.call(self._gate.partitions.GetPartition, request)
        except GateError as error:
            return error.meaning is Meaning.GONE
        return False

    def _scope(self) -> str:
        return self._gate.scope_uid


def _told(failure: types_pb2.Failure) -> Failure:
    """Why it failed after it was accepted; its gate knows whether another one may do."""
    known = _failure(failure.reason, words(failure.message))
    return dataclasses.replace(known, retryable=known.retryable or failure.retryable)


def _failure(reason: str, message: str) -> Failure:
    """Why it could not be made, or was lost."""
    no_room = reason in _NO_ROOM
    kind = FailureReason.NO_CAPACITY if no_room else FailureReason.PROVISIONING_FAILED
    kind = _FAILURES.get(reason, kind)
    retryable = no_room or kind in (FailureReason.PREEMPTED, FailureReason.NODE_FAIL)
    return Failure(kind, message, retryable=retryable)
