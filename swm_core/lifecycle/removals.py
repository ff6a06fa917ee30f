"""Remove what ended attempts left at their sites: asked for until the site says that it is done.

What is to be removed is in the store, so this goes on after any restart. Each attempt has a backoff
of its own: those that a dead host holds up hold up no others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time

from skyport.gate.v1 import types_pb2
from swm_core.gateways import convert
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError
from swm_core.gateways.subscriptions import AttemptKey
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.removing import remove_attempt
from swm_core.store import Attempt, StoreError

log = logging.getLogger(__name__)

_AT_ONCE = 16
_BATCH = 200
_PAUSE_S = 0.25
"""Between batches: nobody waits for a removal, and many at once cost little more than one."""


@dataclasses.dataclass(slots=True)
class Failed:
    """A removal that the site was asked for in vain."""

    partition_id: str
    tries: int = 0
    message: str = ""
    """Why; for people."""
    due: float = 0.0
    """When it is asked for again; by the monotonic clock."""
    backoff: Backoff = dataclasses.field(default_factory=lambda: Backoff(first_s=0.5, most_s=60.0))


class Removals:
    """The attempts of one site that wait to be removed."""

    def __init__(self, context: Context, gate: Gate) -> None:
        self._context = context
        self._gate = gate
        self._wake = asyncio.Event()
        self._wake.set()
        self.pending = 0
        """How many there are now."""
        self.failed: dict[AttemptKey, Failed] = {}
        """Those of them that the site was asked for in vain since the core's start."""

    def wake(self) -> None:
        """An attempt has ended at this site."""
        self._wake.set()

    async def run(self) -> None:
        """Remove, until cancelled."""
        while True:
            await self._gate.wait_ready()
            self._wake.clear()
            waiting = self._waiting()
            now = time.monotonic()
            due = [key for key in waiting if key not in self.failed or self.failed[key].due <= now]
            if due:
                permits = asyncio.Semaphore(_AT_ONCE)
                await asyncio.gather(*(self._remove(key, permits) for key in due[:_BATCH]))
                await asyncio.sleep(_PAUSE_S)
                continue
            wait_s = min((each.due - now for each in self.failed.values()), default=None)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _waiting(self) -> list[AttemptKey]:
        """The attempts that wait, oldest first; what has failed of others is forgotten."""
        waiting = [
            AttemptKey(*key) for key in self._context.store.attempts.to_remove(self._gate.name)
        ]
        there = set(waiting)
        self.failed = {key: failed for key, failed in self.failed.items() if key in there}
        self.pending = len(waiting)
        return waiting

    async def _remove(self, key: AttemptKey, permits: asyncio.Semaphore) -> None:
        async with permits:
            attempts = self._context.store.attempts
            attempt = attempts.get(*key)
            if attempt is None or not attempt.to_remove:
                return
            known = self._context.store.partitions.get(attempt.partition_id)
            # One that ended while its machines were made has brought nothing to any of them.
            is_there = known is None or bool(attempt.allocations)
            try:
                if is_there:
                    await remove_attempt(self._gate, self._ref(attempt), dynamic=known is not None)
                await attempts.removed(*key)
            except GateError as error:
                self._note(attempt, error.message)
            except StoreError as error:
                # The site is done, and is asked once more: that does no harm.
                self._note(attempt, f"the store could not note it: {error}")
            else:
                self.failed.pop(key, None)
                self.pending -= 1

    def _note(self, attempt: Attempt, message: str) -> None:
        key = AttemptKey(attempt.job_id, attempt.attempt)
        failed = self.failed.setdefault(key, Failed(attempt.partition_id))
        if message != failed.message:
            log.warning("attempt %s/%d was not removed: %s; again until it is", *key, message)
        failed.tries += 1
        failed.message = message
        failed.due = time.monotonic() + failed.backoff.next()

    def _ref(self, attempt: Attempt) -> types_pb2.JobRef:
        return convert.job_ref(
            attempt,
            self._context.installation,
            self._context.store.roots.of(self._gate.name, attempt.partition_id, attempt.owner),
            queue=self._gate.chooses_nodes(attempt.partition_id),
        )
