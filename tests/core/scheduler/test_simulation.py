"""Whole lives of many jobs: nothing is given twice, everything gets its turn."""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swm_core.domain.job import Allocation, JobSpec
from swm_core.scheduler import (
    Create,
    NodeView,
    Place,
    QueuedJob,
    Reject,
    SiteView,
    Wait,
    schedule,
)
from tests.core.scheduler.builders import cloud, flavor, job, lab, node, seeded, spec


@dataclasses.dataclass
class Run:
    """A job's life as the simulation sees it."""

    queued: QueuedJob
    duration: float
    start: float | None = None
    place: Place | Create | None = None


class Simulation:
    """Static sites and jobs that end after their time; `now` moves from event to event."""

    def __init__(self, sites: list[SiteView]) -> None:
        self.sites = sites
        self.now = 0.0
        self.events: list[tuple[float, int, str]] = []
        self.queue: dict[str, QueuedJob] = {}
        self.runs: dict[str, Run] = {}
        self.rejected: list[Reject] = []
        self.calls = 0

    def submit(self, at: float, job_id: str, what: JobSpec, duration: float) -> None:
        queued = job(job_id, what, submit_time=at)
        self.runs[job_id] = Run(queued, duration)
        heapq.heappush(self.events, (at, 1, job_id))

    def run(self, until: float = float("inf")) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, kind, job_id = heapq.heappop(self.events)
            if kind == 1:
                self.queue[job_id] = self.runs[job_id].queued
            else:
                self._end(job_id)
            self._decide()

    def _decide(self) -> None:
        self.calls += 1
        decisions = schedule(list(self.queue.values()), self.sites, self.now)
        waiting = [i for d in decisions if isinstance(d, Wait) for i in d.job_ids]
        decided = [d.job_id for d in decisions if not isinstance(d, Wait)]
        assert Counter(waiting + decided) == Counter(list(self.queue)), "each job has one decision"
        for decision in decisions:
            if isinstance(decision, Place):
                self._start(decision)
            elif isinstance(decision, Create):
                run = self.runs[decision.job_id]
                run.start, run.place = self.now, decision
                del self.queue[decision.job_id]
            elif isinstance(decision, Reject):
                self.rejected.append(decision)
                del self.queue[decision.job_id]
        self._check()

    def _start(self, decision: Place) -> None:
        run = self.runs[decision.job_id]
        assert run.start is None, "started twice"
        run.start, run.place = self.now, decision
        del self.queue[decision.job_id]
        names = [part.node for part in decision.allocations]
        assert len(set(names)) == len(names) == run.queued.spec.nodes
        self._change(decision, add=True)
        heapq.heappush(self.events, (self.now + run.duration, 0, decision.job_id))

    def _end(self, job_id: str) -> None:
        place = self.runs[job_id].place
        assert isinstance(place, Place)
        self._change(place, add=False)

    def _change(self, place: Place, *, add: bool) -> None:
        parts = {part.node: part for part in place.allocations}

        def changed(view: NodeView) -> NodeView:
            part = parts.get(view.name)
            if part is None:
                return view
            used = [*view.used, part] if add else [one for one in view.used if one is not part]
            return dataclasses.replace(view, used=tuple(used))

        def site_changed(site: SiteView) -> SiteView:
            if site.name != place.site:
                return site
            (part,) = site.partitions
            nodes = tuple(map(changed, part.nodes))
            return dataclasses.replace(site, partitions=(dataclasses.replace(part, nodes=nodes),))

        self.sites = list(map(site_changed, self.sites))

    def _check(self) -> None:
        for site in self.sites:
            for part in site.partitions:
                for view in part.nodes:
                    check_node(view)


def check_node(view: NodeView) -> None:
    used: tuple[Allocation, ...] = view.used
    assert sum(part.cpus for part in used) <= view.cpus
    assert sum(part.mem_bytes for part in used) <= view.mem_bytes
    gpus = [gpu for part in used for gpu in part.gpu_ids]
    assert len(set(gpus)) == len(gpus)
    assert set(gpus) <= set(view.gpu_ids)
    ports = [port for part in used for port in part.ports.values()]
    assert len(set(ports)) == len(ports)


def random_sites(rng: random.Random) -> list[SiteView]:
    return [
        lab(
            *(
                node(
                    f"{name}{number}",
                    rng.choice([1, 4, 8]),
                    rng.choice([4, 16]),
                    rng.choice([0, 0, 2]),
                    port_first=30_000,
                    port_last=30_002,
                )
                for number in range(rng.randint(1, 4))
            ),
            name=name,
        )
        for name in ("a", "b")[: rng.randint(1, 2)]
    ]


