"""Places for queued jobs: asks the scheduler, and commits what it says.

This is the only place where capacity is given away, one round after the other, so two jobs never
get the same thing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Any

from rpc_kit.units import format_duration
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.ids import new_id
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.money import show
from swm_core.domain.partition import Partition, PartitionSpec
from swm_core.domain.states import JobState, PartitionState
from swm_core.gateways.gate import Gate
from swm_core.gateways.health import SiteState
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.costs import CostBook
from swm_core.lifecycle.live import NotLive
from swm_core.lifecycle.pieces import Pieces
from swm_core.lifecycle.views import Views
from swm_core.scheduler import Create, Enqueue, Exclusion, Place, Reject, Wait, schedule_in_steps
from swm_core.scheduler.demand import setup_of
from swm_core.scheduler.waiting import BACKOFF
from swm_core.store import Step, StoreError

log = logging.getLogger(__name__)

_EXCLUDED_S = 60.0
_EXCLUDED_MOST_S = 1_800.0

_CENTIMILLS = Decimal("0.00001")
"""So exact is the limit of a spot price; as clouds tell prices."""

_HEAR_S = 10.0
"""After the core's start, so long are gates given to tell what they have."""

_PAUSE_FACTOR = 9.0
"""After a round that took t seconds, so many t are left to others before the next: with 10,000 jobs
queued, a round (some 40 ms) places all that fit two or three times a second."""


