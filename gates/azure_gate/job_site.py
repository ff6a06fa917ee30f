"""Attempts on nodes that Azure may take away."""

from __future__ import annotations

import logging

from gate_kit import Operations, Refusal
from gate_kit.ssh.job_site import SshJobs
from gate_kit.ssh.jobs import Jobs
from gates.azure_gate.partitions import Known, Partitions
from skyport.gate.v1 import job_pb2, types_pb2

log = logging.getLogger(__name__)


class Losses:
    """Which nodes are gone for good.

    Args:
        partitions: Which nodes there are.
    """

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

    def reason(self, ref: types_pb2.JobRef, node: str) -> str:
        """Why a node of an attempt is gone for good; empty: it is not."""
        known = self._partitions.find(ref.partition_id)
        return known.tags.lost.get(node, "") if known else ""

    def there(self, ref: types_pb2.JobRef) -> types_pb2.JobRef:
        """The attempt on those of its nodes that are not lost."""
        left = types_pb2.JobRef()
        left.CopyFrom(ref)
        nodes = [node for node in ref.nodes if not self.reason(ref, node)]
        del left.nodes[:]
        left.nodes.extend(nodes)
        roots = [root for root in ref.roots if root.node in nodes]
        del left.roots[:]
        left.roots.extend(roots)
        return left


class LostJobs:
    """Tells the ends of attempts whose nodes are gone: no runner does so any more.

    Args:
        jobs: Whose attempts they are.
        partitions: Tell what is lost.
        operations: Owns the telling.
    """

    def __init__(self, jobs: Jobs, partitions: Partitions, operations: Operations) -> None:
        self._jobs = jobs
        self._operations = operations
        partitions.on_lost.append(self._lost)

    def _lost(self, known: Known) -> None:
        for ref in list(self._jobs.known.live.values()):
            if ref.partition_id == known.id and not known.tags.lost.keys().isdisjoint(ref.nodes):
                self._operations.spawn(self._told(ref), f"end of {ref.job_id}")

    async def _told(self, ref: types_pb2.JobRef) -> None:
        try:
            await self._jobs.publish(ref)
        except Refusal as refusal:
            # Others of its nodes do not answer: it is told with the last of them.
            log.info("%s: %s", ref.job_id, refusal.message)


class AzureJobs:
    """The site of a `gate_kit.job_service.JobService`: as by SSH, but for nodes that are lost.

    Args:
        jobs: What is done on nodes.
        losses: Which are gone.
    """

    def __init__(self, jobs: SshJobs, losses: Losses) -> None:
        self._losses = losses
        self.start = jobs.start
        self.status = jobs.status
        self.listed = jobs.listed
        self.snapshot = jobs.snapshot
        self.unreachable = jobs.unreachable
        self.read_output = jobs.read_output
        self._jobs = jobs

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        """Make sure that nothing of the attempt runs, now or later."""
        left = self._losses.there(ref)
        if not left.nodes:
            return await self._jobs.status(ref)
        if len(left.nodes) < len(ref.nodes):
            await self._jobs.cancel(left, grace_s)
            return await self._jobs.status(ref)
        return await self._jobs.cancel(ref, grace_s)

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt."""
        left = self._losses.there(ref)
        if left.nodes:
            await self._jobs.remove(left)
