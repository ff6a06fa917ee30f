"""An attempt at its site: asked to start, followed until it has ended, and stopped before."""

from __future__ import annotations

import asyncio
from typing import Any

from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.domain import secrets
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import End, Job
from swm_core.domain.states import JobState
from swm_core.domain.words import words
from swm_core.gateways import convert
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.gateways.slots import Slot
from swm_core.gateways.subscriptions import AttemptKey
from swm_core.lifecycle.asking import Asker, AttemptFailed
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.ending import ended_at_site
from swm_core.lifecycle.giving_way import unless
from swm_core.lifecycle.patience import Spent
from swm_core.lifecycle.staging_in import put_inputs

_CANCEL_S = 15.0
"""A cancel that takes longer is asked for again: the gate joins the two; a lost one is found."""


class AttemptAtSite:
    """Has the site do what the attempt's state asks for, and commits what the site says of it.

    Args:
        context: The core's parts.
        gate: Its site's.
        key: Which attempt.
        slot: What the gate says of it.
        asker: Asks the gate about it.
        spent: What jobs have spent of their deadlines.
    """

    def __init__(
        self,
        context: Context,
        gate: Gate,
        key: AttemptKey,
        slot: Slot[job_pb2.JobStatus],
        asker: Asker,
        spent: Spent,
    ) -> None:
        self._context = context
        self._gate = gate
        self._key = key
        self._slot = slot
        self._asker = asker
        self._spent = spent

    async def start(self, job: Job) -> None:
        """Until it has begun: a gate that forgets, or that was restarted, is asked again.

        Raises:
            AttemptFailed: The gate refused.
        """
        slot = self._slot
        while self._is_starting():
            incarnation = self._gate.incarnation
            await self._ask_to_start(job)
            while self._is_starting() and self._gate.incarnation == incarnation:
                version = slot.version
                if slot.missing or _forgotten(slot.value) or await self._saw(slot.value):
                    break
                await slot.newer(version)
            slot.missing = False

    async def follow(self, job: Job) -> None:
        """Until the site says that it is in another state, or how it ended.

        Raises:
            AttemptFailed: Nobody will know how it ended, or it can't be started again.
        """
        slot = self._slot
        while True:
            version = slot.version
            if slot.missing:
                slot.missing = False
                await self._look(job)
            if job.uncertain and _has_not_begun(slot.value):
                text = f"site {job.site} has the attempt, and it has not begun there"
                raise AttemptFailed(Failure(FailureReason.END_UNKNOWN, text))
            if _forgotten(slot.value) and job.state is JobState.QUEUED_AT_SITE:
                await self._ask_to_start(job)
            if await self._saw(slot.value):
                return
            await slot.newer(version)

    async def confirm_stopped(self, job: Job, give_up: asyncio.Event) -> bool:
        """Have the site confirm that nothing of the attempt runs.

        Args:
            job: The job as it is.
            give_up: Set when its owner gives up on the site.

        Returns:
            Whether it has confirmed that; False: it was given up.

        Raises:
            AttemptFailed: The gate refused.
        """

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
                await self._context.jobs.note(job.job_id, end=convert.end(answer.status))

        try:
            return await unless(give_up, confirm())
        except GateError as error:
            if error.meaning is not Meaning.GONE:
                raise
            return True

    def _job(self) -> Job | None:
        return self._context.jobs.attempt(*self._key)

    def _is_starting(self) -> bool:
        job = self._job()
        return job is not None and job.state is JobState.STARTING

    async def _ask_to_start(self, job: Job) -> None:
        script = self._context.store.jobs.script(job.job_id)
        env, logins = secrets.unpack(self._context.store.jobs.secrets(job.job_id))
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
        version = self._slot.version

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
        if self._slot.version == version:
            self._slot.put(answer.status)

    async def _look(self, job: Job) -> None:
        """Ask for the attempt itself: a list that lacks it proves nothing."""
        version = self._slot.version
        try:
            answer = await self._asker.ask(
                job,
                "tell how it is",
                lambda ref: self._gate.call(self._gate.jobs.GetJob, job_pb2.GetJobRequest(ref=ref)),
                gone_fails=job.state is JobState.RUNNING,
            )
        except GateError:
            # It was never seen running, and the site has lost it: it is asked for anew.
            await self._ask_to_start(job)
        else:
            # The watch may have told more meanwhile, and tells nothing twice.
            if self._slot.version == version or answer.status.HasField("end"):
                self._slot.put(answer.status)

    async def _saw(self, status: job_pb2.JobStatus | None) -> bool:
        """Commit what the gate says; whether the job is in another state now."""
        job = self._job()
        if job is None:
            return True
        if status is None:
            return False
        if status.HasField("end"):
            await ended_at_site(
                self._context, job.job_id, _end(status), allocations=status.allocations
            )
            return True
        text = words(status.text)
        if status.state == job_pb2.JOB_STATE_RUNNING and job.state is not JobState.RUNNING:
            changes: dict[str, Any] = {"claimed": True}
            if status.HasField("start_time"):
                changes["start_time"] = convert.seconds(status.start_time)
            if status.allocations and not job.allocations:
                changes["allocations"] = convert.allocations(status.allocations)
            await self._context.jobs.move(
                job.job_id, JobState.RUNNING, message=text or "running", **changes
            )
            return True
        if status.state == job_pb2.JOB_STATE_QUEUED_AT_SITE and job.state is JobState.STARTING:
            await self._context.jobs.move(
                job.job_id, JobState.QUEUED_AT_SITE, message=text or "queued at its site"
            )
            return True
        if text and text != job.text:
            await self._context.jobs.note(job.job_id, text)
            if status.state == job_pb2.JOB_STATE_STARTING:
                # It is getting on: an image may take longer than a start is given.
                self._spent.set(job, 0.0)
        return False


def _end(status: job_pb2.JobStatus) -> End:
    """How it ended; a cancel that was not ours is a failure."""
    end = convert.end(status)
    if end.failure is None or not convert.cancelled(status.end):
        return end
    return End(
        failure=Failure(FailureReason.END_UNKNOWN, "it was cancelled at its site, not by Sky Port"),
        start_time=end.start_time,
        end_time=end.end_time,
        image_digest=end.image_digest,
        warnings=end.warnings,
    )


def _forgotten(status: job_pb2.JobStatus | None) -> bool:
    """Whether the site has lost a start that it had acknowledged, before any of it ran."""
    return (
        status is not None
        and status.state == job_pb2.JOB_STATE_STAGED
        and bool(status.spec_fingerprint)
    )


def _has_not_begun(status: job_pb2.JobStatus | None) -> bool:
    return status is not None and status.state == job_pb2.JOB_STATE_STAGED
