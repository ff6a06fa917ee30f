"""What may be spent: the cap of a job, and the monthly budgets of users and sites.

What is judged is the most that a place can cost: price x nodes x time limit. A price that is not
known, or is in another currency, cannot be held against a cap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal

from rpc_kit.units import format_duration
from swm_core.domain.money import Money, cost_of, show
from swm_core.scheduler.demand import Demand


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """A monthly budget."""

    total: Money
    taken: Decimal = Decimal(0)
    """What was spent of it this month, and what partitions that are there may still cost."""

    @property
    def left(self) -> Decimal:
        """What is neither spent nor promised."""
        return self.total.amount - self.taken


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What an administrator has decided: about nodes that cost money, and about users."""

    default_time_s: int = 0
    """The time limit of a job without one on nodes that cost money, or may; 0: none."""
    users: Mapping[str, Budget] = dataclasses.field(default_factory=dict)
    sites: Mapping[str, Budget] = dataclasses.field(default_factory=dict)
    guests: frozenset[str] = frozenset()
    """Users who run nothing as an account of a site that is not theirs, nor shared with them."""

    def time_limit_s(self, demand: Demand, price_per_hour: Decimal | None) -> int:
        """What limits the job on nodes of this price where it names no limit; 0: nothing."""
        is_free = price_per_hour is not None and not price_per_hour
        return 0 if demand.time_limit_s or is_free else self.default_time_s


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """What an hour of one node of a place costs."""

    per_hour: Decimal | None
    """None: not known."""
    currency: str


def most_cost(demand: Demand, price: Price, policy: Policy) -> Decimal | None:
    """The most that the job can cost at this price; None: not known, or without end."""
    if price.per_hour is None:
        return None
    if not price.per_hour:
        return Decimal(0)
    limit_s = demand.time_limit_s or policy.time_limit_s(demand, price.per_hour)
    return cost_of(price.per_hour, demand.nodes, limit_s) if limit_s else None


def too_dear(
    demand: Demand, what: str, price: Price, policy: Policy, caps: Mapping[str, Money]
) -> str:
    """Why the job can't have nodes of this price, for people; empty: it can.

    Args:
        demand: What it asks for.
        what: The nodes, as "small at site cloud".
        price: What they cost.
        policy: What was decided.
        caps: The most that it may cost, by what says so, as "max-cost".
    """
    cost = most_cost(demand, price, policy)
    for name, cap in caps.items():
        if price.per_hour is None:
            if not demand.flavor:
                return (
                    f"the price of {what} is not known; name its flavor to have it in spite of "
                    f"{name}"
                )
        elif price.per_hour and price.currency != cap.currency:
            return (
                f"{what} is paid in {price.currency}, which cannot be compared with {name} in "
                f"{cap.currency}"
            )
        elif cost is None:
            return f"{what} would run without end, which no {name} covers; set time"
        elif cost > cap.amount:
            limit_s = demand.time_limit_s or policy.default_time_s
            return (
                f"{demand.nodes} x {what} for {format_duration(limit_s)} can cost "
                f"{show(cost, price.currency)}, more than {name} allows ({cap})"
            )
    return ""


def caps_of(demand: Demand, owner: str, site: str, policy: Policy) -> dict[str, Money]:
    """What limits the cost of a job at a site, whatever was spent of budgets this month."""
    caps = {}
    if demand.cap is not None:
        caps["max-cost"] = demand.cap
    if budget := policy.users.get(owner):
        caps[f"the monthly budget of {owner}"] = budget.total
    if budget := policy.sites.get(site):
        caps[f"the monthly budget of site {site}"] = budget.total
    return caps


class Purse:
    """What is left of budgets during one call of the scheduler."""

    def __init__(self, policy: Policy) -> None:
        self._budgets = {
            **{("user", name): budget for name, budget in policy.users.items()},
            **{("site", name): budget for name, budget in policy.sites.items()},
        }

    def lacks(self, owner: str, site: str, cost: Decimal | None) -> str:
        """Which budget has no room for so much this month, for people; empty: all have."""
        for key in (("user", owner), ("site", site)):
            budget = self._budgets.get(key)
            if budget is not None and (cost or 0) > max(budget.left, Decimal(0)):
                name = owner if key[0] == "user" else f"site {site}"
                return (
                    f"the next month, or more budget: of {budget.total} that {name} may spend this "
                    f"month, {show(budget.taken, budget.total.currency)} are spent or promised"
                )
        return ""

    def take(self, owner: str, site: str, cost: Decimal | None) -> None:
        """So much is promised now."""
        for key in (("user", owner), ("site", site)):
            budget = self._budgets.get(key)
            if budget is not None and cost:
                self._budgets[key] = dataclasses.replace(budget, taken=budget.taken + cost)
