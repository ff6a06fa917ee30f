"""What JobService asks about attempts at a Slurm site."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

from gate_kit import errors
from gate_kit.job_checks import Place
from gate_kit.ssh.host import Host
from gate_kit.ssh.output import Output
from gates.ssh_cluster_gate.slurm.ending import SlurmEnding
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.partitions import SlurmPartitions
from gates.ssh_cluster_gate.slurm.starting import SlurmStarts
from skyport.gate.v1 import job_pb2, types_pb2


class SlurmJobs:
    """The site of a `gate_kit.job_service.JobService`.

    Args:
        jobs: All attempts.
        starts: Starts them.
        ending: Ends and removes them.
        output: Streams what they write.
        partitions: Knows what can't be seen.
        check_workdir: Raises WORKDIR_NOT_ALLOWED where a named work folder is not allowed.
    """

    def __init__(
        self,
        jobs: SlurmAttempts,
        starts: SlurmStarts,
        ending: SlurmEnding,
        output: Output,
        partitions: SlurmPartitions,
        check_workdir: Callable[[Host, str], Awaitable[None]],
    ) -> None:
        self._jobs = jobs
        self._starts = starts
        self._ending = ending
        self._output = output
        self._partitions = partitions
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
            Refusal: SITE_UNREACHABLE where the login node does not answer.
        """
        async for status in self._jobs.snapshot(installation, partition_id):
            yield status
        if self._partitions.unreachable():
            raise errors.site_unreachable("the login node does not answer")

    def snapshot(self, installation: str) -> AsyncIterator[job_pb2.JobStatus]:
        """The attempts that can be seen."""
        return self._jobs.snapshot(installation)

    def unreachable(self) -> Sequence[types_pb2.UnreachableNode]:
        """What can't be seen."""
        return self._partitions.unreachable()

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
