"""Everything that moves: gates, placements, attempts, partitions and removals, each with an owner.

`Lifecycle.run` is the core's main loop. What it has to do is all in the store, so it begins after a
crash as it begins after a stop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence

from rpc_kit.logs import job_context
from swm_core.config import Config
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.domain.partition import Partition
from swm_core.domain.states import JobState
from swm_core.gateways.subscriptions import AttemptKey
from swm_core.lifecycle.attempt import AttemptDriver
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.cost_guard import CostGuard
from swm_core.lifecycle.costs import CostBook
from swm_core.lifecycle.live import Change
from swm_core.lifecycle.partitions import PartitionDriver
from swm_core.lifecycle.patience import Spent
from swm_core.lifecycle.placement import Placement
from swm_core.lifecycle.ports import PortForwards
from swm_core.lifecycle.reconciliation import Reconciliation
from swm_core.lifecycle.removals import Removals
from swm_core.lifecycle.views import Views
from swm_core.store import Step

log = logging.getLogger(__name__)


class Lifecycle:
    """Drives all jobs of one core.

    Args:
        context: The core's parts; its live jobs and partitions are loaded.
        config: What it may do, and spend.
    """

    def __init__(self, context: Context, config: Config) -> None:
        self._context = context
        self.forwards = PortForwards(context)
        self.costs = CostBook(context, config)
        self._guard = CostGuard(context, self.costs)
        self.idle_s = {name: site.idle_time for name, site in config.sites.items()}
        most = {name: site.max_partitions for name, site in config.sites.items()}
        self.placement = Placement(context, self._new_partition, self.costs, Views(context, most))
        self.removals = {name: Removals(context, gate) for name, gate in context.gates.items()}
        self.reconciliations = {
            name: Reconciliation(context, gate, config.reconciliation)
            for name, gate in context.gates.items()
        }
        self._drivers: dict[AttemptKey, AttemptDriver] = {}
        self._spent = Spent(context.store.meta, context.jobs)
        self._group: asyncio.TaskGroup | None = None
        context.jobs.listen(self._changed)

    async def run(self) -> None:
        """Drive until cancelled. Jobs run on at their sites."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name, gate in self._context.gates.items():
                    gate.on_change = self.placement.wake
                    group.create_task(gate.run())
                    group.create_task(self.removals[name].run())
                    group.create_task(self.reconciliations[name].run())
                for partition in self._context.partitions:
                    self._drive_partition(partition)
                for job in self._context.jobs:
                    self._drive(job)
                group.create_task(self._spent.run())
                group.create_task(self._guard.run())
                group.create_task(self.placement.run())
        finally:
            self._group = None
            self.forwards.close_all()

    # ---- what users ask for ----

    async def cancel(self, job_id: str, *, force: bool) -> Job:
        """Ask that a job end; one that has no place ends at once.

        Raises:
            NotLive: It has ended.
        """

        def decide(job: Job) -> Sequence[Step]:
            if job.state is JobState.QUEUED or (job.site not in self._context.gates and force):
                text = "cancelled before it began" if job.state is JobState.QUEUED else "cancelled"
                return [
                    self._context.jobs.step(
                        job,
                        JobState.CANCELLED,
                        "CANCELLED",
                        text,
                        cancel_requested=True,
                        force=force,
                        end_time=self._context.clock(),
                    )
                ]
            after = dataclasses.replace(
                job, cancel_requested=True, force=job.force or force, text="cancel requested"
            )
            return [] if (after.force, True) == (job.force, job.cancel_requested) else [Step(after)]

        return await self._context.jobs.apply(job_id, decide)

    async def requeue(self, job: Job, secrets: Mapping[str, str]) -> Job:
        """Put a job that has ended back into the queue.

        Raises:
            StaleJob: It was requeued or deleted meanwhile.
        """
        step = self._context.jobs.step(
            job,
            JobState.QUEUED,
            "REQUEUED",
            "queued again",
            retries_left=job.spec.retries,
            cancel_requested=False,
            force=False,
            stop=None,
            failure=None,
            end=None,
            start_time=None,
            end_time=None,
            partition_id="",
            allocations=(),
            local_ports={},
            not_before=0.0,
            output_manifest_sha256="",
            skipped_outputs=(),
            unmatched_outputs=(),
        )
        queued = await self._context.store.jobs.transitions(job, [step], secrets)
        self._context.jobs.add(queued)
        return queued

    async def lose(self, job: Job, failure: Failure) -> None:
        """End the attempt of a job, which is lost with its place; returns when that is stored."""
        driver = self._drivers.get(AttemptKey(job.job_id, job.attempt))
        if driver is not None:
            await driver.lose(failure)

    # ---- what follows from a change ----

    def _changed(self, change: Change) -> None:
        before, job = change
        if before is None or before.state is not job.state:
            told = job.state is JobState.RUNNING or job.state.terminal
            level = logging.INFO if told else logging.DEBUG
            if log.isEnabledFor(level):
                with job_context(job.job_id, job.attempt):
                    log.log(level, "%s: %s", job.state, job.text)
        self._drive(job)
        if driver := self._drivers.get(AttemptKey(job.job_id, job.attempt)):
            driver.changed(job)
        if job.state is JobState.QUEUED or job.state.terminal:
            if before is not None and before.attempt:
                self._context.spool.close_logs(job.owner, job.job_id, before.attempt)
                self._leave_out(before, job)
            if job.state.terminal:
                self.placement.forget(job.job_id)
            self.placement.wake()
            if before is not None and before.site in self.removals:
                self.removals[before.site].wake()
            # Its partition may have nobody who needs it any more.
            if before is not None and (slot := self._context.partitions.slot(before.partition_id)):
                slot.touch()

    def _leave_out(self, before: Job, job: Job) -> None:
        """A place that had no room is not the first to be tried again."""
        reason = job.failure and job.failure.reason
        lacks_image = (
            reason is FailureReason.IMAGE_UNAVAILABLE and before.state is JobState.PROVISIONING
        )
        evicted = reason is FailureReason.PREEMPTED
        if job.failure and (reason is FailureReason.NO_CAPACITY or lacks_image or evicted):
            # From the store: by now it may be gone already.
            partition = self._context.store.partitions.get(before.partition_id)
            # A site that takes nodes away that it made has none of them to spare.
            if partition is not None or not evicted:
                self.placement.exclude(before, partition, job.failure)

    def _drive(self, job: Job) -> None:
        """Have a driver for the job's attempt, when it has a place."""
        key = AttemptKey(job.job_id, job.attempt)
        if self._group is None or key in self._drivers or not _placed(job):
            return
        gate = self._context.gates.get(job.site)
        if gate is None:
            log.error("job %s is at site %s, which is not configured any more", *key[:1], job.site)
            return
        driver = self._drivers[key] = AttemptDriver(
            self._context, job, gate, self.forwards, self._spent
        )
        self._group.create_task(self._run(key, driver))

    async def _run(self, key: AttemptKey, driver: AttemptDriver) -> None:
        try:
            await driver.run()
        finally:
            del self._drivers[key]

    def _new_partition(self, partition: Partition) -> None:
        self._context.partitions.add(partition)
        self._drive_partition(partition)

    def _drive_partition(self, partition: Partition) -> None:
        gate = self._context.gates.get(partition.site)
        if gate is None:
            log.error(
                "partition %s is at site %s, which is not configured any more, and may cost money",
                partition.partition_id,
                partition.site,
            )
        elif self._group is not None:
            idle_s = self.idle_s.get(partition.site, 0)
            driver = PartitionDriver(self._context, partition, gate, self._wanted, idle_s)
            self._group.create_task(driver.run())

    def _wanted(self, partition_id: str) -> bool:
        """Whether a job has its place, or its place to come, on the partition."""
        partition = self._context.partitions.get(partition_id)
        jobs = map(self._context.jobs.get, partition.jobs if partition else ())
        return any(
            job is not None
            and (
                (job.partition_id == partition_id and _placed(job))
                # The partition is stored first; its job follows within the same round.
                or self.placement.is_placing_on(job.job_id, partition_id)
            )
            for job in jobs
        )


def _placed(job: Job) -> bool:
    return job.state is not JobState.QUEUED and not job.state.terminal
