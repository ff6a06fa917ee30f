"""What an attempt begins and what it lets go of, by its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from swm_core.config import Deadlines
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job, JobSpec, Launch
from swm_core.domain.states import JobState
from swm_core.lifecycle import attempt
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.attempt import AttemptDriver
from swm_core.lifecycle.patience import Spent
from swm_core.store import Step


class Site:
    """Never confirms anything, and has nothing new to say."""

    async def confirm_stopped(self, job: Job, give_up: object) -> bool:
        return False

    async def follow(self, job: Job) -> None:
        pass


class Forwards:
    """Remembers whose ports it closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def close(self, job_id: str) -> None:
        self.closed.append(job_id)

    async def open(self, job: Job, gate: object) -> None:
        pass


def made(job: Job, forwards: Forwards) -> AttemptDriver:
    async def note(*_: object) -> None:
        pass

    jobs: Any = SimpleNamespace(note=note, placed=(), attempt=lambda *_: job)
    context: Any = SimpleNamespace(jobs=jobs, deadlines=Deadlines(), clock=lambda: 1.0)
    gate: Any = SimpleNamespace(name="lab", ready=True, chooses_nodes=lambda _: True)
    meta: Any = SimpleNamespace(spent_s=dict)
    opened: Any = forwards
    return AttemptDriver(context, job, gate, opened, Spent(meta, jobs))


def running(**fields: Any) -> Job:
    job = Job("j1", "ann", JobSpec(), "", JobState.RUNNING, 1.0, 1.0, attempt=1, site="lab")
    return dataclasses.replace(job, **fields)


async def test_a_forced_cancel_closes_the_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    concluded = []

    async def conclude(context: object, job_id: str, *_: object) -> None:
        concluded.append(job_id)

    monkeypatch.setattr(attempt, "conclude", conclude)
    forwards = Forwards()
    job = running(cancel_requested=True, force=True)
    site: Any = Site()
    await made(job, forwards)._step(job, site)
    assert concluded == ["j1"]
    assert forwards.closed == ["j1"]


@pytest.mark.parametrize(
    ("state", "launch", "mirrors"),
    [
        (JobState.QUEUED_AT_SITE, Launch.FIRST, True),
        # A mirror that begins now would know of the first node alone.
        (JobState.QUEUED_AT_SITE, Launch.EVERY, False),
        (JobState.RUNNING, Launch.EVERY, True),
    ],
)
async def test_what_each_node_writes_is_mirrored_once_the_nodes_are_known(
    state: JobState, launch: Launch, mirrors: bool
) -> None:
    begun: list[Job] = []
    job = running(state=state, spec=JobSpec(launch=launch, nodes=2))
    driver = made(job, Forwards())
    mirroring: Any = SimpleNamespace(begin=begun.append)
    driver._mirroring = mirroring
    site: Any = Site()
    await driver._advance(job, site)
    assert bool(begun) is mirrors


async def test_an_attempt_that_is_lost_while_it_is_stopped_ends_as_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[Failure | None] = []

    async def conclude(context: object, job_id: str, failure: Failure | None) -> None:
        ends.append(failure)

    monkeypatch.setattr(attempt, "conclude", conclude)
    lost = Failure(FailureReason.SITE_LOST, "the node is another")
    job = running(stop=Failure(FailureReason.BUDGET, "spent"))
    driver = made(job, Forwards())

    class Losing(Site):
        async def confirm_stopped(self, job: Job, give_up: object) -> bool:
            driver._lost = lost
            return False

    site: Any = Losing()
    await driver._step(job, site)
    assert ends == [lost]


@pytest.mark.parametrize(
    ("now", "is_decided"),
    [
        ({}, True),
        ({"state": JobState.RUNNING}, False),
        ({"cancel_requested": True}, False),
    ],
)
async def test_a_start_that_takes_too_long_is_on_record_before_its_site_is_asked_to_end_it(
    now: dict[str, Any], is_decided: bool
) -> None:
    job = running(state=JobState.STARTING)
    driver = made(job, Forwards())
    late = Failure(FailureReason.DEADLINE, "still STARTING")
    decided: list[Step] = []

    async def advance(job: Job, site: object) -> None:
        raise AttemptFailed(late, unsure=True)

    async def apply(job_id: str, decide: Callable[[Job], Sequence[Step]]) -> None:
        decided.extend(decide(dataclasses.replace(job, **now)))

    driver._advance = advance  # type: ignore[method-assign]
    driver._context.jobs.apply = apply  # type: ignore[method-assign,assignment]
    nobody: Any = None  # the site is not asked
    await driver._step(job, nobody)
    assert [step.job.stop for step in decided] == ([late] if is_decided else [])
