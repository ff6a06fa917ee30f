"""One attempt of one job, from its place to its end.

The driver reads the job's committed state, does what that state asks for, commits the next, and so
on. It holds no state of its own that matters: it can be begun again at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from rpc_kit.logs import job_context
from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.domain import secrets
from swm_core.domain.failures import Failure, FailureReason, may_retry
from swm_core.domain.job import End, Job
from swm_core.domain.states import JobState, PartitionState
from swm_core.domain.words import words
from swm_core.gateways import convert
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import AttemptKey, Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.gateways.slots import Slot
from swm_core.lifecycle.asking import Asker, AttemptFailed
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.live import NotLive
from swm_core.lifecycle.mirror import OutputMirror
from swm_core.lifecycle.patience import OutOfReach, Overdue, Spent, patient
from swm_core.lifecycle.placement import ready_steps
from swm_core.lifecycle.ports import PortForwards
from swm_core.lifecycle.staging import Collected, Collection, put_inputs
from swm_core.lifecycle.views import own_partition
from swm_core.scheduler import QueuedJob, allocate
from swm_core.spool import SpoolFull
from swm_core.store import Step, StoreUnavailable

log = logging.getLogger(__name__)

_CANCEL_S = 15.0
"""A cancel that takes longer is asked for again: the gate joins the two; a lost one is found."""
_PLACED_AGAIN_AFTER_S = 5.0

AT_SITE = frozenset({JobState.STARTING, JobState.QUEUED_AT_SITE, JobState.RUNNING})


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
        self._job_id = job.job_id
        self._owner = job.owner
        self._attempt = job.attempt
        self._gate = gate
        self._forwards = forwards
        self._spent = spent
        self._asker = Asker(context, gate, job.job_id)
        self._cancel = asyncio.Event()
        self._give_way = asyncio.Event()
        """That the attempt is to end, because its owner or the core wants it."""
        self._force = asyncio.Event()
        self._lost: Failure | None = None
        """Why the attempt is lost with its place, when an administrator says that it is."""
        self._ended_event = asyncio.Event()
        self._mirroring: asyncio.Task[None] | None = None
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
        with (
            job_context(self._job_id, self._attempt),
            self._gate.attempt(AttemptKey(self._job_id, self._attempt), self._owner) as slot,
        ):
            try:
                while (job := self._job()) is not None:
                    try:
                        await self._step(job, slot)
                    except NotLive:
                        return
                    except StoreUnavailable as error:
                        log.warning("the attempt waits in %s: %s", job.state, error)
                        await asyncio.sleep(backoff.next())
                    except Exception:
                        # A defect: the attempt must not be forgotten.
                        log.exception("the attempt stumbled in %s; again soon", job.state)
                        await asyncio.sleep(backoff.next())
            finally:
                self._ended_event.set()
                if self._mirroring is not None:
                    self._mirroring.cancel()
                    await asyncio.gather(self._mirroring, return_exceptions=True)

    def _job(self) -> Job | None:
        """The job, while this attempt is its latest and has not ended."""
        job = self._context.jobs.get(self._job_id)
        if job is None or job.attempt != self._attempt or job.state is JobState.QUEUED:
            return None
        return job

    async def _step(self, job: Job, slot: Slot[job_pb2.JobStatus]) -> None:
        try:
            if self._lost is not None:
                await self._fail(self._lost)
            elif job.state is JobState.STAGING_OUT:
                if job.force:
                    await self._conclude(None)
                else:
                    give_way = self._force if job.cancel_requested else self._cancel
                    await _unless(give_way, self._collect(job))
            elif job.cancel_requested:
                await self._cancel_at_site(job)
            elif job.stop is not None:
                await self._stop(job, job.stop)
            else:
                await _unless(self._give_way, self._advance(job, slot))
        except AttemptFailed as failed:
            if failed.unsure and not await self._confirm_stopped(job):
                return
            await self._fail(failed.failure)

    async def _advance(self, job: Job, slot: Slot[job_pb2.JobStatus]) -> None:
        match job.state:
            case JobState.PROVISIONING:
                async with self._deadline(job, self._context.deadlines.provisioning):
                    await self._await_partition(job)
            case JobState.STAGING_IN:
                async with self._deadline(job, self._context.deadlines.staging):
                    await self._stage_in(job)
            case JobState.STARTING:
                async with self._deadline(job, self._context.deadlines.starting, unsure=True):
                    await self._start(job, slot)
            case JobState.QUEUED_AT_SITE | JobState.RUNNING:
                await self._follow(job, slot)
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

    # ---- before the start ----

    async def _await_partition(self, job: Job) -> None:
        slot = self._context.partitions.slot(job.partition_id)
        if slot is None:
            await self._gate.wait_ready()
            if self._gate.inventory.partitions.get(job.partition_id) is not None:
                await self._placed(job)
                return
            raise AttemptFailed(
                Failure(FailureReason.PROVISIONING_FAILED, "its partition is gone", retryable=True)
            )
        while True:
            version, partition = slot.version, slot.value
            if partition is None or partition.state in (
                PartitionState.DELETING,
                PartitionState.DELETED,
                PartitionState.STOPPED,
            ):
                raise AttemptFailed(
                    (partition and partition.failure)
                    or Failure(
                        FailureReason.PROVISIONING_FAILED, "its partition ended", retryable=True
                    )
                )
            if partition.failure is not None:
                raise AttemptFailed(partition.failure)
            known = self._gate.ready and job.partition_id in self._gate.inventory.partitions
            if partition.state is PartitionState.READY and known:
                allocations = allocate(QueuedJob.of(job), own_partition(self._gate, partition))
                if allocations is None:
                    raise AttemptFailed(
                        Failure(
                            FailureReason.NO_CAPACITY,
                            f"partition {job.partition_id} came up without what the job asked for",
                        )
                    )
                await self._placed(job, allocations=allocations)
                return
            if partition.state is PartitionState.READY and not self._gate.ready:
                # A core that was restarted does not know its nodes before the gate has told them.
                await self._gate.wait_ready()
                continue
            if partition.text and partition.text != job.text:
                job = await self._context.jobs.note(self._job_id, partition.text)
            await slot.newer(version)

    async def _placed(self, job: Job, **changes: Any) -> None:
        await self._context.jobs.apply(
            self._job_id, lambda now: ready_steps(self._context, now, **changes)
        )

    async def _stage_in(self, job: Job) -> None:
        roots = await self._asker.ask_anew(
            job, "take its inputs", lambda ref: put_inputs(self._context, self._gate, job, ref)
        )
        await self._asker.keep_roots(job, roots)
        await self._context.jobs.move(self._job_id, JobState.STARTING, message="starting")

    # ---- at the site ----

    async def _start(self, job: Job, slot: Slot[job_pb2.JobStatus]) -> None:
        await self._forwards.open_out(job, self._gate)
        while self._is(JobState.STARTING):
            incarnation = self._gate.incarnation
            await self._ask_to_start(job, slot)
            # Until it has begun: a gate that forgets, or that was restarted, is asked again.
            while self._is(JobState.STARTING) and self._gate.incarnation == incarnation:
                version = slot.version
                if slot.missing or _forgotten(slot.value) or await self._saw(slot.value):
                    break
                await slot.newer(version)
            slot.missing = False

    async def _ask_to_start(self, job: Job, slot: Slot[job_pb2.JobStatus]) -> None:
        script = self._context.store.jobs.script(self._job_id)
        env, logins = secrets.unpack(self._context.store.jobs.secrets(self._job_id))
        request = job_pb2.StartJobRequest(
            spec=convert.job_spec(
                job, script, self._gate.info.option_prefix if self._gate.info else ""
            ),
            allocations=convert.allocation_messages(job.allocations),
            origin=types_pb2.Origin(
                installation=self._context.installation,
                store_generation=self._context.generation,
            ),
            secret_env=env,
            registry_logins=[job_pb2.RegistryLogin(**login._asdict()) for login in logins],
        )
        request.spec_fingerprint = convert.fingerprint(request)
        version = slot.version

        async def start(ref: types_pb2.JobRef) -> job_pb2.StartJobResponse:
            request.ref.CopyFrom(ref)
            try:
                return await self._gate.call(self._gate.jobs.StartJob, request)
            except GateError as error:
                if error.reason != "INPUTS_MISSING":
                    raise
                # The site has lost them since: once more, and a second loss is told.
                await put_inputs(self._context, self._gate, job, ref)
                return await self._gate.call(self._gate.jobs.StartJob, request)

        answer = await self._asker.ask_anew(job, "start it", start)
        await self._asker.keep_roots(job, answer.status.roots)
        # The watch may have told more already.
        if slot.version == version:
            slot.put(answer.status)

    async def _follow(self, job: Job, slot: Slot[job_pb2.JobStatus]) -> None:
        """Until the site says how it ended."""
        self._begin_mirror(job)
        if job.state is JobState.RUNNING:
            await self._forwards.open(job, self._gate)
        async with self._deadline(job, None):
            while True:
                version = slot.version
                if slot.missing:
                    slot.missing = False
                    await self._look(job, slot)
                if job.uncertain and _has_not_begun(slot.value):
                    text = f"site {job.site} has the attempt, and it has not begun there"
                    raise AttemptFailed(Failure(FailureReason.END_UNKNOWN, text))
                if _forgotten(slot.value) and job.state is JobState.QUEUED_AT_SITE:
                    await self._ask_to_start(job, slot)
                if await self._saw(slot.value):
                    return
                await slot.newer(version)

    async def _look(self, job: Job, slot: Slot[job_pb2.JobStatus]) -> None:
        """Ask for the attempt itself: a list that lacks it proves nothing."""
        try:
            answer = await self._asker.ask(
                job,
                "tell how it is",
                lambda ref: self._gate.call(self._gate.jobs.GetJob, job_pb2.GetJobRequest(ref=ref)),
                gone_fails=job.state is JobState.RUNNING,
            )
        except GateError:
            # It was never seen running, and the site has lost it: it is asked for anew.
            await self._ask_to_start(job, slot)
        else:
            slot.put(answer.status)

    async def _saw(self, status: job_pb2.JobStatus | None) -> bool:
        """Commit what the gate says; whether the job is in another state now."""
        job = self._job()
        if job is None:
            return True
        if status is None:
            return False
        if status.HasField("end"):
            end = convert.end(status)
            if end.failure is not None and convert.cancelled(status.end):
                end = End(
                    failure=Failure(
                        FailureReason.END_UNKNOWN, "it was cancelled at its site, not by Sky Port"
                    ),
                    start_time=end.start_time,
                    end_time=end.end_time,
                    image_digest=end.image_digest,
                    warnings=end.warnings,
                )
            await self._ended(end, allocations=status.allocations)
            return True
        text = words(status.text)
        if status.state == job_pb2.JOB_STATE_RUNNING and job.state is not JobState.RUNNING:
            changes: dict[str, Any] = {"claimed": True}
            if status.HasField("start_time"):
                changes["start_time"] = convert.seconds(status.start_time)
            if status.allocations and not job.allocations:
                changes["allocations"] = convert.allocations(status.allocations)
            await self._context.jobs.move(
                self._job_id, JobState.RUNNING, message=text or "running", **changes
            )
            return True
        if status.state == job_pb2.JOB_STATE_QUEUED_AT_SITE and job.state is JobState.STARTING:
            await self._context.jobs.move(
                self._job_id, JobState.QUEUED_AT_SITE, message=text or "queued at its site"
            )
            return True
        if text and text != job.text:
            await self._context.jobs.note(self._job_id, text)
            if status.state == job_pb2.JOB_STATE_STARTING:
                # It is getting on: an image may take longer than a start is given.
                self._spent.set(job, 0.0)
        return False

    async def _ended(self, end: End, *, allocations: Sequence[types_pb2.Allocation] = ()) -> None:
        def decide(job: Job) -> Sequence[Step]:
            changes: dict[str, Any] = {
                "end": end,
                # What has an exit code has begun, whether RUNNING was ever seen or not.
                "claimed": job.claimed or end.start_time is not None,
                "start_time": end.start_time or job.start_time,
            }
            if allocations and not job.allocations:
                changes["allocations"] = convert.allocations(allocations)
            return [
                self._context.jobs.step(
                    job, JobState.STAGING_OUT, message="collecting results", **changes
                )
            ]

        await self._context.jobs.apply(self._job_id, decide)

    # ---- the end ----

    async def _collect(self, job: Job) -> None:
        """Bring outputs and logs home, then end the job."""
        self._forwards.close(self._job_id)
        mirroring = self._begin_mirror(job)
        failure = _failure_of(job)
        changes: dict[str, Any] = {}
        collection = Collection(self._context, self._gate, job)
        deadlines = self._context.deadlines
        lost_s, limit_s = deadlines.site_lost, deadlines.staging_out
        try:
            async with patient(job, self._gate, self._spent, limit_s=limit_s, lost_s=lost_s):
                if not job.cancel_requested and job.end is not None and job.end.start_time:
                    collected = await self._results(job, collection)
                    changes = {
                        "output_manifest_sha256": collected.manifest_sha256,
                        "skipped_outputs": collected.skipped,
                        "unmatched_outputs": collected.unmatched,
                    }
                    failure = failure or collected.failure
                await asyncio.shield(mirroring)
        except Overdue:
            text = f"results could not be collected within {limit_s:.0f} s"
            reason = FailureReason.STAGING_FAILED
            if collection.refused is not None:
                text, reason = f"{text}: {collection.refused}", FailureReason.SPOOL_FULL
            failure = failure or Failure(reason, text)
        except OutOfReach as error:
            text = f"its results are lost: {error}"
            failure = failure or Failure(FailureReason.SITE_LOST, text)
        except AttemptFailed as error:
            failure = failure or error.failure
        finally:
            collection.close()
        await self._conclude(self._explained(job, failure), **changes)

    async def _results(self, job: Job, collection: Collection) -> Collected:
        """Its outputs, once the core has room for them."""
        backoff = Backoff(first_s=0.5, most_s=60.0)
        while True:
            try:
                return await self._asker.ask(job, "give its results", collection.run)
            except GateError as error:
                text = f"nothing is left of its results at site {job.site}: {error.message}"
                raise AttemptFailed(Failure(FailureReason.STAGING_FAILED, text)) from error
            except SpoolFull as error:
                text = f"its results wait for room in the core's spool: {error}"
                await self._context.jobs.note(self._job_id, text)
                await asyncio.sleep(backoff.next())

    async def _conclude(self, failure: Failure | None, **changes: Any) -> None:
        """The attempt is over and its results are safe, or were given up on."""

        def decide(job: Job) -> Sequence[Step]:
            jobs = self._context.jobs
            ended = {"end_time": self._context.clock(), **changes}
            if job.cancel_requested:
                text = "cancelled; its site never confirmed it" if job.force else "cancelled"
                return [jobs.step(job, JobState.CANCELLED, "CANCELLED", text, **ended)]
            if failure is None:
                return [jobs.step(job, JobState.SUCCEEDED, message="done", **ended)]
            if may_retry(failure, claimed=job.claimed, retries_left=job.retries_left):
                return [self._again(job, failure)]
            return [
                jobs.step(
                    job,
                    JobState.FAILED,
                    failure.reason,
                    failure.message,
                    failure=failure,
                    **ended,
                )
            ]

        await self._context.jobs.apply(self._job_id, decide)

    def _again(self, job: Job, failure: Failure) -> Step:
        """Back into the queue, as an attempt to come."""
        partition = self._context.store.partitions.get(job.partition_id)
        where = f" on {partition.what}" if partition is not None else ""
        return self._context.jobs.step(
            job,
            JobState.QUEUED,
            failure.reason,
            f"attempt {job.attempt} failed{where} ({failure.message}); trying again",
            retries_left=job.retries_left - (1 if job.claimed else 0),
            failure=failure,
            partition_id="",
            allocations=(),
            # Where there was no room is left out for a while; elsewhere there may be some.
            not_before=(
                0.0
                if failure.reason is FailureReason.NO_CAPACITY
                else self._context.clock() + _PLACED_AGAIN_AFTER_S
            ),
        )

    async def _fail(self, failure: Failure) -> None:
        """The attempt ended without an end of its own at the site."""
        job = self._job()
        if job is None:
            return
        self._forwards.close(self._job_id)
        if job.state in AT_SITE and self._mirroring is not None:
            # What it wrote until then is worth having, if the site still gives it.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._mirroring), 5.0)
        await self._conclude(failure)

    def _explained(self, job: Job, failure: Failure | None) -> Failure | None:
        """The failure, with what the core knows of why its nodes went down."""
        partition = self._context.partitions.get(job.partition_id)
        if failure is None or failure.reason is not FailureReason.NODE_FAIL:
            return failure
        if partition is None or not partition.expired:
            return failure
        text = f"its partition expired while this core was away: {failure.message}"
        return dataclasses.replace(failure, message=text)

    # ---- cancel ----

    async def _cancel_at_site(self, job: Job) -> None:
        if job.state is JobState.PROVISIONING:
            # The gate was never asked for anything of this attempt.
            await self._conclude(None)
            return
        await self._context.jobs.note(self._job_id, f"cancelling at site {job.site}")
        if not await self._confirm_stopped(job):
            return
        now = self._job()
        if now is not None and now.state in AT_SITE and now.state is not JobState.QUEUED_AT_SITE:
            self._begin_mirror(now)
            await self._ended(now.end or End(end_time=self._context.clock()))
        else:
            await self._conclude(None)

    async def _stop(self, job: Job, failure: Failure) -> None:
        """End the attempt because the core wants it; what it has made until then is collected."""
        if job.state is not JobState.PROVISIONING and not await self._confirm_stopped(job):
            return
        now = self._job()
        if now is None or now.state not in AT_SITE or now.state is JobState.QUEUED_AT_SITE:
            await self._fail(failure)
            return
        self._begin_mirror(now)
        end = now.end or End(end_time=self._context.clock())
        if end.exit_code is None and end.signal is None:
            start_time = end.start_time or now.start_time
            end = dataclasses.replace(end, failure=failure, start_time=start_time)
        await self._ended(end)

    async def _confirm_stopped(self, job: Job) -> bool:
        """Have the site confirm that nothing of the attempt runs.

        Returns:
            False: the job has ended otherwise, because its owner gave up on the site.
        """
        confirmed = asyncio.Event()

        async def confirm() -> None:
            answer = await self._asker.ask(
                job,
                "confirm that nothing of it runs",
                lambda ref: self._gate.call(
                    self._gate.jobs.CancelJob,
                    job_pb2.CancelJobRequest(ref=ref),
                    timeout_s=_CANCEL_S,
                ),
            )
            if answer.HasField("status") and answer.status.HasField("end"):
                await self._context.jobs.note(self._job_id, end=convert.end(answer.status))

        try:
            await _unless(self._force, confirm(), confirmed)
        except GateError as error:
            if error.meaning is not Meaning.GONE:
                raise
            confirmed.set()
        if not confirmed.is_set():
            await self._conclude(None)
        return confirmed.is_set()

    # ---- small things ----

    def _is(self, state: JobState) -> bool:
        job = self._job()
        return job is not None and job.state is state

    def _begin_mirror(self, job: Job) -> asyncio.Task[None]:
        if self._mirroring is None or (
            self._mirroring.done() and self._mirroring.exception() is not None
        ):
            mirror = OutputMirror(self._context, self._gate, job, self._asker)
            self._mirroring = asyncio.create_task(mirror.run())
        return self._mirroring


def _forgotten(status: job_pb2.JobStatus | None) -> bool:
    """Whether the site has lost a start that it had acknowledged, before any of it ran."""
    return (
        status is not None
        and status.state == job_pb2.JOB_STATE_STAGED
        and bool(status.spec_fingerprint)
    )


def _has_not_begun(status: job_pb2.JobStatus | None) -> bool:
    return status is not None and status.state == job_pb2.JOB_STATE_STAGED


def _failure_of(job: Job) -> Failure | None:
    """Why the job failed, going by its end at the site."""
    end = job.end
    if end is None:
        return None
    if end.failure is not None:
        return end.failure
    if end.signal is not None:
        return Failure(FailureReason.SIGNAL, f"ended by signal {end.signal}")
    if end.exit_code:
        return Failure(FailureReason.EXIT_CODE, f"exit code {end.exit_code}")
    return None


async def _unless(
    event: asyncio.Event, work: Coroutine[Any, Any, None], done: asyncio.Event | None = None
) -> None:
    """Await `work`, but drop it as soon as `event` is set; `done` is set when it came to an end."""
    working = asyncio.create_task(work)
    asked = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        working.cancel()
        outcome = (await asyncio.gather(working, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        raise outcome
    if done is not None and not isinstance(outcome, BaseException):
        done.set()
