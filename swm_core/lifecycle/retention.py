"""What is not needed any more goes: ended jobs after their time, contents that nothing names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

from swm_core.config import Spool as SpoolConfig
from swm_core.lifecycle.context import Context
from swm_core.store import NotFound, NotTerminal, StoreError

log = logging.getLogger(__name__)

_EVERY_S = 600.0
_EVENTS_KEPT_S = 30 * 86_400.0
_EVENTS_KEPT = 100_000


class Retention:
    """Deletes, every ten minutes.

    Args:
        context: The core's parts.
        config: How long jobs are kept.
    """

    def __init__(self, context: Context, config: SpoolConfig) -> None:
        self._context = context
        self._config = config

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.once()
            except (OSError, StoreError):
                log.exception("collecting what is not needed any more failed; again later")
            await asyncio.sleep(_EVERY_S)

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
        await store.journal.compact(before_time=now - _EVENTS_KEPT_S, keep=_EVENTS_KEPT)
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
