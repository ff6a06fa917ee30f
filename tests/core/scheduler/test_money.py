"""What nodes may cost: caps, budgets, spot prices, and how long a job may run without a limit."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest

from swm_core.domain.job import JobSpec
from swm_core.domain.money import Money
from swm_core.domain.partition import Setup
from swm_core.scheduler import (
    Budget,
    Create,
    Decision,
    Exclusion,
    FlavorCatalog,
    PartitionKind,
    PartitionView,
    Policy,
    SiteView,
    Wait,
    candidates,
    feasible,
    schedule,
)
from tests.core.scheduler.builders import (
    CLOUD_CAPABILITIES,
    NOW,
    cloud,
    flavor,
    job,
    lab,
    node,
    seeded,
    spec,
    told,
)

DAY = 86_400
HOUR = 3_600
SMALL, BIG = flavor("small", 2, 8, "0.10"), flavor("big", 8, 32, "0.40")
UNPRICED, FREE = flavor("odd", 4, 16, None), flavor("free", 1, 1, "0")
EURO = flavor("euro", 2, 8, "0.01", currency="EUR")
POLICY = Policy(DAY)


def usd(amount: str) -> Money:
    return Money(Decimal(amount), "USD")


def choose(what: JobSpec, *sites: SiteView, policy: Policy = POLICY, **fields: Any) -> Decision:
    (decision,) = schedule([job("a", what, **fields)], sites, NOW, policy)
    return decision


def budget(total: str, taken: str = "0", currency: str = "USD") -> Budget:
    return Budget(Money(Decimal(total), currency), Decimal(taken))


@pytest.mark.parametrize(
    ("what", "limit_s"),
    [
        (spec(2), DAY),
        (spec(2, time_limit_s=60), 0),
        (spec(1, flavor="free"), 0),
        (spec(4, flavor="odd"), DAY),
    ],
)
def test_without_time_a_job_is_limited_where_nodes_cost_money_or_may(
    what: JobSpec, limit_s: int
) -> None:
    site = cloud(SMALL, BIG, UNPRICED, FREE)
    assert choose(what, site).time_limit_s == limit_s  # type: ignore[union-attr]
    assert choose(what, site, policy=Policy()).time_limit_s == 0  # type: ignore[union-attr]
    got = candidates(what, [site], policy=POLICY)
    assert got[0].time_limit_s == limit_s


def test_hosts_that_are_always_there_set_no_limit() -> None:
    site = lab(node("n1"))
    assert choose(spec(1), site).time_limit_s == 0  # type: ignore[union-attr]
    assert candidates(spec(1), [site], policy=POLICY)[0].time_limit_s == 0


@pytest.mark.parametrize(
    ("cap", "what", "goes"),
    [
        ("2.40", spec(1), "new cloud/small"),
        ("2.39", spec(1), "never BUDGET"),
        ("4.80", spec(1, nodes=2), "new cloud/small x2"),
        ("4.79", spec(1, nodes=2), "never BUDGET"),
        ("0.10", spec(1, time_limit_s=HOUR), "new cloud/small"),
        ("0.09", spec(1, time_limit_s=HOUR), "never BUDGET"),
        ("9.00", spec(4), "never BUDGET"),
        ("9.60", spec(4), "new cloud/big"),
        ("0.01", spec(4, flavor="odd"), "new cloud/odd"),
        ("9999", spec(1, flavor="euro"), "never BUDGET"),
        ("0.01", spec(1, flavor="free"), "new cloud/free"),
    ],
)
def test_a_cap_is_held_against_price_nodes_and_time(cap: str, what: JobSpec, goes: str) -> None:
    site = cloud(SMALL, BIG, UNPRICED, FREE, EURO)
    if not what.flavor:
        site = cloud(SMALL, BIG, UNPRICED, EURO)
    capped = dataclasses.replace(what, max_cost=usd(cap))
    assert told(choose(capped, site)) == goes
    problems = [problem.reason for problem in feasible(capped, [site], POLICY)]
    assert problems == (["BUDGET"] if goes == "never BUDGET" else [])
    assert bool(candidates(capped, [site], policy=POLICY)) is not bool(problems)


def test_a_cap_counts_what_was_spent_and_leaves_hosts_that_cost_nothing() -> None:
    capped = spec(1, max_cost=usd("3"))
    assert told(choose(capped, cloud(SMALL), spent=Decimal("0.60"))) == "new cloud/small"
    spent = choose(capped, cloud(SMALL), spent=Decimal("0.61"))
    assert told(spent) == "never BUDGET"
    assert told(choose(capped, cloud(SMALL), lab(node("n1")), spent=Decimal(3))) == "n1"


def test_without_any_limit_of_time_no_cap_covers_a_job() -> None:
    decision = choose(spec(1, max_cost=usd("999")), cloud(SMALL), policy=Policy())
    assert told(decision) == "never BUDGET"
    assert "set time" in decision.message  # type: ignore[union-attr]


def test_a_place_without_room_is_no_reason_to_pay_more_than_the_cap() -> None:
    no_small = Exclusion("cloud", flavor="small", message="none left", until=NOW + 60)
    decision = choose(spec(1, max_cost=usd("3")), cloud(SMALL, BIG), excluded=(no_small,))
    assert isinstance(decision, Wait)
    assert "none left" in decision.text


def test_spot_nodes_go_by_their_spot_price() -> None:
    capabilities = CLOUD_CAPABILITIES | {"SPOT"}
    cheap_spot = dataclasses.replace(BIG, spot_price_per_hour=Decimal("0.05"), spot_currency="USD")
    site = cloud(SMALL, cheap_spot, capabilities=capabilities)
    decision = choose(spec(1, spot=True, max_cost=usd("4.80"), nodes=2), site)
    assert told(decision) == "new cloud/big x2"
    assert isinstance(decision, Create)
    assert decision.price_per_hour == Decimal("0.05")
    # 4.80 for two nodes over a day.
    assert decision.spot_price_limit == Decimal("0.1")
    (candidate,) = candidates(spec(1, spot=True), [site])
    assert (candidate.flavor, candidate.spot) == ("big", True)
    assert told(choose(spec(1, spot=True, flavor="small"), site)) == "new cloud/small"
    # Where no flavor has a spot price, the site may take them all the same.
    assert told(choose(spec(1, spot=True), cloud(SMALL, capabilities=capabilities)))[:3] == "new"
    problems = feasible(spec(1, spot=True), [cloud(SMALL), lab(node("n1"))])
    assert {problem.directive for problem in problems} == {"spot"}


def test_another_architecture_has_to_be_named() -> None:
    arm = flavor("arm", 2, 8, "0.01", architecture="aarch64")
    x86 = dataclasses.replace(SMALL, architecture="x86_64")
    assert told(choose(spec(1), cloud(arm, x86))) == "new cloud/small"
    assert told(choose(spec(1, flavor="arm"), cloud(arm, x86))) == "new cloud/arm"
    (problem,) = feasible(spec(1), [cloud(arm)])
    assert (problem.directive, "aarch64 only" in problem.message) == ("flavor", True)


def test_a_budget_is_divided_between_the_jobs_of_one_round() -> None:
    policy = Policy(DAY, {"ann": budget("5.00")})
    decisions = schedule(
        [
            job(name, owner=owner)
            for name, owner in zip("abcd", ("ann", "ann", "ann", "bo"), strict=True)
        ],
        [cloud(SMALL)],
        NOW,
        policy,
    )
    made = [each.job_id for each in decisions if isinstance(each, Create)]
    assert made == ["a", "b", "d"]
    (wait,) = [each for each in decisions if isinstance(each, Wait)]
    assert wait.job_ids == ("c",)
    assert "of 5.00 USD that ann may spend this month" in wait.text
    # The month ends without anybody's doing.
    assert NOW < wait.until <= NOW + 600


@pytest.mark.parametrize(
    ("policy", "goes"),
    [
        (Policy(DAY, sites={"cloud": budget("9", "6.60")}), "new cloud/small"),
        (Policy(DAY, sites={"cloud": budget("9", "6.61")}), "waits"),
        (Policy(DAY, sites={"cloud": budget("2.39")}), "never"),
        (Policy(DAY, sites={"other": budget("0.01")}), "new cloud/small"),
        (Policy(DAY, {"bo": budget("0.01")}), "new cloud/small"),
        (Policy(DAY, {"ann": budget("99", currency="EUR")}), "never"),
        (Policy(DAY, {"ann": budget("99", "500")}), "waits"),
    ],
)
def test_a_budget_that_has_no_room_makes_a_job_wait_and_one_that_never_has_refuses_it(
    policy: Policy, goes: str
) -> None:
    assert told(choose(spec(1), cloud(SMALL), policy=policy)).startswith(goes)


def idle(price: str | None = "0.10") -> SiteView:
    part = PartitionView(
        "p1",
        PartitionKind.DYNAMIC,
        owner="ann",
        flavor="small",
        setup=Setup(),
        nodes=(node("v1", 2), node("v2", 2)),
        price_per_hour=None if price is None else Decimal(price),
        currency="USD",
    )
    return dataclasses.replace(cloud(SMALL), partitions=(part,))


def test_what_is_used_again_is_paid_as_a_whole_and_limited_as_new_nodes_are() -> None:
    decision = choose(spec(1), idle())
    assert told(decision) == "v1"
    assert decision.time_limit_s == DAY  # type: ignore[union-attr]
    # Both of its nodes for a day are 4.80; a new one is 2.40.
    assert told(choose(spec(1, max_cost=usd("4.80")), idle())) == "v1"
    assert told(choose(spec(1, max_cost=usd("4.79")), idle())) == "new cloud/small"
    assert told(choose(spec(1, max_cost=usd("4.80")), idle(None))) == "new cloud/small"
    tight = Policy(DAY, {"ann": budget("5", "1")})
    assert told(choose(spec(1), idle(), policy=tight)) == "new cloud/small"


def test_whatever_comes_budgets_hold_and_the_cheapest_affordable_is_taken() -> None:
    """A simulation: what is promised in a month never passes a budget, and no cap is passed."""
    chance = seeded(11)
    flavors = [
        flavor(f"f{n}", chance.choice((2, 4, 8)), 8, f"{chance.randint(1, 99) / 100}")
        for n in range(12)
    ]
    site = cloud(*flavors)
    total = Decimal(60)
    taken = {"ann": Decimal(0), "bo": Decimal(0)}
    everything = Decimal(0)
    for _ in range(60):
        jobs = [
            job(
                f"j{n}",
                spec(
                    chance.choice((1, 3, 5)),
                    nodes=chance.randint(1, 3),
                    time_limit_s=chance.choice((0, HOUR, 5 * HOUR)),
                    max_cost=chance.choice((None, usd("3"), usd("20"))),
                ),
                owner=chance.choice(("ann", "bo")),
            )
            for n in range(5)
        ]
        by_id = {each.job_id: each for each in jobs}
        policy = Policy(
            DAY,
            {name: Budget(Money(total, "USD"), spent) for name, spent in taken.items()},
            {"cloud": Budget(usd("100"), everything)},
        )
        for decision in schedule(jobs, [site], NOW, policy):
            if not isinstance(decision, Create):
                continue
            asked = by_id[decision.job_id]
            what = asked.spec
            limit_s = what.time_limit_s or decision.time_limit_s
            price = decision.price_per_hour
            assert price is not None
            fitting = [f for f in flavors if f.cpus >= what.resources.cpus]
            assert price == min(f.price_per_hour for f in fitting if f.price_per_hour)
            cost = price * decision.node_count * limit_s / HOUR
            assert what.max_cost is None or cost <= what.max_cost.amount
            taken[asked.owner] += cost
            everything += cost
        assert max(taken.values()) <= total
        assert everything <= 100
    assert everything > 50, "the simulation has spent next to nothing"


def test_catalogs_of_spot_and_other_nodes_are_kept_apart() -> None:
    both = dataclasses.replace(SMALL, spot_price_per_hour=Decimal("0.01"), spot_currency="USD")
    catalog = FlavorCatalog([both])
    site = SiteView("cloud", capabilities=CLOUD_CAPABILITIES | {"SPOT"}, flavors=catalog)
    for _ in range(2):
        assert choose(spec(1), site).price_per_hour == Decimal("0.10")  # type: ignore[union-attr]
        spot = choose(spec(1, spot=True), site)
        assert spot.price_per_hour == Decimal("0.01")  # type: ignore[union-attr]
