"""Whether a partition may wait for another job when its own has left it."""

from __future__ import annotations

from skyport.gate.v1 import inventory_pb2
from swm_core.domain.failures import OWN_REASONS
from swm_core.domain.partition import Partition
from swm_core.domain.states import PartitionState
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.context import Context
from swm_core.store import Attempt, Outcome


def may_wait(context: Context, gate: Gate, partition: Partition) -> bool:
    """Whether it is sound, and nobody minds what it costs while nothing runs on it.

    Not one of a job with `max-cost`, which would be spent by waiting; and not one on which a job
    has ended in a way that says something of its nodes.
    """
    nodes = gate.inventory.nodes.get(partition.partition_id, {}).values()
    if (
        partition.state is not PartitionState.READY
        or partition.failure is not None
        or partition.expired
        or gate.drained
        or (gate.ready and not all(n.state == inventory_pb2.NODE_STATE_UP for n in nodes))
    ):
        return False
    attempts = []
    for job_id in partition.jobs:
        job = context.store.jobs.get(job_id)
        if job is None or job.spec.max_cost is not None or job.force:
            return False
        attempts += [
            each
            for each in context.store.attempts.of_job(job_id)
            if each.partition_id == partition.partition_id
        ]
    return bool(attempts) and all(map(_leaves_it_sound, attempts))


def _leaves_it_sound(attempt: Attempt) -> bool:
    if attempt.outcome in (Outcome.SUCCEEDED, Outcome.CANCELLED):
        return True
    return attempt.failure is not None and attempt.failure.reason in OWN_REASONS
