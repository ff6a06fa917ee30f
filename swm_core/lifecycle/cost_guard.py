"""Ends what costs more than it may, after a warning.

Caps of jobs and monthly budgets are looked at before nodes are made, by the scheduler. But a job
may take longer than was thought, and a price may not have been known then: so what runs is looked
at again, each time when the next of them can be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from decimal import Decimal

from swm_core.domain.costs import month_of
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.domain.money import Money, show
from swm_core.domain.partition import Partition
from swm_core.domain.states import JobState
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.costs import CostBook, rates
from swm_core.lifecycle.live import Change, NotLive
from swm_core.store import Step, StoreError

log = logging.getLogger(__name__)

_WARN_AT = Decimal("0.8")
_MOST_S = 30.0
_LEAST_S = 0.2
_HOUR_S = 3_600


@dataclasses.dataclass(frozen=True, slots=True)
class _Account:
    """A limit, and how near to it a job is."""

    key: str
    """Of the warning, which is given once."""
    name: str
    limit: Money
    spent: Decimal
    per_hour: Decimal
    """How fast more is spent."""

    @property
    def is_over(self) -> bool:
        return self.spent >= self.limit.amount

    @property
    def is_near(self) -> bool:
        return self.spent >= self.limit.amount * _WARN_AT

    @property
    def text(self) -> str:
        return f"{show(self.spent, self.limit.currency)} of {self.limit} that {self.name} allows"

    def next_s(self) -> float:
        """When the next of its marks is reached."""
        if not self.per_hour or self.is_over:
            return _MOST_S
        mark = self.limit.amount * (1 if self.is_near else _WARN_AT)
        return float((mark - self.spent) / self.per_hour * _HOUR_S)


class CostGuard:
    """Watches what partitions cost.

    Args:
        context: The core's parts.
        book: Knows what was spent.
    """

    def __init__(self, context: Context, book: CostBook) -> None:
        self._context = context
        self._book = book
        self._wake = asyncio.Event()
        context.partitions.listen(lambda partition: self._wake.set())
        context.jobs.listen(self._changed)

    def _changed(self, change: Change) -> None:
        if self._context.partitions.get(change.after.partition_id) is not None:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                wait_s = await self._look()
            except StoreError as error:
                log.warning("what jobs cost can't be looked at: %s; again soon", error)
                wait_s = _MOST_S
            await asyncio.sleep(_LEAST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(wait_s, _MOST_S) - _LEAST_S)):
                    await self._wake.wait()

    async def _look(self) -> float:
        """One look; returns when the next is due, in seconds."""
        self._wake.clear()
        next_s = _MOST_S
        for partition in self._context.partitions:
            if not partition.price_per_hour:
                continue
            shared = self._shared_accounts(partition)
            if partition.idle_since is not None and any(each.is_over for each in shared):
                # Time zero: it has waited long enough.
                with contextlib.suppress(NotLive):
                    await self._context.partitions.note(partition.partition_id, idle_since=0.0)
            for job in self._jobs_on(partition):
                for account in (*self._own_account(job, partition), *shared):
                    await self._judge(job, account)
                    next_s = min(next_s, account.next_s())
        return next_s

    def _jobs_on(self, partition: Partition) -> Iterator[Job]:
        for job_id in partition.jobs:
            job = self._context.jobs.get(job_id)
            if (
                job is not None
                and job.partition_id == partition.partition_id
                and job.state not in (JobState.QUEUED, JobState.STAGING_OUT)
                and job.stop is None
            ):
                yield job

    def _own_account(self, job: Job, partition: Partition) -> list[_Account]:
        cap = job.spec.max_cost
        if cap is None or cap.currency != partition.currency:
            return []
        spent = self._book.of_job(job.job_id).get(cap.currency, Decimal(0))
        per_hour = (partition.price_per_hour or Decimal(0)) * partition.spec.node_count
        return [_Account(f"max-cost/{job.attempt}", "max-cost", cap, spent, per_hour)]

    def _shared_accounts(self, partition: Partition) -> list[_Account]:
        now = self._context.clock()
        month, owner, site = month_of(now), partition.owner, partition.site
        found = []
        if (total := self._book.budget_of(owner)) and total.currency == partition.currency:
            rate = rates((p for p in self._context.partitions if p.owner == owner), now)
            spent = self._book.spent_by(owner, total.currency)
            name = f"the budget of {owner} for {month}"
            found.append(_Account(f"user/{month}", name, total, spent, rate[total.currency]))
        if (total := self._book.budget_of_site(site)) and total.currency == partition.currency:
            rate = rates((p for p in self._context.partitions if p.site == site), now)
            spent = self._book.spent_at(site, total.currency)
            name = f"the budget of site {site} for {month}"
            found.append(_Account(f"site/{month}", name, total, spent, rate[total.currency]))
        return found

    async def _judge(self, job: Job, account: _Account) -> None:
        def decide(now: Job) -> Sequence[Step]:
            if now.attempt != job.attempt or now.state in (JobState.QUEUED, JobState.STAGING_OUT):
                return []
            if account.is_over and now.stop is None:
                text = f"ended, since it has cost {account.text}"
                stop = Failure(FailureReason.BUDGET, text)
                return [Step(dataclasses.replace(now, stop=stop), FailureReason.BUDGET, text)]
            if account.is_near and account.key not in now.cost_warnings:
                warned = (*now.cost_warnings, account.key)
                text = f"warning: {account.text} are spent; at the limit it is ended"
                after = dataclasses.replace(now, cost_warnings=warned, text=text)
                return [Step(after, FailureReason.BUDGET, text)]
            return []

        if account.is_near:
            try:
                await self._context.jobs.apply(job.job_id, decide)
            except NotLive:
                return