class Placement:
    """Gives places to the jobs of a core.

    Args:
        context: The core's parts.
        new_partition: Told of each partition that was decided and stored.
        costs: Knows what may be spent.
        views: What the scheduler is told.
    """

    def __init__(
        self,
        context: Context,
        new_partition: Callable[[Partition], None],
        costs: CostBook,
        views: Views,
    ) -> None:
        self._context = context
        self._new_partition = new_partition
        self._wake = asyncio.Event()
        self._wake.set()
        self._hear_until = time.monotonic() + _HEAR_S
        self._placing: dict[str, str] = {}
        """By job: the partition that it is about to have a place on; empty: a new one."""
        self.views = views
        self._costs = costs
        self._excluded: dict[str, dict[Exclusion, tuple[int, Exclusion]]] = {}
        self.waiting: dict[str, str] = {}
        """Of queued jobs: what they wait for, for people. Not stored: it changes all the time."""

    def wake(self) -> None:
        """Something has changed: a round may find more."""
        self._wake.set()

    def is_placing_on(self, job_id: str, partition_id: str) -> bool:
        """Whether a place for the job there is being committed just now."""
        return self._placing.get(job_id) in ("", partition_id)

    def exclude(self, job: Job, partition: Partition | None, failure: Failure) -> None:
        """Leave a place out for a job: for good if it lacks the image, otherwise for a while.

        Args:
            job: The job as it was there.
            partition: The dynamic partition: its flavor is left out, or the whole location if that
                lacks the image. None: the partition itself is.
            failure: What is told of it.
        """
        place = Exclusion(job.site, partition_id=job.partition_id)
        if partition is not None:
            flavor, location = partition.spec.flavor, partition.spec.location
            if failure.reason is FailureReason.IMAGE_UNAVAILABLE and location:
                flavor = ""  # an image is there, or is not, whatever boots it
            place = Exclusion(job.site, location, flavor)
        known = self._excluded.setdefault(job.job_id, {})
        tries, _ = known.get(place, (0, place))
        until = self._context.clock() + min(_EXCLUDED_MOST_S, _EXCLUDED_S * 2**tries)
        if failure.reason is FailureReason.IMAGE_UNAVAILABLE:
            until = math.inf
        exclusion = dataclasses.replace(
            place, reason=failure.reason, message=failure.message, until=until
        )
        known[place] = (tries + 1, exclusion)

    def forget(self, job_id: str) -> None:
        """The job has ended."""
        self._excluded.pop(job_id, None)

    async def run(self) -> None:
        """Rounds, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            pieces = Pieces()
            try:
                later = await self._round(pieces)
            except (StoreError, NotLive):
                log.exception("a round of placements failed; again soon")
                later = 1.0
            if later is not None:
                asyncio.get_running_loop().call_later(later, self._wake.set)
            await asyncio.sleep(_PAUSE_FACTOR * pieces.spent_s)

    async def _round(self, pieces: Pieces) -> float | None:
        """One round; returns in how many seconds a job may be tried that has to wait till then.

        Others get their turn meanwhile. What they change is looked at when it is committed, and
        nobody but a round gives anything away.
        """
        now = self._context.clock()
        excluded = {
            job_id: tuple(exclusion for _, exclusion in places.values())
            for job_id, places in self._excluded.items()
        }
        queued = await pieces.all_of(self.views.queued_jobs(excluded, self._costs))
        if not queued:
            self.waiting = {}
            return None
        sites = self.views.sites()
        policy = self._costs.policy({job.owner for job in queued})
        decisions = await pieces.all_of(schedule_in_steps(queued, sites, now, policy))
        later_s: list[float] = []
        if self._sites_may_yet_answer():
            # Nodes that cost money are not made before those that are there have been heard of.
            held = [each.job_id for each in decisions if isinstance(each, Create)]
            decisions = [each for each in decisions if not isinstance(each, Create)]
            if held:
                decisions.append(Wait(tuple(held), "waits for sites that have not answered yet"))
                later_s.append(0.5)
        waits = [each for each in decisions if isinstance(each, Wait)]
        # A job that is tried again says itself why: what failed is its text.
        told = [wait for wait in waits if wait.text != BACKOFF]
        self.waiting = {job_id: wait.text for wait in told for job_id in wait.job_ids}
        outcomes = await asyncio.gather(
            *(self._commit(each) for each in decisions if not isinstance(each, Wait)),
            return_exceptions=True,
        )
        # Not before all are done: what is being committed must not be given away once more.
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        later_s += [max(0.01, wait.until - now) for wait in waits if wait.until]
        return min(later_s, default=None)

    def _sites_may_yet_answer(self) -> bool:
        return time.monotonic() < self._hear_until and any(
            not gate.inventory.known and gate.state is SiteState.STARTING
            for gate in self._context.gates.values()
        )

    async def _commit(self, decision: Place | Enqueue | Create | Reject) -> None:
        partition_id = decision.partition_id if isinstance(decision, Place) else ""
        self._placing[decision.job_id] = partition_id
        try:
            match decision:
                case Place() if not await self._claim(decision):
                    self.wake()  # it is being given back: another round finds another place
                case Place():
                    await self._place(
                        decision.job_id,
                        site=decision.site,
                        partition_id=decision.partition_id,
                        allocations=decision.allocations,
                        time_limit_s=decision.time_limit_s,
                    )
                case Enqueue():
                    await self._place(
                        decision.job_id, site=decision.site, partition_id=decision.partition_id
                    )
                case Create():
                    await self._create(decision)
                case Reject():
                    failure = Failure(decision.reason, decision.message)
                    await self._context.jobs.move(
                        decision.job_id, JobState.FAILED, failure.reason, failure.message,
                        failure=failure, end_time=self._context.clock(),
                    )  # fmt: skip
        except NotLive:
            pass  # cancelled meanwhile
        finally:
            del self._placing[decision.job_id]

    async def _claim(self, decision: Place) -> bool:
        """Have a dynamic partition wait for the job, before the job goes there.

        Returns:
            False: the partition takes no jobs any more.
        """
        partition = self._context.partitions.get(decision.partition_id)
        job = self._context.jobs.get(decision.job_id)
        if partition is None or job is None or not partition.pooled:
            return True
        limit_s = job.spec.time_limit_s or decision.time_limit_s

        def decide(now: Partition) -> Partition:
            if now.state is not PartitionState.READY or now.failure is not None:
                return now
            age_s = int(self._context.clock() - now.create_time)
            return dataclasses.replace(
                now,
                served=(*now.served, decision.job_id),
                idle_since=None,
                time_limit_s=max(now.time_limit_s, age_s + limit_s if limit_s else 0),
                text="",
            )

        claimed = await self._context.partitions.apply(decision.partition_id, decide)
        # It may have served the job before, too.
        return claimed.state is PartitionState.READY and claimed.failure is None

    async def _place(
        self, job_id: str, *, ready: bool = True, text: str = "", **place: Any
    ) -> None:
        def decide(job: Job) -> Sequence[Step]:
            if job.state is not JobState.QUEUED:
                return []
            return self._steps(job, ready=ready, text=text, **place)

        await self._context.jobs.apply(job_id, decide)

    def _steps(self, job: Job, *, ready: bool, text: str, **place: Any) -> Sequence[Step]:
        """Into PROVISIONING as a new attempt, and on as far as nobody has to be asked."""
        jobs = self._context.jobs
        fresh: dict[str, Any] = {
            "attempt": max(job.attempt, job.attempt_floor) + 1,
            "claimed": False,
            "uncertain": False,
            "end": None,
            "failure": None,
            "start_time": None,
            "allocations": (),
            "local_ports": {},
            "time_limit_s": 0,
            "stop": None,
            **place,
        }
        text = text or f"has a place at site {place['site']}"
        if limit_s := fresh["time_limit_s"]:
            text += (
                f"; may run for {format_duration(limit_s)} there, since it names no time and its "
                "nodes may cost money"
            )
        steps = [jobs.step(job, JobState.PROVISIONING, message=text, **fresh)]
        if ready:
            steps += ready_steps(self._context, steps[-1].job)
        return steps

    async def _create(self, decision: Create) -> None:
        job = self._context.jobs.get(decision.job_id)
        if job is None:
            return
        spec = _partition_spec(decision, job.spec, self._context.gates[decision.site])
        partition = await self._context.store.partitions.insert(
            Partition(
                partition_id=new_id(),
                site=decision.site,
                owner=job.owner,
                spec=spec,
                spec_fingerprint=hashlib.sha256(
                    repr(dataclasses.astuple(spec)).encode()
                ).hexdigest(),
                state=PartitionState.CREATING,
                create_time=self._context.clock(),
                job_id=job.job_id,
                price_per_hour=decision.price_per_hour,
                currency=decision.currency,
                text=f"creating {spec.node_count} x {spec.flavor}",
                time_limit_s=job.spec.time_limit_s or decision.time_limit_s,
            )
        )
        self._new_partition(partition)
        try:
            await self._place(
                job.job_id,
                ready=False,
                text=_create_text(partition),
                site=decision.site,
                partition_id=partition.partition_id,
                time_limit_s=decision.time_limit_s,
            )
        finally:
            # Without its job nobody needs it: it is not to be made until its gate says something.
            if slot := self._context.partitions.slot(partition.partition_id):
                slot.touch()


def _create_text(partition: Partition) -> str:
    """What is made for a job, for its history."""
    price = partition.price_per_hour
    cost = "at an unknown price" if price is None else f"at {show(price, partition.currency)}/h"
    spec = partition.spec
    nodes = f"{spec.node_count} {'spot ' if spec.spot else ''}node"
    nodes, each = (f"{nodes}s", " each") if spec.node_count > 1 else (nodes, "")
    return f"creating {partition.what} for it: {nodes} {cost}{each}"


def _partition_spec(decision: Create, spec: JobSpec, gate: Gate) -> PartitionSpec:
    """What is asked of the site for a job of this specification."""
    setup = setup_of(spec, gate.info.option_prefix if gate.info else "")
    limit = decision.spot_price_limit
    return PartitionSpec(
        location=decision.location,
        flavor=decision.flavor,
        node_count=decision.node_count,
        disk_bytes=spec.resources.disk_bytes,
        image=setup.image,
        containers=setup.containers,
        storage=setup.storage,
        site_options=setup.site_options,
        spot=setup.spot,
        spot_price_limit=limit if limit is None else limit.quantize(_CENTIMILLS, ROUND_DOWN),
        spot_currency="" if limit is None else decision.currency,
    )


def ready_steps(context: Context, job: Job, **changes: Any) -> list[Step]:
    """The steps from PROVISIONING on that need nobody's answer.

    Without inputs there is nothing to stage, once the roots of its nodes are known: a start must
    not be the first that a node hears of an owner, or a lost answer and a changed mount together
    would start it twice.
    """
    jobs = context.jobs
    steps = [jobs.step(job, JobState.STAGING_IN, message="bringing inputs", **changes)]
    staged = steps[-1].job
    if not job.manifest_sha256 and _knows_roots(context, staged):
        steps.append(jobs.step(staged, JobState.STARTING, message="starting"))
    return steps


def _knows_roots(context: Context, job: Job) -> bool:
    known = {root.node for root in context.store.roots.of(job.site, job.partition_id, job.owner)}
    return "" in known or (
        bool(job.allocations) and all(each.node in known for each in job.allocations)
    )
