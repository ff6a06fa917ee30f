"""What one site has and the core does not know: told, kept in mind, and deleted in time."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import time
from collections.abc import Sequence

from skyport.gate.v1 import job_pb2, partition_pb2, types_pb2
from swm_core.domain.orphans import Found, Known, Orphan, OrphanKind, Verdict, delete_time, judge
from swm_core.domain.states import JobState
from swm_core.domain.words import words
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.removing import remove_attempt
from swm_core.store import StoreError

log = logging.getLogger(__name__)

_MOST = 10_000
"""Of one site; a site that tells of more is told of once, in the log."""
_AT_ONCE = 8
_LONGEST_S = 60.0
_STORE_S = 5.0
"""So long a store that can't write is given before it is tried again."""

Key = tuple[OrphanKind, str]


class Orphans:
    """The orphans of one site.

    Args:
        context: The core's parts.
        gate: The site's.
        grace_s: How long one is left before the core deletes it by itself.
    """

    def __init__(self, context: Context, gate: Gate, grace_s: float) -> None:
        self._context = context
        self._gate = gate
        self._grace_s = grace_s
        self._orphans: dict[Key, Orphan] = {}
        self._pauses: dict[Key, tuple[Backoff, float]] = {}
        """Of those that were asked for in vain: until when (monotonic) they are left."""
        self._wake = asyncio.Event()
        self._is_full = False
        self._generations = context.store.meta.trusted_generations()

    def load(self) -> None:
        """Read what the store has; once, before anything else."""
        self._orphans = {_key(each): each for each in self._context.store.orphans.of(self._name)}

    @property
    def _name(self) -> str:
        return self._gate.name

    def all(self) -> list[Orphan]:
        """They as they are now."""
        return list(self._orphans.values())

    def delete_time(self, orphan: Orphan) -> float | None:
        """When the core deletes it; None: never by itself."""
        return delete_time(orphan, generations=self._generations, grace_s=self._grace_s)

    def text(self, orphan: Orphan) -> str:
        """What is to be said of one, for people."""
        if orphan.tries:
            return f"not deleted yet, asked {orphan.tries} times: {orphan.text}"
        if orphan.requested:
            return "is to be deleted as soon as the site answers"
        if self.delete_time(orphan) is None:
            return (
                "was made by a core whose store knows more than this one, which was copied or put"
                " back from a backup; delete it by hand if nobody needs it"
            )
        return f"of {orphan.found.owner}"

    async def request(self, kind: OrphanKind, orphan_id: str) -> bool:
        """An administrator wants one deleted; False: there is none of that id (any more)."""
        orphan = self._orphans.get((kind, orphan_id))
        if orphan is None:
            return False
        await self._put(dataclasses.replace(orphan, requested=True))
        self._pauses.pop((kind, orphan_id), None)
        self._wake.set()
        return True

    # ---- what the core knows ----

    def known(self, found: Found) -> Known:
        """What the store says of an object."""
        if found.kind is OrphanKind.PARTITION:
            if self._context.partitions.get(found.orphan_id) is not None:
                return Known.LIVE
            stored = self._context.store.partitions.get(found.orphan_id)
            return Known.NEVER if stored is None else Known.GONE
        job_id, _, number = found.orphan_id.partition("/")
        job = self._context.jobs.get(job_id)
        if job is not None and job.attempt == int(number) and job.state is not JobState.QUEUED:
            return Known.LIVE
        attempt = self._context.store.attempts.get(job_id, int(number))
        if attempt is None:
            return Known.NEVER
        return Known.LIVE if attempt.to_remove or attempt.outcome is None else Known.GONE

    def _judge(self, found: Found) -> Verdict:
        return judge(
            found,
            self.known(found),
            installation=self._context.installation,
            generations=self._generations,
        )

    # ---- what the site tells ----

    async def told(self, unknown: Sequence[Found]) -> None:
        """A round has found these, which the core did not know then."""
        seen = {(found.kind, found.orphan_id) for found in unknown}
        for found in unknown:
            await self._look_at(found)
        for key, orphan in list(self._orphans.items()):
            if key not in seen:
                await self._look_again(orphan)

    async def _look_at(self, found: Found) -> None:
        key = (found.kind, found.orphan_id)
        verdict = self._judge(found)
        before = self._orphans.get(key)
        if verdict is Verdict.LEAVE:
            if before is not None:
                await self._forget(before, "it is known now")
        elif before is not None:
            if before.found != found:
                await self._put(dataclasses.replace(before, found=found))
        elif self.known(found) is Known.NEVER or await self._is_there(found):
            await self._add(Orphan(self._name, found, self._context.clock()))

    async def _look_again(self, orphan: Orphan) -> None:
        """A list lacked it, which proves nothing."""
        if self._judge(orphan.found) is Verdict.LEAVE:
            await self._forget(orphan, "it is known now")
        elif await self._is_there(orphan.found) is False:
            await self._forget(orphan, "it is gone")

    async def _is_there(self, found: Found) -> bool | None:
        """Whether the site has it; None: the site does not say."""
        try:
            if found.kind is OrphanKind.PARTITION:
                asked = partition_pb2.GetPartitionRequest(
                    partition_id=found.orphan_id, scope_uid=self._gate.scope_uid
                )
                await self._gate.call(self._gate.partitions.GetPartition, asked)
            else:
                request = job_pb2.GetJobRequest(ref=_ref(found))
                await self._gate.call(self._gate.jobs.GetJob, request)
        except GateError as error:
            return False if _is_gone(error, found) else None
        return True

    async def _add(self, orphan: Orphan) -> None:
        if len(self._orphans) >= _MOST:
            if not self._is_full:
                log.error("site %s has more than %d orphans; no more are noted", self._name, _MOST)
            self._is_full = True
            return
        self._is_full = False
        await self._put(orphan)
        at = self.delete_time(orphan)
        what = (
            f"it will be deleted at {_moment(at)}"
            if at is not None
            else "it is left, since another copy of this core's store may know it"
        )
        log.warning(
            "site %s has %s, which this core does not know: %s; see `swm orphans`",
            self._name, _words(orphan.found), what,
        )  # fmt: skip
        self._wake.set()

    async def _put(self, orphan: Orphan) -> None:
        await self._context.store.orphans.put(orphan)
        self._orphans[_key(orphan)] = orphan

    async def _forget(self, orphan: Orphan, why: str) -> None:
        await self._context.store.orphans.forget(orphan)
        self._pauses.pop(_key(orphan), None)
        if self._orphans.pop(_key(orphan), None) is None:
            return  # both a round and its deletion have found so
        log.info("site %s: %s is no orphan any more: %s", self._name, _words(orphan.found), why)

    # ---- deleting ----

    async def run(self) -> None:
        """Delete those whose time has come, until cancelled."""
        while True:
            await self._gate.wait_ready()
            self._wake.clear()
            permits = asyncio.Semaphore(_AT_ONCE)
            due = [each for each in self.all() if self._due_in_s(each) <= 0]
            outcomes = await asyncio.gather(
                *(self._delete(each, permits) for each in due), return_exceptions=True
            )
            wait_s = min([_LONGEST_S, *(self._due_in_s(each) for each in self.all())])
            for outcome in outcomes:
                if isinstance(outcome, StoreError):
                    log.warning("site %s: orphans can't be noted: %s", self._name, outcome)
                    wait_s = _STORE_S
                elif isinstance(outcome, BaseException):
                    raise outcome
            try:
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _due_in_s(self, orphan: Orphan) -> float:
        at = self.delete_time(orphan)
        if at is None:
            return _LONGEST_S
        _, until = self._pauses.get(_key(orphan), (None, 0.0))
        return max(at - self._context.clock(), until - time.monotonic())

    async def _delete(self, orphan: Orphan, permits: asyncio.Semaphore) -> None:
        async with permits:
            # Everything may be otherwise since it was told.
            verdict = self._judge(orphan.found)
            if verdict is Verdict.LEAVE:
                await self._forget(orphan, "it is known now")
                return
            if verdict is Verdict.REPORT and not orphan.requested:
                return
            backoff, _ = self._pauses.get(_key(orphan), (Backoff(0.2, 60.0), 0.0))
            try:
                text = await self._ask(orphan.found)
            except Exception as error:
                # What costs money is not forgotten, whatever went wrong.
                expected = isinstance(error, GateError)
                text = error.message if isinstance(error, GateError) else "see the core's log"
                if text != orphan.text:
                    log.warning(
                        "site %s: %s was not deleted: %s; again until it is",
                        self._name, _words(orphan.found), text, exc_info=not expected,
                    )  # fmt: skip
            if not text:
                await self._forget(orphan, "it is deleted")
                return
            self._pauses[_key(orphan)] = (backoff, time.monotonic() + backoff.next())
            # A round may have found meanwhile that it is gone.
            if now := self._orphans.get(_key(orphan)):
                await self._put(dataclasses.replace(now, tries=now.tries + 1, text=text))

    async def _ask(self, found: Found) -> str:
        """Have the site delete it; returns why it is still there, empty when it is gone."""
        if found.kind is OrphanKind.JOB:
            await remove_attempt(self._gate, _ref(found), dynamic=found.dynamic)
            return ""
        request = partition_pb2.DeletePartitionRequest(
            partition_id=found.orphan_id,
            installation=self._context.installation,
            scope_uid=self._gate.scope_uid,
        )
        try:
            await self._gate.call(self._gate.partitions.DeletePartition, request)
        except GateError as error:
            if not _is_gone(error, found):
                raise
            return ""
        return await self._said(found)

    async def _said(self, found: Found) -> str:
        """What its site says of a partition that it deletes; empty when it is gone."""
        asked = partition_pb2.GetPartitionRequest(
            partition_id=found.orphan_id, scope_uid=self._gate.scope_uid
        )
        try:
            answer = await self._gate.call(self._gate.partitions.GetPartition, asked)
        except GateError as error:
            return "" if _is_gone(error, found) else error.message
        return words(answer.partition.text) or "it is being deleted"


def _key(orphan: Orphan) -> Key:
    return orphan.found.kind, orphan.found.orphan_id


def _is_gone(error: GateError, found: Found) -> bool:
    if found.kind is OrphanKind.PARTITION:
        return error.meaning is Meaning.GONE
    return error.attempt_is_gone(dynamic=found.dynamic)


def _ref(found: Found) -> types_pb2.JobRef:
    job_id, _, number = found.orphan_id.partition("/")
    return types_pb2.JobRef(
        installation=found.installation,
        partition_id=found.partition_id,
        job_id=job_id,
        attempt=int(number),
        owner=found.owner,
        nodes=found.nodes,
        roots=[types_pb2.SiteRoot(node=node, root_uid=uid) for node, uid in found.roots],
    )


def _words(found: Found) -> str:
    if found.kind is OrphanKind.PARTITION:
        return f"partition {found.orphan_id}"
    return f"attempt {found.orphan_id} in partition {found.partition_id}"


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
