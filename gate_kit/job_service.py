"""JobService: checks requests and hands them on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from gate_kit import errors
from gate_kit.job_checks import LONGEST_GRACE_S, JobChecks, Place, seconds
from gate_kit.validation import Fields
from gate_kit.watches import WatchHub
from rpc_kit.interceptor import Context
from rpc_kit.logs import job_context
from rpc_kit.paging import page_of
from skyport.gate.v1 import job_pb2, job_pb2_grpc, types_pb2

_PAGE_BYTES = 1 << 20
_OUTPUT_KINDS = job_pb2.OutputKind.values()


class Admission(Protocol):
    """What a gate checks before anything is looked at."""

    @property
    def checks(self) -> JobChecks:
        """Those that are the same for every gate."""
        ...

    def ref(self, ref: types_pb2.JobRef) -> Place:
        """Where the attempt is or would be.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND, NODE_UNREACHABLE.
        """
        ...

    def start(self, request: job_pb2.StartJobRequest) -> Place:
        """Where the job goes.

        Raises:
            Refusal: As for `ref`; and where the request asks for what can't be had.
        """
        ...

    def partition(self, partition_id: str) -> None:
        """Raise PARTITION_NOT_FOUND unless there is such a partition."""
        ...


class JobSite(Protocol):
    """What differs from gate to gate. The requests that it gets are checked.

    Each coroutine and each iterator may raise a Refusal.
    """

    async def start(self, request: job_pb2.StartJobRequest, place: Place) -> job_pb2.JobStatus:
        """Make sure that the attempt starts once."""
        ...

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is at the site."""
        ...

    def listed(
        self, installation: str, partition_id: str, after: str
    ) -> AsyncGenerator[job_pb2.JobStatus, None]:
        """The attempts that can be seen, in the order of their `position`.

        Args:
            installation: Whose.
            partition_id: Of one partition; empty is of all.
            after: Those up to this `position` need not be told.
        """
        ...

    def snapshot(self, installation: str) -> AsyncIterator[job_pb2.JobStatus]:
        """The attempts that can be seen now, for a watch that begins."""
        ...

    def unreachable(self) -> Sequence[types_pb2.UnreachableNode]:
        """The nodes whose attempts can't be seen. Asked after `listed` and `snapshot`."""
        ...

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        """Make sure that nothing of the attempt runs, now or later.

        Args:
            ref: Which.
            grace_s: Seconds between TERM and KILL; None means the spec's.
        """
        ...

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt."""
        ...

    def read_output(
        self, request: job_pb2.ReadOutputRequest
    ) -> AsyncGenerator[job_pb2.ReadOutputResponse, None]:
        """The answers to one call."""
        ...


def position(job_id: str, attempt: int, partition_id: str) -> str:
    """Where an attempt stands in a list of its installation.

    Such texts sort as ids and numbers do: each has a fixed width.
    """
    return f"{job_id:40} {attempt:010} {partition_id}"


class JobService(job_pb2_grpc.JobServiceServicer):
    """Serves attempts.

    Args:
        admission: Checks who asks, and for what.
        site: Has them.
        hub: Tells changes.
    """

    def __init__(
        self, admission: Admission, site: JobSite, hub: WatchHub[job_pb2.JobEvent]
    ) -> None:
        self._admission = admission
        self._site = site
        self._hub = hub

    async def StartJob(
        self, request: job_pb2.StartJobRequest, context: Context
    ) -> job_pb2.StartJobResponse:
        place = self._admission.start(request)
        with job_context(request.ref.job_id, request.ref.attempt):
            status = await self._site.start(request, place)
        return job_pb2.StartJobResponse(status=status)

    async def GetJob(
        self, request: job_pb2.GetJobRequest, context: Context
    ) -> job_pb2.GetJobResponse:
        self._admission.ref(request.ref)
        status = await self._site.status(request.ref)
        if status is None:
            raise errors.job_not_found(request.ref)
        return job_pb2.GetJobResponse(status=status)

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: Context
    ) -> job_pb2.ListJobsResponse:
        _check_installation(request.installation)
        page = page_of(request)
        if request.partition_id:
            self._admission.partition(request.partition_id)
        answer = job_pb2.ListJobsResponse()
        size, last = 0, ""
        listed = self._site.listed(request.installation, request.partition_id, page.after)
        async with contextlib.aclosing(listed):
            async for status in listed:
                ref = status.ref
                here = position(ref.job_id, ref.attempt, ref.partition_id)
                if here <= page.after:
                    continue
                if len(answer.jobs) >= page.size or size > _PAGE_BYTES:
                    answer.next_page_token = page.token(last)
                    break
                answer.jobs.append(status)
                size += status.ByteSize()
                last = here
        answer.unreachable.extend(
            node
            for node in self._site.unreachable()
            if request.partition_id in {"", node.partition_id}
        )
        return answer

    async def CancelJob(
        self, request: job_pb2.CancelJobRequest, context: Context
    ) -> job_pb2.CancelJobResponse:
        self._admission.ref(request.ref)
        fields = Fields()
        fields.duration("grace", request.grace, longest_s=LONGEST_GRACE_S)
        fields.done()
        grace_s = seconds(request.grace) if request.HasField("grace") else None
        with job_context(request.ref.job_id, request.ref.attempt):
            status = await self._site.cancel(request.ref, grace_s)
        return job_pb2.CancelJobResponse(status=status)

    async def WatchJobs(
        self, request: job_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[job_pb2.WatchJobsResponse]:
        _check_installation(request.installation)
        batches = self._hub.watch(
            lambda: self._snapshot(request.installation),
            wants=lambda topic: topic == request.installation,
            unreachable=self._site.unreachable,
        )
        async with contextlib.aclosing(batches):
            async for events in batches:
                yield job_pb2.WatchJobsResponse(events=events)

    async def _snapshot(self, installation: str) -> AsyncIterator[job_pb2.JobEvent]:
        async for status in self._site.snapshot(installation):
            yield job_pb2.JobEvent(status=status)

    async def ReadOutput(
        self, request: job_pb2.ReadOutputRequest, context: Context
    ) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        self._admission.ref(request.ref)
        fields = Fields()
        if not request.cursors:
            fields.wrong("cursors", "is empty; name at least one stream")
        else:
            streams = [(cursor.node, cursor.kind) for cursor in request.cursors]
            for index, cursor in enumerate(request.cursors):
                fields.choice(f"cursors[{index}].kind", cursor.kind, _OUTPUT_KINDS)
            if len(set(streams)) != len(streams):
                fields.wrong("cursors", "names a stream twice")
        fields.done()
        for cursor in request.cursors:
            self._admission.checks.node(request.ref, cursor.node, "cursors.node")
        answers = self._site.read_output(request)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    async def RemoveJob(
        self, request: job_pb2.RemoveJobRequest, context: Context
    ) -> job_pb2.RemoveJobResponse:
        self._admission.ref(request.ref)
        with job_context(request.ref.job_id, request.ref.attempt):
            await self._site.remove(request.ref)
        return job_pb2.RemoveJobResponse()


def _check_installation(installation: str) -> None:
    fields = Fields()
    fields.installation("installation", installation)
    fields.done()
