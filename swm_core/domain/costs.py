"""What partitions have cost: by month, and divided between the jobs that were on them.

A partition costs its price for each of its nodes, from the core's decision to create it until its
site said that it is gone. Not billed: one that the site had no room for, and the time after its
nodes were deallocated or lost. Disks, addresses and traffic are not in it: no site tells of them.
"""

from __future__ import annotations

import calendar
import datetime
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from swm_core.domain.failures import FailureReason
from swm_core.domain.money import cost_of
from swm_core.domain.partition import Partition

_NEVER_MADE = frozenset({FailureReason.NO_CAPACITY, FailureReason.IMAGE_UNAVAILABLE})


class Span(NamedTuple):
    """A stretch of time, in seconds since the epoch."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return max(0.0, self.end - self.start)

    def within(self, other: Span) -> Span:
        """What both have in common; empty if that is nothing."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.end, other.end)))


class Stay(NamedTuple):
    """How long a job had a place on a partition."""

    job_id: str
    span: Span


ALWAYS = Span(0.0, float("inf"))


def billed(partition: Partition, now: float) -> list[Span]:
    """When its nodes were billed, as far as the core knows."""
    if (
        partition.ready_time is None
        and partition.failure is not None
        and partition.failure.reason in _NEVER_MADE
    ):
        return []
    starts = [partition.create_time, *(again for _, again in partition.pauses if again is not None)]
    stops: list[float] = [stopped for stopped, _ in partition.pauses]
    if len(stops) < len(starts):
        stops.append(now if partition.delete_time is None else partition.delete_time)
    return [Span(start, end) for start, end in zip(starts, stops, strict=False) if end > start]


def cost(partition: Partition, now: float, during: Span = ALWAYS) -> Decimal:
    """What its nodes have cost until `now` within a time; of one without a known price nothing."""
    seconds = sum(span.within(during).seconds for span in billed(partition, now))
    return cost_of(partition.price_per_hour or Decimal(0), partition.spec.node_count, seconds)


def month_of(time: float) -> str:
    """The month (UTC) of a time, as `2026-11`."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m")


def month_span(month: str) -> Span:
    """The time of a month (UTC)."""
    year, number = (int(part) for part in month.split("-"))
    start = datetime.datetime(year, number, 1, tzinfo=datetime.UTC)
    days = calendar.monthrange(year, number)[1]
    return Span(start.timestamp(), (start + datetime.timedelta(days)).timestamp())


def months(partition: Partition, now: float, during: Span = ALWAYS) -> Iterator[str]:
    """The months in which it was billed within a time."""
    for span in billed(partition, now):
        part = span.within(during)
        time = part.start
        while time < part.end:
            month = month_of(time)
            yield month
            time = month_span(month).end


def shares(
    partition: Partition, stays: Sequence[Stay], now: float, during: Span = ALWAYS
) -> dict[str, Decimal]:
    """What the partition has cost each of the jobs that were on it.

    Each moment is paid by the jobs that have a place at that moment, in equal parts. A moment at
    which none has one is paid by the job that left last, since it waits for what follows that; and
    before the first by the first. So the parts add up to the whole.
    """
    paid: dict[str, Decimal] = {}
    if partition.price_per_hour is None or not stays:
        return paid
    segments = list(_segments(stays))
    for span in billed(partition, now):
        for time, payers in segments:
            part = span.within(during).within(time)
            if not part.seconds:
                continue
            whole = cost_of(partition.price_per_hour, partition.spec.node_count, part.seconds)
            for job_id in payers:
                paid[job_id] = paid.get(job_id, Decimal(0)) + whole / len(payers)
    return paid


def _segments(stays: Iterable[Stay]) -> Iterator[tuple[Span, list[str]]]:
    """All of time, in parts in which nobody comes or goes, with who pays for each."""
    edges = sorted(
        edge
        for job_id, span in stays
        for edge in ((span.start, 0, job_id), (max(span.end, span.start), 1, job_id))
    )
    present: Counter[str] = Counter()
    last = edges[0][2]
    before = -math.inf
    for time, leaves, job_id in edges:
        if time > before:
            yield Span(before, time), sorted(present) or [last]
            before = time
        if leaves:
            present[job_id] -= 1
            last = job_id
            if not present[job_id]:
                del present[job_id]
        else:
            present[job_id] += 1
    yield Span(before, math.inf), [last]
