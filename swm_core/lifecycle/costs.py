"""What jobs, users and sites have spent, and what they may spend still.

The truth is in the store's partitions and attempts. What ended partitions cost this month is kept
at hand, since the scheduler asks for it all the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from swm_core.config import Config
from swm_core.domain.costs import (
    ALWAYS,
    Span,
    Stay,
    billed,
    cost,
    month_of,
    month_span,
    shares,
)
from swm_core.domain.money import Money, cost_of
from swm_core.domain.partition import Partition
from swm_core.domain.states import PartitionState
from swm_core.lifecycle.context import Context
from swm_core.scheduler import Budget, Policy

Costs = dict[str, Decimal]
"""By currency."""


class _Whose(NamedTuple):
    """Who has paid where, in what."""

    owner: str
    site: str
    currency: str


class CostBook:
    """Reckons costs.

    Args:
        context: The core's parts; its live partitions are loaded.
        config: Its budgets.
    """

    def __init__(self, context: Context, config: Config) -> None:
        self._context = context
        self._budgets = config.budgets
        self._site_budgets = {
            name: site.monthly_budget
            for name, site in config.sites.items()
            if site.monthly_budget is not None
        }
        self._idle_s = {name: site.idle_time for name, site in config.sites.items()}
        self._month = ""
        self._ended: dict[_Whose, Decimal] = {}
        """What partitions that are gone have cost this month."""
        self._counted: set[str] = set()
        context.partitions.listen(self._changed)

    def _changed(self, partition: Partition) -> None:
        if partition.state is PartitionState.DELETED and self._month:
            self._count(partition)

    def _count(self, partition: Partition) -> None:
        if partition.partition_id not in self._counted:
            self._counted.add(partition.partition_id)
            whose = _Whose(partition.owner, partition.site, partition.currency)
            amount = cost(partition, self._context.clock(), month_span(self._month))
            self._ended[whose] = self._ended.get(whose, Decimal(0)) + amount

    @property
    def has_budgets(self) -> bool:
        """Whether anybody has one."""
        return bool(self._budgets.per_user or self._budgets.users or self._site_budgets)

    # ---- what was spent ----

    def of_job(self, job_id: str) -> Costs:
        """What the job's nodes have cost so far, in all of its attempts."""
        found: Costs = {}
        for partition_id in self._partitions_of(job_id):
            partition = self._partition(partition_id)
            if partition is not None and partition.price_per_hour is not None:
                add(found, partition.currency, self.shares(partition).get(job_id, Decimal(0)))
        return found

    def _partitions_of(self, job_id: str) -> set[str]:
        return {each.partition_id for each in self._context.store.attempts.of_job(job_id)}

    def _partition(self, partition_id: str) -> Partition | None:
        return self._context.partitions.get(partition_id) or self._context.store.partitions.get(
            partition_id
        )

    def shares(self, partition: Partition, during: Span = ALWAYS) -> dict[str, Decimal]:
        """What the partition has cost each of its jobs within a time."""
        now = self._context.clock()
        stays = [
            Stay(job_id, Span(each.place_time, now if each.end_time is None else each.end_time))
            for job_id in dict.fromkeys(partition.jobs)
            for each in self._context.store.attempts.of_job(job_id)
            if each.partition_id == partition.partition_id
        ]
        return shares(partition, stays, now, during)

    # ---- budgets ----

    def budget_of(self, owner: str) -> Money | None:
        """What a user may spend in a month; None: as much as they like."""
        return self._budgets.users.get(owner, self._budgets.per_user)

    def budget_of_site(self, site: str) -> Money | None:
        """What may be spent at a site in a month; None: as much as anybody likes."""
        return self._site_budgets.get(site)

    def spent_by(self, owner: str, currency: str) -> Decimal:
        """What a user has spent this month."""
        return self._spent(currency, owner=owner)

    def spent_at(self, site: str, currency: str) -> Decimal:
        """What was spent at a site this month."""
        return self._spent(currency, site=site)

    def policy(self, owners: Iterable[str]) -> Policy:
        """What the scheduler may do for jobs of these owners, and spend."""
        default_s = self._budgets.default_time
        known = set(owners)
        guests = frozenset(owner for owner in known if not self._is_admin(owner))
        if not self.has_budgets:
            return Policy(default_s, guests=guests)
        return Policy(
            default_s,
            {
                owner: self._budget(total, owner=owner)
                for owner in known
                if (total := self.budget_of(owner))
            },
            {site: self._budget(total, site=site) for site, total in self._site_budgets.items()},
            guests,
        )

    def _is_admin(self, owner: str) -> bool:
        user = self._context.store.users.get(owner)
        return user is not None and user.admin

    def _budget(self, total: Money, owner: str = "", site: str = "") -> Budget:
        promised = sum(map(self._promised, self._live(total.currency, owner, site)), Decimal(0))
        return Budget(total, self._spent(total.currency, owner, site) + promised)

    def _spent(self, currency: str, owner: str = "", site: str = "") -> Decimal:
        self._turn_month()
        now = self._context.clock()
        month = month_span(self._month)
        live = (cost(each, now, month) for each in self._live(currency, owner, site))
        ended = (
            amount
            for whose, amount in self._ended.items()
            if whose.currency == currency
            and owner in ("", whose.owner)
            and site in ("", whose.site)
        )
        return sum(live, Decimal(0)) + sum(ended, Decimal(0))

    def _live(self, currency: str, owner: str, site: str) -> Iterator[Partition]:
        """The partitions that are there and paid in a currency, of an owner, or at a site."""
        for partition in self._context.partitions:
            if (
                partition.currency == currency
                and owner in ("", partition.owner)
                and site in ("", partition.site)
                and partition.partition_id not in self._counted
            ):
                yield partition

    def _promised(self, partition: Partition) -> Decimal:
        """What it may cost beyond what it has cost, as far as its jobs have a limit.

        One that is idle waits no longer than it may.
        """
        if partition.state in (PartitionState.DELETING, PartitionState.DELETED):
            return Decimal(0)
        now = self._context.clock()
        used_s = sum(span.seconds for span in billed(partition, now))
        left_s = max(0.0, partition.time_limit_s - used_s)
        if partition.idle_since is not None:
            left_s = min(left_s, self._idle_s.get(partition.site, 0))
        return cost_of(partition.price_per_hour or Decimal(0), partition.spec.node_count, left_s)

    def _turn_month(self) -> None:
        """Reckon anew when another month has begun, and at first."""
        month = month_of(self._context.clock())
        if month == self._month:
            return
        self._month = month
        self._ended, self._counted = {}, set()
        for partition in self._context.store.partitions.between(month_span(month).start, None):
            if partition.state is PartitionState.DELETED:
                self._count(partition)


def add(costs: Costs, currency: str, amount: Decimal) -> None:
    """Add an amount to those of its currency."""
    if amount:
        costs[currency] = costs.get(currency, Decimal(0)) + amount


def rates(partitions: Iterable[Partition], now: float) -> dict[str, Decimal]:
    """What nodes that are there cost in an hour, by currency."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for partition in partitions:
        if partition.price_per_hour and is_billed(partition, now):
            found[partition.currency] += partition.price_per_hour * partition.spec.node_count
    return found


def is_billed(partition: Partition, now: float) -> bool:
    """Whether its nodes cost money at this moment."""
    return any(span.end >= now for span in billed(partition, now))
