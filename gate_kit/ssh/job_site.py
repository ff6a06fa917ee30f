"""What JobService asks about attempts on hosts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from gate_kit import errors
from gate_kit.job_checks import Place
from gate_kit.ssh.ending import Ending
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import Jobs
from gate_kit.ssh.output import Output
from gate_kit.ssh.overview import Overview
from gate_kit.ssh.starting import Starts
from skyport.gate.v1 import job_pb2, types_pb2


class SshJobs:
    """The site of a `gate_kit.job_service.JobService`.

    Args:
        jobs: All attempts.
        starts: Starts them.
        overview: Lists them.
        ending: Ends and removes them.
        output: Streams what they write.
        check_workdir: Raises WORKDIR_NOT_ALLOWED where a named work folder is not allowed on a
            host.
    """

    def __init__(
        self,
        jobs: Jobs,
        starts: Starts,
        overview: Overview,
        ending: Ending,
        output: Output,
        check_workdir: Callable[[Host, str], Awaitable[None]],
    ) -> None:
        self._jobs = jobs
        self._starts = starts
        self._overview = overview
        self._ending = ending
        self._output = output
        self._check_workdir = check_workdir

    async def start(self, request: job_pb2.StartJobRequest, place: Place) -> job_pb2.JobStatus:
        """Make sure that the attempt starts once."""
        if request.spec.workdir:
            for host in self._jobs.sites.hosts(request.ref):
                await self._check_workdir(host, request.spec.workdir)
        return await self._starts.start(request)

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is there."""
        return await self._jobs.status(ref)

    async def listed(
        self, installation: str, partition_id: str, after: str
    ) -> AsyncGenerator[job_pb2.JobStatus, None]:
        """The attempts that can be seen, in order.

        Raises:
            Refusal: SITE_UNREACHABLE where no host answers.
        """
        async for status in self._overview.snapshot(installation, partition_id):
            yield status
        nodes = {host.node for host in self._jobs.sites.everywhere(partition_id)}
        if nodes and nodes <= {node.name for node in self._overview.unreachable()}:
            raise errors.site_unreachable(f"none of {len(nodes)} hosts answers")

    def snapshot(self, installation: str) -> AsyncIterator[job_pb2.JobStatus]:
        """The attempts that can be seen."""
        return self._overview.snapshot(installation)

    def unreachable(self) -> Sequence[types_pb2.UnreachableNode]:
        """The nodes that can't be seen."""
        return self._overview.unreachable()

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
        return self._output.read(request)
