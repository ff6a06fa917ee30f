"""JobService: checks requests and hands them on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from gate_kit import Context, Fields, WatchHub, errors, job_context, page_of
from gates.fake_gate.admission import Admission
from gates.fake_gate.command import seconds
from gates.fake_gate.ending import Ending
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.outages import Outages
from gates.fake_gate.output import Output
from gates.fake_gate.partitions import Partitions
from gates.fake_gate.site_queue import SiteQueue
from skyport.gate.v1 import job_pb2, job_pb2_grpc, types_pb2

_PAGE_BYTES = 1 << 20
_OUTPUT_KINDS = job_pb2.OutputKind.values()


class JobService(job_pb2_grpc.JobServiceServicer):
    """Serves attempts."""

    def __init__(
        self,
        admission: Admission,
        jobs: Jobs,
        ending: Ending,
        queue: SiteQueue,
        output: Output,
        outages: Outages,
        partitions: Partitions,
        hub: WatchHub[job_pb2.JobEvent],
    ) -> None:
        self._partitions = partitions
        self._admission = admission
        self._jobs = jobs
        self._evidence = jobs.evidence
        self._ending = ending
        self._queue = queue
        self._output = output
        self._outages = outages
        self._hub = hub

    async def StartJob(
        self, request: job_pb2.StartJobRequest, context: Context
    ) -> job_pb2.StartJobResponse:
        place = self._admission.start(request)
        ref = request.ref
        with job_context(ref.job_id, ref.attempt):
            if not place.is_ready and self._evidence.locate(ref).spec() is None:
                raise errors.partition_not_ready(ref.partition_id, place.text)
            if place.kind == types_pb2.PARTITION_KIND_QUEUE:
                status = await self._queue.submit(request)
            else:
                status = await self._jobs.start(request)
        return job_pb2.StartJobResponse(status=status)

    async def GetJob(
        self, request: job_pb2.GetJobRequest, context: Context
    ) -> job_pb2.GetJobResponse:
        self._admission.ref(request.ref)
        return job_pb2.GetJobResponse(status=self._status(request.ref))

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: Context
    ) -> job_pb2.ListJobsResponse:
        fields = Fields()
        fields.installation("installation", request.installation)
        fields.done()
        page = page_of(request)
        answer = job_pb2.ListJobsResponse(unreachable=self._outages.unreachable())
        size, last = 0, ""
        if request.partition_id:
            self._partitions.get(request.partition_id)
        for key in self._evidence.keys(request.installation, request.partition_id):
            # Fixed widths, so that texts sort as the keys do.
            position = f"{key.job_id:40} {key.attempt:010} {key.partition_id}"
            if position <= page.after:
                continue
            if len(answer.jobs) >= page.size or size > _PAGE_BYTES:
                answer.next_page_token = page.token(last)
                break
            status = self._evidence.status(self._evidence.attempt(key))
            if status and not self._outages.hides(status):
                answer.jobs.append(status)
                size += status.ByteSize()
            last = position
        return answer

    async def CancelJob(
        self, request: job_pb2.CancelJobRequest, context: Context
    ) -> job_pb2.CancelJobResponse:
        self._admission.ref(request.ref)
        fields = Fields()
        fields.duration("grace", request.grace, longest_s=86_400)
        fields.done()
        grace_s = None
        if request.HasField("grace"):
            grace_s = seconds(request.grace.seconds, request.grace.nanos)
        with job_context(request.ref.job_id, request.ref.attempt):
            status = await self._ending.cancel(request.ref, grace_s)
        return job_pb2.CancelJobResponse(status=status)

    async def WatchJobs(
        self, request: job_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[job_pb2.WatchJobsResponse]:
        fields = Fields()
        fields.installation("installation", request.installation)
        fields.done()
        batches = self._hub.watch(
            lambda: self._snapshot(request.installation),
            wants=lambda topic: topic == request.installation,
            unreachable=self._outages.unreachable,
        )
        async with contextlib.aclosing(batches):
            async for events in batches:
                yield job_pb2.WatchJobsResponse(events=events)

    async def _snapshot(self, installation: str) -> AsyncIterator[job_pb2.JobEvent]:
        async for status in self._evidence.snapshot(installation):
            if not self._outages.hides(status):
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
            self._admission.node(request.ref, cursor.node, "cursors.node")
        answers = self._output.read(self._evidence.locate(request.ref), request)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    async def RemoveJob(
        self, request: job_pb2.RemoveJobRequest, context: Context
    ) -> job_pb2.RemoveJobResponse:
        self._admission.ref(request.ref)
        with job_context(request.ref.job_id, request.ref.attempt):
            await self._ending.remove(request.ref)
        return job_pb2.RemoveJobResponse()

    def _status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus:
        status = self._evidence.status(self._evidence.find(ref))
        if status is None:
            raise errors.job_not_found(ref)
        return status
