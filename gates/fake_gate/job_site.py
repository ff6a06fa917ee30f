"""What JobService asks about the attempts of this site."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from gate_kit import errors
from gate_kit.job_checks import Place
from gates.fake_gate.ending import Ending
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.outages import Outages
from gates.fake_gate.output import Output
from gates.fake_gate.site_queue import SiteQueue
from skyport.gate.v1 import job_pb2, types_pb2


class FakeJobs:
    """The site of a `gate_kit.job_service.JobService`.

    Args:
        jobs: All attempts.
        ending: Ends and removes them.
        queue: Starts those of a queue.
        output: Streams what they write.
        outages: Nodes that can't be seen.
    """

    def __init__(
        self,
        jobs: Jobs,
        ending: Ending,
        queue: SiteQueue,
        output: Output,
        outages: Outages,
    ) -> None:
        self._jobs = jobs
        self._evidence = jobs.evidence
        self._ending = ending
        self._queue = queue
        self._output = output
        self._outages = outages

    async def start(self, request: job_pb2.StartJobRequest, place: Place) -> job_pb2.JobStatus:
        """Make sure that the attempt starts once; at a queue, when there is a slot."""
        ref = request.ref
        if not place.is_ready and self._evidence.locate(ref).spec() is None:
            raise errors.partition_not_ready(ref.partition_id, place.text)
        if place.kind == types_pb2.PARTITION_KIND_QUEUE:
            return await self._queue.submit(request)
        return await self._jobs.start(request)

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is here."""
        return self._evidence.status(self._evidence.locate(ref))

    async def listed(
        self, installation: str, partition_id: str, after: str
    ) -> AsyncGenerator[job_pb2.JobStatus, None]:
        """The attempts on nodes that can be seen, in order, from `after` on."""
        async for status in self._evidence.snapshot(installation, partition_id, after=after):
            if not self._outages.hides(status):
                yield status

    def snapshot(self, installation: str) -> AsyncIterator[job_pb2.JobStatus]:
        """The attempts on nodes that can be seen."""
        return self.listed(installation, "", "")

    def unreachable(self) -> list[types_pb2.UnreachableNode]:
        """The nodes that can't be seen."""
        return self._outages.unreachable()

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        """Make sure that nothing of the attempt runs, now or later."""
        return await self._ending.cancel(ref, grace_s)

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt."""
        await self._ending.remove(ref)

    def read_output(
        self, request: job_pb2.ReadOutputRequest
    ) -> AsyncGenerator[job_pb2.ReadOutputResponse, None]:
        """Stream what the attempt writes."""
        return self._output.read(self._evidence.locate(request.ref), request)
