"""A deadline counts while nothing is heard, and anew when the site tells that it goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from swm_core.domain.states import JobState
from swm_core.lifecycle import patience
from swm_core.lifecycle.patience import OutOfReach, Overdue, Spent

LIMIT_S = 80.0


class Clock:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: dict[float, Any] = {}
        """What is done when it is so late."""

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in [when for when in self.at if when <= self.now]:
            self.at.pop(when)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr(patience, "asyncio", clock)
    return clock


async def passed(spent: Spent, job: Any, *, ready: bool = True) -> Exception:
    gate: Any = SimpleNamespace(name="lab", ready=ready, chooses_nodes=lambda _: True)
    return await patience._until_too_long(job, gate, spent, LIMIT_S, LIMIT_S)


def made() -> tuple[Spent, Any]:
    meta: Any = SimpleNamespace(spent_s=dict)
    jobs: Any = SimpleNamespace(placed=())
    job = SimpleNamespace(job_id="a", attempt=1, state=JobState.STARTING, partition_id="p")
    return Spent(meta, jobs), job


async def test_it_passes_when_nothing_is_heard(clock: Clock) -> None:
    spent, job = made()
    assert isinstance(await passed(spent, job), Overdue)
    assert LIMIT_S <= clock.now < LIMIT_S * 1.2


async def test_it_counts_anew_when_the_start_gets_on(clock: Clock) -> None:
    spent, job = made()
    for when in (60.0, 120.0):
        clock.at[when] = lambda: spent.set(job, 0.0)
    assert isinstance(await passed(spent, job), Overdue)
    # The tick in which it was told counts.
    assert 120.0 + LIMIT_S * 0.9 <= clock.now < 120.0 + LIMIT_S * 1.2


async def test_a_site_that_is_away_is_waited_for_also_when_all_is_spent(clock: Clock) -> None:
    spent, job = made()
    spent.set(job, LIMIT_S)
    slept: list[float] = []
    sleep = clock.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 1_000, "it does not wait at all"
        await sleep(seconds)

    clock.sleep = noted  # type: ignore[method-assign]
    assert isinstance(await passed(spent, job, ready=False), OutOfReach)
    assert min(slept[:-1]) > 1
    assert isinstance(await passed(spent, job), Overdue)
