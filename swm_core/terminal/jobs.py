"""JobService: submit jobs, see them, end them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from rpc_kit.errors import Refusal, invalid, out_of_range, precondition
from rpc_kit.interceptor import Context as CallContext
from rpc_kit.paging import page_of
from skyport.terminal.v1 import job_pb2, job_pb2_grpc, types_pb2
from swm_core.domain import secrets
from swm_core.domain.job import Job
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.engine import Lifecycle
from swm_core.lifecycle.live import NotLive
from swm_core.security.identity import current_caller
from swm_core.store import (
    NotFound,
    NotTerminal,
    SequenceExpired,
    StaleJob,
    StoreUnavailable,
    Subscription,
)
from swm_core.terminal import convert
from swm_core.terminal.access import Access, no_job, store_unavailable
from swm_core.terminal.listed import ListedJobs
from swm_core.terminal.output import OutputReader
from swm_core.terminal.quotas import ActiveJobs
from swm_core.terminal.submit import Submission, check_secrets, packed_secrets
from swm_core.terminal.to_the_end import to_the_end

HEARTBEAT_S = 15.0
_MOST_WATCHED = 1_000
_EVENTS_AT_ONCE = 200


class JobService(job_pb2_grpc.JobServiceServicer):
    """Jobs of the callers.

    Args:
        context: The core's parts.
        lifecycle: Who drives jobs.
        access: Who may see which.
    """

    def __init__(self, context: Context, lifecycle: Lifecycle, access: Access) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._access = access
        self._active = ActiveJobs(context.jobs, context.limits.active_jobs_per_user)
        self._submission = Submission(
            context, lifecycle.placement.views, self._active, lifecycle.costs
        )
        self._listed = ListedJobs()
        self._output = OutputReader(context, access)

    async def CheckJob(
        self, request: job_pb2.CheckJobRequest, context: CallContext
    ) -> job_pb2.CheckJobResponse:
        return self._submission.check(current_caller().user, request)

    async def SubmitJob(
        self, request: job_pb2.SubmitJobRequest, context: CallContext
    ) -> job_pb2.SubmitJobResponse:
        try:
            job, warnings = await to_the_end(
                self._submission.submit(current_caller().user, request)
            )
        except StoreUnavailable as error:
            raise store_unavailable(error) from error
        return job_pb2.SubmitJobResponse(
            job=self._job(job),
            warnings=warnings,
            watch_token=self._token_before(job),
        )

    async def GetJob(
        self, request: job_pb2.GetJobRequest, context: CallContext
    ) -> job_pb2.GetJobResponse:
        job = self._access.job(request.job_id)
        message = self._job(job, with_attempts=True)
        costs = self._lifecycle.costs.of_job(job.job_id)
        told = [convert.money(amount, currency) for currency, amount in sorted(costs.items())]
        if told:
            message.cost.CopyFrom(told[0])
            message.other_costs.extend(told[1:])
        return job_pb2.GetJobResponse(job=message, watch_token=self._token_before(job))

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: CallContext
    ) -> job_pb2.ListJobsResponse:
        caller = current_caller()
        page = page_of(request, caller.user)
        owner = request.filter.owner or None if caller.is_admin else caller.user
        try:
            states = convert.states(request.filter.states)
        except KeyError as error:
            raise invalid(f"{error} is no state of a job", field="filter.states") from None
        # Before the list, so that whatever happens meanwhile is told by the watch.
        token = str(self._context.store.journal.latest())
        found = self._context.store.job_lists.page(
            owner=owner,
            states=states,
            id_prefix=request.filter.job_id_prefix,
            site=request.filter.site,
            page_size=page.size,
            after=int(page.after) if page.after else None,
        )
        return job_pb2.ListJobsResponse(
            jobs=[self._listed_job(job) for job in found.jobs],
            next_page_token="" if found.after is None else page.token(str(found.after)),
            watch_token=token,
        )

    async def WatchJobs(
        self, request: job_pb2.WatchJobsRequest, context: CallContext
    ) -> AsyncIterator[job_pb2.WatchJobsResponse]:
        caller = current_caller()
        if len(request.job_ids) > _MOST_WATCHED:
            raise invalid(
                f"{len(request.job_ids)} jobs to watch; name at most {_MOST_WATCHED}, or none for "
                "all of yours",
                field="job_ids",
                reason="FIELD_OUT_OF_RANGE",
            )
        for job_id in request.job_ids:
            self._access.job(job_id)
        with self._context.store.journal.subscribe(
            self._sequence(request.resume_token),
            owner=None if caller.is_admin else caller.user,
            job_ids=list(request.job_ids) or None,
        ) as subscription:
            caught_up = False
            while True:
                answer = await self._next(subscription, wait=caught_up)
                if not caught_up and subscription.caught_up:
                    answer.caught_up = caught_up = True
                yield answer

    async def _next(self, subscription: Subscription, *, wait: bool) -> job_pb2.WatchJobsResponse:
        answer = job_pb2.WatchJobsResponse()
        try:
            if wait:
                async with asyncio.timeout(HEARTBEAT_S):
                    events = await subscription.next(_EVENTS_AT_ONCE)
            else:
                events = subscription.ready(_EVENTS_AT_ONCE)
            answer.events.extend(map(convert.event, events))
        except TimeoutError:
            answer.heartbeat.CopyFrom(types_pb2.Heartbeat(time=convert.timestamp(time.time())))
        except SequenceExpired as error:
            raise out_of_range(
                "WATCH_EXPIRED",
                f"the events after {error.sequence} are not kept any more; list jobs, and watch "
                "from that list's token",
            ) from None
        answer.resume_token = str(subscription.position)
        return answer

    async def CancelJob(
        self, request: job_pb2.CancelJobRequest, context: CallContext
    ) -> job_pb2.CancelJobResponse:
        job = self._access.job(request.job_id)
        try:
            job = await self._lifecycle.cancel(job.job_id, force=request.force)
        except NotLive:
            job = self._access.job(request.job_id)
        except StoreUnavailable as error:
            raise store_unavailable(error) from error
        return job_pb2.CancelJobResponse(job=self._job(job))

    async def RequeueJob(
        self, request: job_pb2.RequeueJobRequest, context: CallContext
    ) -> job_pb2.RequeueJobResponse:
        job = self._access.job(request.job_id)
        token = str(self._context.store.journal.latest())
        requeued_since = not job.state.terminal or job.attempt > request.attempt
        if request.attempt and requeued_since:
            return job_pb2.RequeueJobResponse(job=self._job(job), watch_token=token)
        if not job.state.terminal:
            raise _not_ended(job)
        check_secrets(request)
        given = packed_secrets(request)
        lacking = self._context.store.jobs.secret_names(job.job_id) - set(given)
        if lacking:
            raise precondition(
                "SECRETS_REQUIRED",
                f"job {job.job_id} had secrets, which are not kept after its end; give again: "
                + ", ".join(sorted(map(secrets.shown, lacking))),
                names=",".join(sorted(lacking)),
            )
        try:
            job = await to_the_end(self._requeue(job, given))
        except (StaleJob, NotFound):
            raise _not_ended(self._access.job(request.job_id)) from None
        except StoreUnavailable as error:
            raise store_unavailable(error) from error
        return job_pb2.RequeueJobResponse(job=self._job(job), watch_token=token)

    async def _requeue(self, job: Job, given: Mapping[str, str]) -> Job:
        with self._active.admit(job.owner):
            return await self._lifecycle.requeue(job, given)

    async def ReadOutput(
        self, request: job_pb2.ReadOutputRequest, context: CallContext
    ) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        async for answer in self._output.read(request):
            yield answer

    async def DeleteJob(
        self, request: job_pb2.DeleteJobRequest, context: CallContext
    ) -> job_pb2.DeleteJobResponse:
        job = self._access.job(request.job_id)
        try:
            job = await self._context.store.jobs.delete(job.job_id)
        except NotTerminal:
            raise _not_ended(self._access.job(request.job_id)) from None
        except NotFound:
            raise no_job(request.job_id) from None
        except StoreUnavailable as error:
            raise store_unavailable(error) from error
        await self._context.spool.forget_job(job.owner, job.job_id)
        return job_pb2.DeleteJobResponse()

    def _job(self, job: Job, *, with_attempts: bool = False) -> job_pb2.Job:
        message = convert.job(
            job,
            waiting=self._lifecycle.placement.waiting.get(job.job_id, ""),
            local_address=lambda number: self._lifecycle.forwards.local_address(job, number),
            attempts=self._context.store.attempts.of_job(job.job_id) if with_attempts else (),
        )
        for attempt in message.attempts:
            if partition := self._context.store.partitions.get(attempt.partition_id):
                attempt.flavor = partition.spec.flavor
                attempt.location = partition.spec.location
                attempt.spot = partition.spec.spot
                if partition.price_per_hour is not None and partition.currency:
                    attempt.price.CopyFrom(convert.hourly_price(partition))
            if attempt.number == job.attempt and job.time_limit_s:
                attempt.time_limit.CopyFrom(convert.duration(job.time_limit_s))
        return message

    def _listed_job(self, job: Job) -> job_pb2.Job:
        if any(allocation.ports for allocation in job.allocations):
            return self._job(job)
        waiting = self._lifecycle.placement.waiting.get(job.job_id, "")
        return self._listed.message(job, waiting=waiting)

    def _token_before(self, job: Job) -> str:
        """Watching from here tells everything of the job, its submit first."""
        return str(self._context.store.jobs.submit_sequence(job.job_id) - 1)

    def _sequence(self, token: str) -> int:
        if not token:
            return self._context.store.journal.latest()
        if not token.isdecimal() or len(token) > 18:
            raise invalid(
                f"resume_token {token[:40]!r} is none of ours; watch without one, or list first",
                field="resume_token",
            )
        return int(token)


def _not_ended(job: Job) -> Refusal:
    return precondition(
        "JOB_NOT_ENDED",
        f"job {job.job_id} is {job.state}; wait for its end, or cancel it first",
        job_id=job.job_id,
        state=job.state,
    )
