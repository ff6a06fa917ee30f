"""Plays scenarios in a world, with kills or with a look at which points they reach."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crash.checks import Verdict, Violation, verdict
from tests.crash.matrix_cases import Case, Kill
from tests.crash.matrix_parts import CORE, MatrixWorld, Order, Parts, running_parts
from tests.crash.matrix_play import Play
from tests.crash.matrix_points import Point
from tests.crash.matrix_scenario import Extra, Scenario
from tests.crash.matrix_scenarios import SCENARIOS
from tests.crash.world import insist

_TRIES = 4
"""How often a scenario is played until it has come by its point: what ends first is not always the
same."""


@dataclasses.dataclass
class Outcome:
    """What a case has shown."""

    case: Case
    verdict: Verdict
    missed: list[str]
    """Kills that did not take place."""
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return self.verdict.is_clean and not self.missed


class Stage:
    """A world in which one scenario is played after the other.

    Args:
        world: Where.
        parts: What can be killed.
    """

    def __init__(self, world: MatrixWorld, parts: Parts) -> None:
        self._world = world
        self._parts = parts
        self._numbers = itertools.count()

    def run(self, case: Case) -> Outcome:
        """Have a case happen, and look at what it has left."""
        began = time.monotonic()
        number = next(self._numbers)
        markers = [self._world.folder / f"marker{number}.{n}" for n in range(len(case.kills))]
        orders = list(map(_kill_order, case.kills, markers))
        problem, played = "", 0
        while not problem and played < _TRIES and not all(each.exists() for each in markers):
            played += 1
            problem = self._play(SCENARIOS[case.scenario], case.site, orders)
        found = self._look(case.site)
        missed = []
        for kill, marker in zip(case.kills, markers, strict=True):
            if marker.exists():
                found.kills += len(marker.read_text().splitlines())
            else:
                missed.append(f"in {played} plays nothing came to its point: {kill}")
        if problem:
            found.lost.append(Violation(f"{case.scenario} did not come through", problem))
        return Outcome(case, found, missed, time.monotonic() - began)

    def points(self, scenario: str, site: str) -> set[Point]:
        """The points that a scenario reaches at a site, without any kill for them.

        Raises:
            AssertionError: It does not come through.
        """
        for part in (CORE, site):
            self._parts.traced(part)
        problem = self._play(SCENARIOS[scenario], site, [], trace=True)
        found = self._look(site)
        if problem:
            found.lost.append(Violation(problem))
        assert found.is_clean, f"{scenario} @ {site}, without kills: {found}"
        of_core, of_gate = self._parts.traced(CORE), self._parts.traced(site)
        return {*_of_core(of_core, site), *_of_gate(of_gate, site)}

    def _play(
        self, scenario: Scenario, site: str, orders: Sequence[Order], *, trace: bool = False
    ) -> str:
        """Play a scenario; returns what went wrong with it, if anything did."""
        self._parts.ready(site)
        folder = Path(tempfile.mkdtemp(dir=self._world.folder, prefix="play"))
        folder.chmod(0o777)  # jobs on machines have an account of their own
        extras = [_order(each, site, folder, n) for n, each in enumerate(scenario.extras)]
        self._parts.arm([*orders, *extras], trace=trace)
        try:
            scenario.play(Play(self._world, self._parts, site, folder))
        except Exception:  # noqa: BLE001 - whatever it is, it is told as what the case has shown
            return traceback.format_exc()
        return ""

    def _look(self, site: str) -> Verdict:
        """The verdict about all jobs since the last one; they are forgotten then."""
        with contextlib.suppress(AssertionError):
            self._world.settle(within_s=120)
        self._parts.ready(site)
        # Told by the verdict, where it matters.
        found = verdict(self._world, within_s=60)
        found.kills = 0
        if found.is_clean:
            self._forget()
        return found

    def _forget(self) -> None:
        self._parts.arm([])
        for submitted in self._world.jobs.values():
            insist(submitted.job.delete)
        self._world.jobs.clear()
        self._world.facts.write_text("")


def _kill_order(kill: Kill, marker: Path) -> Order:
    site = kill.point.site
    part = site if kill.point.in_gate else CORE
    victims = tuple(CORE if each == "core" else site for each in kill.victims)
    return Order(part, kill.point.name, marker, kill=_last_self(part, victims))


def _last_self(part: str, victims: Sequence[str]) -> tuple[str, ...]:
    """Whoever kills itself can kill nobody afterwards."""
    return tuple(sorted(victims, key=lambda victim: victim == part))


def _order(extra: Extra, site: str, folder: Path, number: int) -> Order:
    part = CORE if extra.part == CORE else site
    point = f"{site} {extra.what}" if part == CORE else extra.what
    kill = tuple(CORE if each == CORE else site for each in extra.kill)
    return Order(part, point, folder / f"extra{number}", extra.delay_s, kill)


def _of_core(names: set[str], site: str) -> Iterator[Point]:
    for name in names:
        where, _, rest = name.partition(" ")
        if where == site:
            what, _, when = rest.rpartition(" ")
            yield Point(site, what, when)


def _of_gate(names: set[str], site: str) -> Iterator[Point]:
    for name in names:
        what, _, when = name.rpartition(" ")
        if what.startswith("serve skyport.gate."):
            yield Point(site, what, when)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A stage in a folder of its own, gone with the context."""
    with (
        # Not below /tmp: machines of the stand-in for Azure have one of their own.
        tempfile.TemporaryDirectory(
            prefix="matrix", dir="/var/tmp", ignore_cleanup_errors=True
        ) as folder,
        running_parts(Path(folder)) as (world, parts),
    ):
        yield Stage(world, parts)
