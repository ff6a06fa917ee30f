"""Wait until an attempt's partition is there, and give the attempt its nodes on it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from skyport.gate.v1 import inventory_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.domain.states import PartitionState
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.placement import ready_steps
from swm_core.lifecycle.views import own_partition
from swm_core.scheduler import QueuedJob, allocate

_LOOK_S = 2.0
"""How often it is looked whether a gate has told the nodes of a partition that is there, and that
they are up."""


async def await_partition(context: Context, gate: Gate, job: Job) -> None:
    """Returns when the job has its nodes, and has left PROVISIONING.

    Raises:
        AttemptFailed: Its partition will not be there, or is not what it asked for.
    """
    slot = context.partitions.slot(job.partition_id)
    if slot is None:
        await gate.wait_ready()
        if gate.inventory.partitions.get(job.partition_id) is not None:
            await _placed(context, job)
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
                or Failure(FailureReason.PROVISIONING_FAILED, "its partition ended", retryable=True)
            )
        if partition.failure is not None:
            raise AttemptFailed(partition.failure)
        known = gate.ready and job.partition_id in gate.inventory.partitions
        if partition.state is PartitionState.READY and known:
            allocations = allocate(QueuedJob.of(job), own_partition(gate, partition))
            if allocations is not None:
                await _placed(context, job, allocations=allocations)
                return
            if not _is_coming_up(gate, job.partition_id):
                raise AttemptFailed(
                    Failure(
                        FailureReason.NO_CAPACITY,
                        f"partition {job.partition_id} came up without what the job asked for",
                    )
                )
        if partition.state is PartitionState.READY and not gate.ready:
            # A core that was restarted does not know its nodes before the gate has told them.
            await gate.wait_ready()
            continue
        if partition.text and partition.text != job.text:
            job = await context.jobs.note(job.job_id, partition.text)
        # Of a READY one its gate has yet to tell the nodes, or that they are up, which is no change
        # of the partition.
        longest_s = _LOOK_S if partition.state is PartitionState.READY else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await slot.newer(version)


def _is_coming_up(gate: Gate, partition_id: str) -> bool:
    """Whether a node may take the job later: one is down for a gate that has yet to reach it."""
    return any(
        node.state in (inventory_pb2.NODE_STATE_STARTING, inventory_pb2.NODE_STATE_DOWN)
        for node in gate.inventory.nodes.get(partition_id, {}).values()
    )


async def _placed(context: Context, job: Job, **changes: Any) -> None:
    await context.jobs.apply(job.job_id, lambda now: ready_steps(context, now, **changes))