def random_spec(rng: random.Random) -> JobSpec:
    return spec(
        rng.choice([1, 1, 1, 2, 4, 8]),
        rng.choice([0, 0, 1, 4, 16]),
        rng.choice([0, 0, 0, 1, 2]),
        ports=rng.choice(["", "", "", "8888", "X", "X Y", "out:8888 X"]),
        nodes=rng.choice([1, 1, 1, 2, 3]),
        site=rng.choice(["", "", "a"]),
        priority=0,
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_any_load_runs_to_its_end_and_nothing_is_given_twice(seed: int) -> None:
    rng = seeded(seed)
    simulation = Simulation(random_sites(rng))
    for number in range(rng.randint(1, 60)):
        simulation.submit(
            rng.uniform(0, 30), f"j{number:03}", random_spec(rng), rng.uniform(0.1, 5)
        )
    simulation.run()
    rejected = {decision.job_id for decision in simulation.rejected}
    assert not simulation.queue, "everything that can run has run"
    for job_id, run in simulation.runs.items():
        assert (run.start is None) == (job_id in rejected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "big",
    [
        spec(8),
        spec(8, nodes=2),
        spec(4, 64),
        spec(1, 0, 2),
        spec(8, nodes=4),
        spec(2, ports="8888"),
    ],
    ids=["a whole node", "two nodes", "all memory", "all gpus", "everything", "a port"],
)
def test_a_stream_of_small_jobs_does_not_starve_a_big_one(big: JobSpec, seed: int) -> None:
    rng = seeded(seed)
    simulation = Simulation([lab(*(node(f"n{n}", 8, 64, 2) for n in range(4)))])
    longest = 10.0
    at = 0.0
    small = [*[spec(1, 1)] * 6, spec(1, 8, 1), spec(1, ports="8888"), spec(2, 16)]
    # About twice what the site can do.
    for number in range(500):
        at += rng.expovariate(9.0)
        simulation.submit(at, f"s{number:04}", rng.choice(small), rng.uniform(1, longest))
    simulation.submit(10.0, "big", big, 5.0)
    simulation.run(until=60.0)
    before = [
        run
        for job_id, run in simulation.runs.items()
        if run.queued.submit_time < 10.0 and job_id != "big"
    ]
    # It waits for those before it, and then for what ran when its turn came; for no others.
    begun = [run.start for run in before if run.start is not None]
    assert len(begun) == len(before)
    start = simulation.runs["big"].start
    assert start is not None
    assert start <= max(*begun, 10.0) + longest


def test_small_jobs_go_on_where_the_big_one_does_not_wait() -> None:
    simulation = Simulation([lab(node("n1", 8), node("n2", 8))])
    simulation.submit(0.0, "first", spec(4), 100.0)
    simulation.submit(1.0, "big", spec(8, nodes=2), 10.0)
    simulation.submit(2.0, "later", spec(1), 1.0)
    simulation.run()
    starts = {job_id: run.start for job_id, run in simulation.runs.items()}
    assert starts == {"first": 0.0, "big": 100.0, "later": 110.0}


def test_what_is_kept_does_not_move_away_while_it_gets_nearer() -> None:
    """The nodes kept for the first in line never lack more from one call to the next."""
    rng = seeded(7)
    simulation = Simulation([lab(*(node(f"n{n}", 8, 64) for n in range(6)))])
    for number in range(60):
        simulation.submit(0.0, f"a{number:03}", spec(rng.randint(1, 3)), rng.uniform(1, 20))
    simulation.run(until=0.0)
    simulation.submit(0.5, "big", spec(8), 1.0)
    for number in range(400):
        simulation.submit(0.6 + number * 0.05, f"s{number:03}", spec(1), rng.uniform(0.5, 3))
    lacks = []
    while simulation.runs["big"].start is None and simulation.events:
        simulation.run(until=simulation.events[0][0])
        if "big" in simulation.queue and not any(
            queued.submit_time < 0.5 for queued in simulation.queue.values()
        ):
            (part,) = simulation.sites[0].partitions
            lacks.append(min(8 - view.free_cpus for view in part.nodes))
    assert len(lacks) > 3
    assert lacks == sorted(lacks, reverse=True)


def test_jobs_without_a_free_host_go_on_to_the_cloud_until_it_is_full() -> None:
    sites = [
        lab(node("n1", 2)),
        cloud(flavor("s", 2, 8, "1"), max_partitions=3),
    ]
    decisions = schedule([job(f"j{n}", spec(2)) for n in range(6)], sites, 0.0)
    kinds = Counter(type(decision).__name__ for decision in decisions)
    assert kinds["Place"] == 1
    assert kinds["Create"] == 3
