"""What partitions have cost, by month and by job."""

from __future__ import annotations

import dataclasses
import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_core.domain.costs import Span, Stay, billed, cost, month_of, month_span, months, shares
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.money import Money
from swm_core.domain.partition import Partition, PartitionSpec
from swm_core.domain.states import PartitionState

HOUR = 3_600.0


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(f"{text}+00:00").timestamp()


BEGIN = at("2026-11-28T10:00")


def partition(**fields: Any) -> Partition:
    given = {
        "partition_id": "p",
        "site": "cloud",
        "owner": "ann",
        "spec": PartitionSpec(flavor="small", node_count=2),
        "spec_fingerprint": "f",
        "state": PartitionState.READY,
        "create_time": BEGIN,
        "job_id": "a",
        "price_per_hour": Decimal("1.50"),
        "currency": "USD",
        "ready_time": BEGIN + 60,
    }
    return Partition(**{**given, **fields})


def stay(job_id: str, start_h: float, end_h: float) -> Stay:
    return Stay(job_id, Span(BEGIN + start_h * HOUR, BEGIN + end_h * HOUR))


def test_a_partition_costs_from_the_decision_until_its_site_says_that_it_is_gone() -> None:
    now = BEGIN + 2 * HOUR
    assert cost(partition(), now) == 6
    gone = partition(delete_time=BEGIN + HOUR, state=PartitionState.DELETED)
    assert cost(gone, now) == 3
    assert cost(partition(price_per_hour=None), now) == 0
    # A clock that was set back makes nothing negative.
    assert cost(partition(), BEGIN - HOUR) == 0


def test_what_a_site_had_no_room_for_costs_nothing_and_a_boot_that_failed_does() -> None:
    failed = {"ready_time": None, "delete_time": BEGIN + HOUR}
    full = Failure(FailureReason.NO_CAPACITY, "none left")
    assert cost(partition(failure=full, **failed), BEGIN + 2 * HOUR) == 0
    broken = Failure(FailureReason.PROVISIONING_FAILED, "no ssh")
    assert cost(partition(failure=broken, **failed), BEGIN + 2 * HOUR) == 3


def test_time_in_which_nodes_were_deallocated_is_not_billed() -> None:
    pauses = ((BEGIN + HOUR, BEGIN + 3 * HOUR), (BEGIN + 4 * HOUR, None))
    stopped = partition(pauses=pauses)
    assert [span.seconds for span in billed(stopped, BEGIN + 9 * HOUR)] == [HOUR, HOUR]
    assert cost(stopped, BEGIN + 9 * HOUR) == 6
    again = dataclasses.replace(stopped, pauses=pauses[:1])
    assert cost(again, BEGIN + 4 * HOUR) == 6


def test_months_are_those_of_utc_and_their_costs_add_up() -> None:
    long = partition(create_time=at("2026-11-30T22:00"), delete_time=at("2027-01-01T01:00"))
    now = at("2027-02-01T00:00")
    parts = {month: cost(long, now, month_span(month)) for month in months(long, now)}
    assert parts == {"2026-11": 6, "2026-12": 31 * 24 * 3, "2027-01": 3}
    assert sum(parts.values()) == cost(long, now)
    assert month_of(at("2026-11-30T23:59:59")) == "2026-11"
    assert month_of(at("2026-12-01T00:00")) == "2026-12"


def test_jobs_that_share_a_moment_pay_it_in_equal_parts_and_the_last_one_pays_for_idle_time() -> (
    None
):
    shared = partition(delete_time=BEGIN + 8 * HOUR)
    stays = [stay("a", 0.5, 2), stay("b", 3, 6), stay("c", 4, 5)]
    got = shares(shared, stays, BEGIN + 9 * HOUR)
    # a: before, alone, and idle until b; b: alone, half of an hour, alone, idle to the end.
    assert got == {"a": 9, "b": 13.5, "c": 1.5}
    part = shares(shared, stays, BEGIN + 9 * HOUR, Span(BEGIN, BEGIN + 3.5 * HOUR))
    assert part == {"a": 9, "b": 1.5}


def test_attempts_of_one_job_on_one_partition_are_paid_once() -> None:
    stays = [stay("a", 0, 2), stay("a", 1, 3)]
    assert shares(partition(), stays, BEGIN + 3 * HOUR) == {"a": 9}


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 50), st.integers(0, 50)), min_size=1
    ),
    st.integers(0, 40),
)
def test_the_parts_of_all_jobs_are_the_whole(drawn: list[tuple[str, int, int]], life: int) -> None:
    stays = [stay(job_id, start, start + length) for job_id, start, length in drawn]
    whole = partition(delete_time=BEGIN + life * HOUR)
    now = BEGIN + 100 * HOUR
    total = sum(shares(whole, stays, now).values(), Decimal(0))
    assert abs(total - cost(whole, now)) < Decimal("1e-15")


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [("2.50 EUR", "2.5", "EUR"), ("10", "10", "USD"), ("0.0001\tusd", "0.0001", "USD")],
)
def test_an_amount_is_read_with_its_currency(text: str, amount: str, currency: str) -> None:
    assert Money.parse(text) == Money(Decimal(amount), currency)


@pytest.mark.parametrize(
    "text", ["", "EUR", "2,50 EUR", "-1 EUR", "1e3", "1 EURO", "1 €", "NaN", "1.00001 EUR", "1 2"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"2\.50 EUR"):
        Money.parse(text)
