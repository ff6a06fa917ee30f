"""Whether a partition may wait for another job when its own has left it."""

from __future__ import annotations

from skyport.gate.v1 import inventory_pb2
from swm_core.domain.failures import OWN_REASONS
from swm_core.domain.partition import Partition
from swm_core.domain.states import PartitionState
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.context import Context
from swm_core.store import Attempt, Outcome


class Reuse:
    """Judges one partition, again and again.

    Args:
        context: The core's parts.
        gate: Its site's.
    """

    def __init__(self, context: Context, gate: Gate) -> None:
        self._context = context
        self._gate = gate
        self._sound = 0
        """So many of its jobs, from the first on, have left it sound: there may be thousands."""

    def may_wait(self, partition: Partition) -> bool:
        """Whether it is sound, and nobody minds what it costs while nothing runs on it.

        Not one of a job with `max-cost`, which would be spent by waiting; and not one on which a
        job has ended in a way that says something of its nodes.
        """
        gate = self._gate
        nodes = gate.inventory.nodes.get(partition.partition_id, {}).values()
        if (
            partition.state is not PartitionState.READY
            or partition.failure is not None
            or partition.expired
            or gate.drained
            or (gate.ready and not all(n.state == inventory_pb2.NODE_STATE_UP for n in nodes))
        ):
            return False
        fresh = partition.jobs[self._sound :]
        attempts = []
        for job_id in dict.fromkeys(fresh):
            job = self._context.store.jobs.get(job_id)
            if job is None or job.spec.max_cost is not None or job.force:
                return False
            attempts += [
                each
                for each in self._context.store.attempts.of_job(job_id)
                if each.partition_id == partition.partition_id
            ]
        if not (attempts or self._sound) or not all(map(_leaves_it_sound, attempts)):
            return False
        self._sound += len(fresh)
        return True


def _leaves_it_sound(attempt: Attempt) -> bool:
    if attempt.outcome in (Outcome.SUCCEEDED, Outcome.CANCELLED):
        return True
    return attempt.failure is not None and attempt.failure.reason in OWN_REASONS
