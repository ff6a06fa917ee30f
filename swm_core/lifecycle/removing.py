"""Have a site remove what it has of an attempt."""

from __future__ import annotations

from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError

_CANCEL_S = 15.0


async def remove_attempt(gate: Gate, ref: types_pb2.JobRef, *, dynamic: bool) -> None:
    """Returns when nothing of the attempt is left at its site.

    Args:
        gate: The site's.
        ref: Which attempt.
        dynamic: Whether its partition is one that a core creates.

    Raises:
        GateError: It may be there still; to be asked again.
    """
    try:
        await _remove(gate, ref)
    except GateError as error:
        if not error.attempt_is_gone(dynamic=dynamic):
            raise


async def _remove(gate: Gate, ref: types_pb2.JobRef) -> None:
    request = job_pb2.RemoveJobRequest(ref=ref)
    try:
        await gate.call(gate.jobs.RemoveJob, request)
    except GateError as error:
        if error.reason != "JOB_RUNNING":
            raise
        # Nobody waits for its end any more (a forced cancel, or an orphan): it is stopped first.
        cancel = job_pb2.CancelJobRequest(ref=ref)
        await gate.call(gate.jobs.CancelJob, cancel, timeout_s=_CANCEL_S)
        await gate.call(gate.jobs.RemoveJob, request)
