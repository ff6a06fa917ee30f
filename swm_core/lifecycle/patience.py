"""Deadlines that a laptop which sleeps over a weekend, or a clock that jumps, can't make pass.

What a job may lose by a deadline must not be decided by time in which nothing could be done: while
the core does not run, the machine sleeps, or the site can't be reached. So time is counted by the
monotonic clock, which none of these moves, and how much was counted is kept in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from skyport.gate.v1 import inventory_pb2
from swm_core.domain.job import Job
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.live import LiveJobs
from swm_core.store import StoreError
from swm_core.store.meta import Meta

log = logging.getLogger(__name__)

_TICK_S = 5.0
_TICKS = 8
"""A short deadline is counted in so many steps."""


class Overdue(Exception):
    """It could have been done, and was not, for so long as its deadline allows."""


class OutOfReach(Exception):
    """The site could not be reached for so long as its deadline allows.

    Args:
        what: The site, or the node of it that can't be reached.
        limit_s: For how long.
    """

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(f"{what} could not be reached for {limit_s:.0f} s")


class Spent:
    """How many seconds of their deadlines jobs have spent, kept in the store.

    A core that is killed loses the last few seconds of it.

    Args:
        meta: Where it is kept.
        jobs: Those that have not ended.
    """

    def __init__(self, meta: Meta, jobs: LiveJobs) -> None:
        self._meta = meta
        self._jobs = jobs
        self._seconds = meta.spent_s()
        self._kept = dict(self._seconds)

    def of(self, job: Job) -> float:
        """What the job has spent in its present state."""
        return self._seconds.get(_key(job), 0.0)

    def set(self, job: Job, spent_s: float) -> None:
        """The job has spent so much."""
        self._seconds[_key(job)] = spent_s

    def forget(self, job: Job) -> None:
        """The job has left its state."""
        self._seconds.pop(_key(job), None)

    async def run(self) -> None:
        """Keep it, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                await self._keep()
        finally:
            await self._keep()

    async def _keep(self) -> None:
        if self._seconds == self._kept:
            return
        states = {_key(job) for job in self._jobs.placed}
        # Who was cancelled has not said so.
        for key in self._seconds.keys() - states:
            del self._seconds[key]
        now = dict(self._seconds)
        try:
            await self._meta.keep_spent_s(now)
        except StoreError as error:
            log.warning("what deadlines have spent can't be kept: %s", error)
        else:
            self._kept = now


def _key(job: Job) -> str:
    return f"{job.job_id}/{job.attempt}/{job.state}"


@contextlib.asynccontextmanager
async def patient(
    job: Job, gate: Gate, spent: Spent, *, limit_s: float | None, lost_s: float
) -> AsyncIterator[None]:
    """Wait for the body as long as it makes sense.

    Args:
        job: The job, in the state that has the deadline.
        gate: Its site's.
        spent: What jobs have spent of their deadlines.
        limit_s: How long it may take, while its site can be reached; None: as long as it likes.
        lost_s: How long its site may be out of reach, without a break.

    Raises:
        Overdue, OutOfReach: Instead of what the body does.
    """
    reason: Exception | None = None
    async with contextlib.AsyncExitStack() as stack:
        timeout = asyncio.timeout(None)

        async def count() -> None:
            nonlocal reason
            reason = await _until_too_long(job, gate, spent, limit_s, lost_s)
            timeout.reschedule(asyncio.get_running_loop().time())

        counting = asyncio.create_task(count())
        stack.callback(counting.cancel)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if reason is None:
                raise
            raise reason from None
        spent.forget(job)


async def _until_too_long(
    job: Job, gate: Gate, spent: Spent, limit_s: float | None, lost_s: float
) -> Exception:
    """Count, and return what has passed."""
    away_s = 0.0
    while True:
        spent_s = spent.of(job)
        before, began = out_of_reach(gate, job), time.monotonic()
        left_s = lost_s - away_s
        if limit_s is not None and not before:
            # What is spent already may be all of it: a core that was restarted knows that.
            left_s = min(left_s, limit_s - spent_s)
        tick_s = max(0.0, min(_TICK_S, (limit_s or lost_s) / _TICKS, lost_s / _TICKS, left_s))
        await asyncio.sleep(tick_s)
        after = out_of_reach(gate, job)
        # What a machine does while it is stopped counts for nothing either.
        passed_s = min(time.monotonic() - began, 2 * tick_s)
        if before and after:
            away_s += passed_s
            if away_s >= lost_s:
                return OutOfReach(after, lost_s)
        elif not (before or after):
            away_s = 0.0
            if limit_s is not None:
                # Meanwhile it may have begun anew.
                spent_s = spent.of(job) + passed_s
                spent.set(job, spent_s)
                if spent_s >= limit_s:
                    return Overdue()


def out_of_reach(gate: Gate, job: Job) -> str:
    """What of the job's site can't be reached now, for people; empty: all can be."""
    if not gate.ready:
        return f"site {gate.name}"
    if gate.chooses_nodes(job.partition_id):
        return ""
    nodes: Callable[[str], inventory_pb2.Node | None] = gate.inventory.nodes.get(
        job.partition_id, {}
    ).get
    for allocation in job.allocations:
        node = nodes(allocation.node)
        if node is not None and node.state == inventory_pb2.NODE_STATE_DOWN:
            return f"node {node.name} of site {gate.name}"
    return ""
