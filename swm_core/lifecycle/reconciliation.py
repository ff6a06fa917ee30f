"""Compare what a site has with what the core knows, again and again.

A list proves nothing by what it lacks: whatever the core misses in one is asked for by itself. What
a list has and the store does not know is told at once, and deleted after a grace time, if the store
can be sure that nobody else's store knows it (see `domain.orphans`).

The store commits before a gate is asked for anything. So what is looked up *after* a list has come
is known, however late the list saw it; and what the store calls gone is asked for by itself, since
the list may be older than the removal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from skyport.gate.v1 import job_pb2, partition_pb2, types_pb2
from swm_core.config import Reconciliation as Config
from swm_core.domain.ids import is_id
from swm_core.domain.job import Job
from swm_core.domain.orphans import (
    Found,
    Known,
    OrphanKind,
    Unreachable,
    may_be_hidden,
)
from swm_core.domain.states import AT_SITE_STATES, PartitionState
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.inventory import pages
from swm_core.gateways.problems import GateError
from swm_core.gateways.subscriptions import AttemptKey
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.orphans import Orphans
from swm_core.security.names import is_user_name
from swm_core.store import StoreError

log = logging.getLogger(__name__)


class Reconciliation:
    """Compares one site with the store.

    Args:
        context: The core's parts.
        gate: The site's.
        config: How often, and how long orphans are left.
    """

    def __init__(self, context: Context, gate: Gate, config: Config) -> None:
        self._context = context
        self._gate = gate
        self._every_s = config.every
        self.orphans = Orphans(context, gate, config.grace)
        self.is_complete = False
        """Whether all of the site has been compared since the core's start."""

    async def run(self) -> None:
        """Until cancelled."""
        self.orphans.load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.orphans.run())
            group.create_task(self._rounds())

    async def _rounds(self) -> None:
        backoff = Backoff(first_s=1.0, most_s=max(1.0, min(60.0, self._every_s)))
        while True:
            await self._gate.wait_ready()
            try:
                await self.once()
            except (GateError, StoreError, ValueError) as error:
                text = error.message if isinstance(error, GateError) else str(error)
                log.warning("site %s could not be compared: %s; again soon", self._gate.name, text)
                wait_s = backoff.next()
            except Exception:
                # Whatever a gate of somebody else's says, the others go on.
                log.exception("site %s told what cannot be understood", self._gate.name)
                wait_s = backoff.next()
            else:
                backoff.reset()
                wait_s = self._every_s
            await asyncio.sleep(wait_s)

    async def once(self) -> None:
        """One round.

        Raises:
            GateError: The site could not be asked.
        """
        expected = self._expected_partitions()
        placed = self._placed()
        partitions = await self._partitions()
        attempts = await self._attempts(partitions)
        for partition_id in expected - partitions.ids:
            if not may_be_hidden(partitions.unreachable, partition_id):
                self._gate.miss_partition(partition_id)
        for key, job in placed.items():
            nodes = [allocation.node for allocation in job.allocations]
            if key not in attempts.keys and not may_be_hidden(
                attempts.unreachable, job.partition_id, nodes
            ):
                self._gate.miss_attempt(key)
        await self.orphans.told([*partitions.unknown, *attempts.unknown])
        self.is_complete = not (partitions.unreachable or attempts.unreachable)

    # ---- what the core has there ----

    def _expected_partitions(self) -> set[str]:
        return {
            partition.partition_id
            for partition in self._context.partitions
            if partition.site == self._gate.name and partition.state is not PartitionState.DELETING
        }

    def _placed(self) -> dict[AttemptKey, Job]:
        return {
            AttemptKey(job.job_id, job.attempt): job
            for job in self._context.jobs.placed
            if job.site == self._gate.name and job.state in AT_SITE_STATES
        }

    # ---- what the site has ----

    async def _partitions(self) -> _Partitions:
        listed = _Partitions()
        request = partition_pb2.ListPartitionsRequest(
            installation=self._context.installation, scope_uid=self._gate.scope_uid
        )
        async for page in pages(
            lambda asked: self._gate.call(self._gate.partitions.ListPartitions, asked), request
        ):
            listed.unreachable += _unreachable(page.unreachable)
            for partition in page.partitions:
                listed.ids.add(partition.partition_id)
                if partition.kind != types_pb2.PARTITION_KIND_DYNAMIC:
                    continue
                listed.dynamic.add(partition.partition_id)
                found = _found_partition(partition)
                if found is not None and self.orphans.known(found) is not Known.LIVE:
                    listed.unknown.append(found)
        return listed

    async def _attempts(self, partitions: _Partitions) -> _Attempts:
        listed = _Attempts()
        request = job_pb2.ListJobsRequest(installation=self._context.installation)
        async for page in pages(
            lambda asked: self._gate.call(self._gate.jobs.ListJobs, asked), request
        ):
            listed.unreachable += _unreachable(page.unreachable)
            for status in page.jobs:
                key = AttemptKey(status.ref.job_id, status.ref.attempt)
                listed.keys.add(key)
                found = _found_attempt(status, dynamic=self._is_dynamic(status, partitions))
                if found is not None and self.orphans.known(found) is not Known.LIVE:
                    listed.unknown.append(found)
        return listed

    def _is_dynamic(self, status: job_pb2.JobStatus, partitions: _Partitions) -> bool:
        partition_id = status.ref.partition_id
        return (
            partition_id in partitions.dynamic
            or self._context.store.partitions.get(partition_id) is not None
        )


class _Partitions:
    """A list of partitions."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.dynamic: set[str] = set()
        self.unknown: list[Found] = []
        self.unreachable: list[Unreachable] = []


class _Attempts:
    """A list of attempts."""

    def __init__(self) -> None:
        self.keys: set[AttemptKey] = set()
        self.unknown: list[Found] = []
        self.unreachable: list[Unreachable] = []


def _unreachable(messages: Iterable[types_pb2.UnreachableNode]) -> list[Unreachable]:
    return [Unreachable(message.name, message.partition_id) for message in messages]


def _found_partition(partition: partition_pb2.Partition) -> Found | None:
    """A dynamic partition, for who judges; None: it is none that a core has made."""
    if not is_id(partition.partition_id) or not is_user_name(partition.owner):
        return None
    return Found(
        kind=OrphanKind.PARTITION,
        orphan_id=partition.partition_id,
        installation=partition.origin.installation,
        generation=partition.origin.store_generation,
        partition_id=partition.partition_id,
        dynamic=True,
        owner=partition.owner,
    )


def _found_attempt(status: job_pb2.JobStatus, *, dynamic: bool) -> Found | None:
    """An attempt, for who judges; None: it is none that a core has made."""
    ref = status.ref
    if not is_id(ref.job_id) or not ref.attempt or not is_user_name(ref.owner):
        return None
    return Found(
        kind=OrphanKind.JOB,
        orphan_id=f"{ref.job_id}/{ref.attempt}",
        installation=ref.installation,
        generation=status.origin.store_generation,
        partition_id=ref.partition_id,
        dynamic=dynamic,
        owner=ref.owner,
        nodes=tuple(ref.nodes),
        roots=tuple((root.node, root.root_uid) for root in status.roots),
    )
