"""What a site does to jobs by script: nodes that fail, jobs that are preempted."""

from __future__ import annotations

import asyncio

from gate_kit import Operations
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.ending import Ending
from gates.fake_gate.faults import Fault, FaultKind, FaultScript, Subject


class JobFaults:
    """Ends jobs some time after they have begun to run.

    Args:
        faults: Says which, when and why.
        ending: Ends them.
        operations: Owns what waits.
    """

    def __init__(self, faults: FaultScript, ending: Ending, operations: Operations) -> None:
        self._faults = faults
        self._ending = ending
        self._operations = operations

    def claimed(self, attempt: Attempt) -> None:
        """Have an end come to it, if one is scripted."""
        spec = None if self._faults.is_idle else attempt.spec()
        if spec is None:
            return
        key = attempt.key
        subject = Subject("run", key.partition_id, key.job_id, spec.spec.name)
        for fault in self._faults.strikes(frozenset({FaultKind.END_JOB}), subject):
            self._operations.spawn(self._end(attempt, fault), f"end {key.job_id}")

    def ended(self, attempt: Attempt) -> None:
        """Nothing to do: who waits finds it ended."""

    async def _end(self, attempt: Attempt, fault: Fault) -> None:
        await asyncio.sleep(fault.seconds)
        await self._ending.end_from_outside(attempt, fault.reason)
