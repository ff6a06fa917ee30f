"""What is not needed any more goes: ended jobs after their time, contents that nothing names."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

from swm_core.config import Spool as SpoolConfig
from swm_core.lifecycle.context import Context
from swm_core.store import NotFound, NotTerminal, StoreError

log = logging.getLogger(__name__)

_EVERY_S = 600.0
_EVENTS_KEPT_S = 30 * 86_400.0
EVENTS_KEPT = 100_000
"""So many events are kept however old they are."""
_JUMP_S = 60.0
"""Clocks that differ so much more than before: one was set, or the machine slept."""


class Retention:
    """Deletes, now and then.

    Args:
        context: The core's parts.
        config: How long jobs are kept.
        every_s: How long it rests in between.
    """

    def __init__(self, context: Context, config: SpoolConfig, *, every_s: float = _EVERY_S) -> None:
        self._context = context
        self._config = config
        self._every_s = every_s

    async def run(self) -> None:
        """Until cancelled.

        Nothing is deleted at the core's start, nor in the first round after a clock has jumped: it
        may be wrong and be put right, and who slept may still need what was theirs before.
        """
        lag_s = self._lag_s()
        while True:
            await asyncio.sleep(min(self._every_s, self._config.job_retention))
            before_s, lag_s = lag_s, self._lag_s()
            if abs(lag_s - before_s) > _JUMP_S:
                log.info("the clock is %.0f s ahead of what it was", lag_s - before_s)
                continue
            try:
                await self.once()
            except (OSError, StoreError):
                log.exception("collecting what is not needed any more failed; again later")

    def _lag_s(self) -> float:
        """How far the clock on the wall is ahead of one that only runs."""
        return self._context.clock() - time.monotonic()

    async def once(self) -> None:
        """One round."""
        store, spool = self._context.store, self._context.spool
        now = self._context.clock()
        for job_id in store.jobs.ended_before(now - self._config.job_retention):
            try:
                job = await store.jobs.delete(job_id)
            except (NotFound, NotTerminal):
                continue  # deleted or requeued meanwhile
            await spool.forget_job(job.owner, job.job_id)
        await store.journal.compact(before_time=now - _EVENTS_KEPT_S, keep=EVENTS_KEPT)
        await asyncio.to_thread(spool.collect_logs, self._jobs)
        freed = await asyncio.to_thread(spool.collect, self._references)
        if freed:
            log.info("the spool let go of %d bytes that no job names any more", freed)

    def _jobs(self) -> Iterator[tuple[str, str]]:
        for owner, job_id, _ in self._context.store.jobs.references():
            yield owner, job_id

    def _references(self) -> Iterator[tuple[str, Sequence[str]]]:
        for owner, _, manifests in self._context.store.jobs.references():
            yield owner, manifests
