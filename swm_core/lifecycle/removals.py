"""Remove what ended attempts left at their sites: asked for until the site says that it is done."""

from __future__ import annotations

import asyncio
import logging

from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.gateways import convert
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError
from swm_core.lifecycle.context import Context
from swm_core.store import Attempt

log = logging.getLogger(__name__)

_AT_ONCE = 8
_BATCH = 200
_CANCEL_S = 15.0


class Removals:
    """The attempts of one site that wait to be removed."""

    def __init__(self, context: Context, gate: Gate) -> None:
        self._context = context
        self._gate = gate
        self._wake = asyncio.Event()
        self._wake.set()
        self.pending = 0
        """How many there are now."""
        self.problem = ""
        """Why the last round did not empty it; for people."""

    def wake(self) -> None:
        """An attempt has ended at this site."""
        self._wake.set()

    async def run(self) -> None:
        """Remove, until cancelled."""
        backoff = Backoff(first_s=0.5, most_s=60.0)
        while True:
            await self._gate.wait_ready()
            self._wake.clear()
            attempts = self._context.store.attempts.pending_removals(self._gate.name, _BATCH)
            self.pending = len(attempts)
            if not attempts:
                backoff.reset()
                await self._wake.wait()
                continue
            self.problem = ""
            permits = asyncio.Semaphore(_AT_ONCE)
            done = await asyncio.gather(*(self._remove(each, permits) for each in attempts))
            self.pending -= sum(done)
            if not all(done):
                try:
                    async with asyncio.timeout(backoff.next()):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _remove(self, attempt: Attempt, permits: asyncio.Semaphore) -> bool:
        """Whether nothing of the attempt is left."""
        ref = self._ref(attempt)
        async with permits:
            try:
                try:
                    await self._gate.call(
                        self._gate.jobs.RemoveJob, job_pb2.RemoveJobRequest(ref=ref)
                    )
                except GateError as error:
                    if error.reason != "JOB_RUNNING":
                        raise
                    # Ended without the site's word (a forced cancel): it is stopped first.
                    cancel = job_pb2.CancelJobRequest(ref=ref)
                    await self._gate.call(self._gate.jobs.CancelJob, cancel, timeout_s=_CANCEL_S)
                    return False
            except GateError as error:
                known = self._context.store.partitions.get(attempt.partition_id)
                if not error.attempt_is_gone(dynamic=known is not None):
                    self.problem = error.message
                    log.warning(
                        "attempt %s/%d was not removed: %s",
                        attempt.job_id, attempt.attempt, error.message,
                    )  # fmt: skip
                    return False
            await self._context.store.attempts.removed(attempt.job_id, attempt.attempt)
            return True

    def _ref(self, attempt: Attempt) -> types_pb2.JobRef:
        return convert.job_ref(
            attempt,
            self._context.installation,
            self._context.store.roots.of(self._gate.name, attempt.partition_id, attempt.owner),
            queue=self._gate.chooses_nodes(attempt.partition_id),
        )
