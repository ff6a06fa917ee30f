"""One attempt of one job, from its place to its end.

The driver reads the job's committed state, does what that state asks for, commits the next, and so
on. It holds no state of its own that matters: it can be begun again at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence

from rpc_kit.logs import job_context
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import End, Job, Launch
from swm_core.domain.states import AT_SITE_STATES, JobState
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.subscriptions import AttemptKey
from swm_core.lifecycle.asking import Asker, AttemptFailed
from swm_core.lifecycle.at_site import AttemptAtSite
from swm_core.lifecycle.collecting import collect
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.ending import conclude, ended_at_site
from swm_core.lifecycle.giving_way import unless
from swm_core.lifecycle.live import NotLive
from swm_core.lifecycle.mirror import Mirroring
from swm_core.lifecycle.patience import OutOfReach, Overdue, Spent, patient
from swm_core.lifecycle.ports import PortForwards
from swm_core.lifecycle.provisioning import await_partition
from swm_core.lifecycle.staging_in import put_inputs
from swm_core.store import Step, StoreUnavailable

log = logging.getLogger(__name__)

_LAST_OUTPUT_S = 5.0
"""So long the end of an attempt that failed waits for what it wrote."""


class AttemptDriver:
    """Drives the latest attempt of a job that has a place.

    Args:
        context: The core's parts.
        job: The job, in a state after QUEUED.
        gate: Its site's.
        forwards: Who opens the job's ports.
        spent: What jobs have spent of their deadlines.
    """

    def __init__(
        self, context: Context, job: Job, gate: Gate, forwards: PortForwards, spent: Spent
    ) -> None:
        self._context = context
        self._key = AttemptKey(job.job_id, job.attempt)
        self._job_id = job.job_id
        self._owner = job.owner
        self._gate = gate
        self._forwards = forwards
        self._spent = spent
        self._asker = Asker(context, gate, job.job_id)
        self._mirroring = Mirroring(context, gate, self._asker)
        self._cancel = asyncio.Event()
        self._give_way = asyncio.Event()
        """That the attempt is to end, because its owner or the core wants it."""
        self._force = asyncio.Event()
        self._lost: Failure | None = None
        """Why the attempt is lost with its place, when an administrator says that it is."""
        self._ended_event = asyncio.Event()
        self.changed(job)

    def changed(self, job: Job) -> None:
        """The job is so now: when its owner wants it to end, whatever is under way gives way."""
        if job.cancel_requested:
            self._cancel.set()
        if job.cancel_requested or job.stop is not None:
            self._give_way.set()
        if job.force:
            self._force.set()

    async def lose(self, failure: Failure) -> None:
        """End the attempt, which is lost with its place; returns when that is stored."""
        self._lost = failure
        self._cancel.set()
        self._give_way.set()
        self._force.set()
        await self._ended_event.wait()

    async def run(self) -> None:
        """Returns when the attempt has ended: the job is terminal or queued again."""
        backoff = Backoff(first_s=0.5)
        with job_context(*self._key), self._gate.attempt(self._key, self._owner) as slot:
            site = AttemptAtSite(
                self._context, self._gate, self._key, slot, self._asker, self._spent
            )
            try:
                while (job := self._job()) is not None:
                    try:
                        await self._step(job, site)
                    except NotLive:
                        return
                    except Exception as error:
                        if _may_be_mended(error):
                            log.warning("the attempt waits in %s: %s", job.state, error)
                        else:
                            # A defect: the attempt must not be forgotten.
                            log.exception("the attempt stumbled in %s; again soon", job.state)
                        await asyncio.sleep(backoff.next())
            finally:
                self._ended_event.set()
                await self._mirroring.stop()

    def _job(self) -> Job | None:
        return self._context.jobs.attempt(*self._key)

    async def _step(self, job: Job, site: AttemptAtSite) -> None:
        try:
            if self._lost is not None:
                await self._fail(self._lost)
            elif job.state is JobState.STAGING_OUT:
                if job.force:
                    await self._conclude(None)
                else:
                    give_way = self._force if job.cancel_requested else self._cancel
                    await unless(give_way, self._collect(job))
            elif job.cancel_requested:
                await self._cancel_at_site(job, site)
            elif job.stop is not None:
                await self._stop(job, job.stop, site)
            else:
                await unless(self._give_way, self._advance(job, site))
        except AttemptFailed as failed:
            if failed.unsure:
                # On record first: a core that is killed then asks the site the same again.
                await self._decide_to_stop(job, failed.failure)
            else:
                await self._fail(failed.failure)

    async def _advance(self, job: Job, site: AttemptAtSite) -> None:
        deadlines = self._context.deadlines
        match job.state:
            case JobState.PROVISIONING:
                async with self._deadline(job, deadlines.provisioning):
                    await await_partition(self._context, self._gate, job)
            case JobState.STAGING_IN:
                async with self._deadline(job, deadlines.staging):
                    await self._stage_in(job)
            case JobState.STARTING:
                async with self._deadline(job, deadlines.starting, unsure=True):
                    await self._forwards.open_out(job, self._gate)
                    await site.start(job)
            case JobState.QUEUED_AT_SITE | JobState.RUNNING:
                # Where a queue chooses them, the nodes are known once it runs.
                if job.state is JobState.RUNNING or job.spec.launch is not Launch.EVERY:
                    self._mirroring.begin(job)
                if job.state is JobState.RUNNING:
                    await self._forwards.open(job, self._gate)
                async with self._deadline(job, None):
                    await site.follow(job)
            case _:
                raise AssertionError(f"nothing drives a job in {job.state}")

    @contextlib.asynccontextmanager
    async def _deadline(
        self, job: Job, limit_s: float | None, *, unsure: bool = False
    ) -> AsyncIterator[None]:
        """Fail the attempt once it was in its state for too long; see `patient`.

        Args:
            job: The job in that state.
            limit_s: Seconds; None: only a site that stays away ends it.
            unsure: Whether something of it may run.
        """
        lost_s = self._context.deadlines.site_lost
        try:
            async with patient(job, self._gate, self._spent, limit_s=limit_s, lost_s=lost_s):
                yield
        except Overdue:
            text = self._current_text() or "no answer"
            raise AttemptFailed(
                Failure(
                    FailureReason.DEADLINE,
                    f"still {job.state} at site {job.site} after {limit_s:.0f} s ({text})",
                ),
                unsure=unsure,
            ) from None
        except OutOfReach as error:
            # Nothing has run of what was not asked for yet: another place may do.
            before = job.state in (JobState.PROVISIONING, JobState.STAGING_IN)
            failure = Failure(FailureReason.SITE_LOST, str(error), retryable=before)
            raise AttemptFailed(failure) from None

    def _current_text(self) -> str:
        job = self._context.jobs.get(self._job_id)
        return job.text if job else ""

    async def _stage_in(self, job: Job) -> None:
        roots = await self._asker.ask_anew(
            job, "take its inputs", lambda ref: put_inputs(self._context, self._gate, job, ref)
        )
        await self._asker.keep_roots(job, roots)
        await self._context.jobs.move(self._job_id, JobState.STARTING, message="starting")

    # ---- the end ----

    async def _collect(self, job: Job) -> None:
        """Bring outputs and logs home, then end the job."""
        self._forwards.close(self._job_id)
        output = self._mirroring.begin(job)
        outcome = await collect(self._context, self._gate, job, self._asker, self._spent, output)
        await conclude(self._context, self._job_id, outcome.failure, outcome.collected)

    async def _conclude(self, failure: Failure | None) -> None:
        self._forwards.close(self._job_id)
        await conclude(self._context, self._job_id, failure)

    async def _fail(self, failure: Failure) -> None:
        """The attempt ended without an end of its own at the site."""
        job = self._job()
        if job is None:
            return
        self._forwards.close(self._job_id)
        if job.state in AT_SITE_STATES:
            # What it wrote until then is worth having, if the site still gives it.
            await self._mirroring.wait(_LAST_OUTPUT_S)
        await self._conclude(failure)

    # ---- cancel ----

    async def _cancel_at_site(self, job: Job, site: AttemptAtSite) -> None:
        if job.state is JobState.PROVISIONING:
            # The gate was never asked for anything of this attempt.
            await self._conclude(None)
            return
        await self._context.jobs.note(self._job_id, f"cancelling at site {job.site}")
        if not await self._confirm_stopped(job, site):
            return
        now = self._job()
        if now is not None and _may_have_run(now):
            self._mirroring.begin(now)
            end = now.end or End(end_time=self._context.clock())
            await ended_at_site(self._context, self._job_id, end)
        else:
            await self._conclude(None)

    async def _decide_to_stop(self, job: Job, failure: Failure) -> None:
        """Put on record that the attempt is to end, unless it has gone on meanwhile."""

        def decide(now: Job) -> Sequence[Step]:
            is_same = (now.attempt, now.state) == (job.attempt, job.state)
            if not is_same or now.stop is not None or now.cancel_requested:
                return []
            stopped = dataclasses.replace(now, stop=failure)
            return [Step(stopped, failure.reason, failure.message)]

        await self._context.jobs.apply(self._job_id, decide)

    async def _stop(self, job: Job, failure: Failure, site: AttemptAtSite) -> None:
        """End the attempt because the core wants it; what it has made until then is collected."""
        if job.state is not JobState.PROVISIONING and not await self._confirm_stopped(job, site):
            return
        now = self._job()
        if now is None or not _may_have_run(now):
            await self._fail(failure)
            return
        self._mirroring.begin(now)
        end = now.end or End(end_time=self._context.clock())
        if end.exit_code is None and end.signal is None:
            start_time = end.start_time or now.start_time
            end = dataclasses.replace(end, failure=failure, start_time=start_time)
        await ended_at_site(self._context, self._job_id, end)

    async def _confirm_stopped(self, job: Job, site: AttemptAtSite) -> bool:
        """Whether nothing of it runs; otherwise the job has ended: given up, or lost."""
        confirmed = await site.confirm_stopped(job, self._force)
        if not confirmed:
            await self._conclude(self._lost)
        return confirmed


def _may_be_mended(error: Exception) -> bool:
    """Whether it is about a disk, the store's or the spool's. A TimeoutError is an OSError too."""
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, StoreUnavailable)


def _may_have_run(job: Job) -> bool:
    return job.state in AT_SITE_STATES and job.state is not JobState.QUEUED_AT_SITE
