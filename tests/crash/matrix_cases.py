"""The cases of the matrix: who is killed at which points, and the scenario that gets there."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.crash.matrix_parts import SITES
from tests.crash.matrix_points import IMPOSSIBLE, Point, all_points
from tests.crash.matrix_scenarios import SCENARIOS, Scenario

Reached = Mapping[Point, Sequence[str]]
"""The names of the scenarios that reach each point, the cheapest first."""

VICTIMS = (("core",), ("gate",), ("core", "gate"))
SAMPLE = Path(__file__).with_name("matrix_sample.txt")
BY_HAND = "# By hand, and kept when the others are chosen anew:"
"""In the file of the short form: cases that no choice by subjects would make."""
_MOST_KILLS = 4
"""In one case of the short form: after more of them a job seldom comes by all the points."""
_SURE = {
    "/PutFiles": "succeeds",
    "/Probe": "gate_comes_back",
    "/ListJobs": "rejected",
    "/ListPartitions": "rejected",
}
"""What reaches calls that otherwise come by the clock, or when a site is first used."""
_OF_SITES = (
    "*.IdentityService/*",
    "*.InventoryService/*",
    "*/WatchJobs",
    "*/WatchPartitions",
    "*/ListJobs",
    "*/ListPartitions",
)
"""Subjects of a site as such: when it is first used, by the clock, or when its gate is back."""
_ANYWAY = (
    ("used_again", "azure"),
    ("cancelled_while_booting", "azure"),
    ("shut_down", "azure"),
    ("boot_fails", "azure"),
    ("evicted", "azure"),
    ("on_two_machines", "azure"),
    ("created_too_late", "azure"),
    ("over_budget", "cloud"),
    ("cancelled_while_starting", "lab"),
    ("created_too_late", "cloud"),
)
"""In the short form in any case: what arrives only after it was called off, and machines."""
_USUAL = "succeeds", "lab"
"""What is played for a transition or RPC that nobody has looked at yet."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """SIGKILL at a point.

    Attributes:
        point: Where.
        victims: `core`, `gate` (that of the point's site), or both.
    """

    point: Point
    victims: tuple[str, ...]

    def __str__(self) -> str:
        return f"kill {'+'.join(self.victims)} at {self.point.what} {self.point.when}"


@dataclasses.dataclass(frozen=True)
class Case:
    """A scenario at a site, and the kills that come to it, each once."""

    scenario: str
    site: str
    kills: tuple[Kill, ...]

    @property
    def name(self) -> str:
        """Names it on the command line."""
        return f"{self.scenario} @ {self.site}: {'; '.join(map(str, self.kills))}"

    @classmethod
    def parse(cls, name: str) -> Case:
        """The case of that name.

        Raises:
            ValueError: It is no name of a case.
        """
        try:
            what, _, kills = name.partition(": ")
            scenario, _, site = what.partition(" @ ")
            case = cls(scenario, site, tuple(_parse(each, site) for each in kills.split("; ")))
        except (IndexError, ValueError):
            raise ValueError(f"{name!r} is no case") from None
        if case.name != name or scenario not in SCENARIOS or site not in SITES:
            raise ValueError(f"{name!r} is no case: there is no such scenario, site or victim")
        return case


def _parse(text: str, site: str) -> Kill:
    victims, _, where = text.removeprefix("kill ").partition(" at ")
    what, _, when = where.rpartition(" ")
    killed = tuple(victims.split("+"))
    if killed not in VICTIMS:
        raise ValueError(text)
    return Kill(Point(site, what, when), killed)


def full(reached: Reached) -> list[Case]:
    """A case for each point that is reached, and for all who can be killed there.

    Beside these one for each point of scenarios that have their own cases, victims in turn.
    """
    usual = {point: _scenario(point, reached[point]) for point in sorted(reached)}
    cases = [
        Case(name, point.site, (Kill(point, victims),))
        for point, name in usual.items()
        for victims in VICTIMS
    ]
    turns = itertools.cycle(VICTIMS)
    for scenario in SCENARIOS.values():
        for point, name in usual.items():
            is_there = scenario.name != name and scenario.name in reached[point]
            if is_there and _has_own_case(scenario, point):
                kill = Kill(point, next(turns))
                cases.append(Case(scenario.name, point.site, (kill,)))
    # In no order: a run that is stopped half-way has seen something of everything.
    return sorted(cases, key=lambda case: zlib.crc32(case.name.encode()))


def _has_own_case(scenario: Scenario, point: Point) -> bool:
    """Whether a scenario has a case for a point that others reach too."""
    of_site = any(fnmatch.fnmatchcase(point.subject, pattern) for pattern in _OF_SITES)
    return scenario.own_cases and not of_site


def _scenario(point: Point, names: Sequence[str]) -> str:
    """The cheapest one, but for what most scenarios reach only when their time is right."""
    sure = _SURE.get("/" + point.subject.rpartition("/")[2], "")
    return sure if sure in names else names[0]


def make_sample(reached: Reached) -> list[Case]:
    """Few cases with several kills each: every transition and every RPC that is reached, once."""
    plays: dict[tuple[str, str], dict[str, list[Point]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for point in sorted(reached):
        for scenario in reached[point]:
            plays[scenario, point.site][point.subject].append(point)
    missing = {point.subject for point in reached}
    victims, turns = itertools.cycle(VICTIMS), itertools.count()
    cheap = list(SCENARIOS)
    used: collections.Counter[str] = collections.Counter()
    cases = []
    first = list(_ANYWAY)
    while missing or first:
        scenario, site = (
            first.pop()
            if first
            else max(
                plays,
                key=lambda play: (
                    min(len(missing & plays[play].keys()), _MOST_KILLS),
                    -used[play[1]],
                    -cheap.index(play[0]),
                ),
            )
        )
        used[site] += 1
        subjects = plays[scenario, site]
        chosen = sorted(missing & subjects.keys() or subjects)[:_MOST_KILLS]
        kills = []
        for subject in chosen:
            points = subjects[subject]
            kills.append(Kill(points[next(turns) % len(points)], next(victims)))
        missing -= set(chosen)
        cases.append(Case(scenario, site, tuple(kills)))
    return cases


def sample() -> list[Case]:
    """The cases of the short form: those of the file, and one for whatever is new since."""
    lines = SAMPLE.read_text().splitlines()
    cases = [Case.parse(line) for line in lines if line and not line.startswith("#")]
    known = {kill.point.subject for case in cases for kill in case.kills}
    new = {
        point.subject: point
        for point in all_points()
        if point.site == _USUAL[1] and point.subject not in known
    }
    nowhere = {subject for subject in new if is_impossible(subject)}
    kills = [Kill(point, VICTIMS[2]) for subject, point in new.items() if subject not in nowhere]
    return cases + [Case(*_USUAL, (kill,)) for kill in kills]


def write_sample(reached: Reached, file: Path = SAMPLE) -> int:
    """Choose the cases of the file anew, but for those by hand; returns how many there are."""
    chosen = [case.name for case in make_sample(reached)]
    kept = file.read_text().partition(BY_HAND)[2].splitlines()[1:]
    file.write_text("\n".join([*chosen, BY_HAND, *kept, ""]))
    return len(chosen) + len(kept)


def is_impossible(subject: str) -> bool:
    """Whether no point at any site that is about it can be reached."""
    points = [point for point in all_points() if point.subject == subject]
    return all(any(entry.covers(point) for entry in IMPOSSIBLE) for point in points)


def wrong_points(reached: Iterable[Point], sites: Sequence[str] = SITES) -> list[str]:
    """What is wrong with the points of sites: missing without a reason, or there despite one."""
    there = set(reached)
    found = []
    for point in all_points():
        if point.site not in sites:
            continue
        reasons = [entry.reason for entry in IMPOSSIBLE if entry.covers(point)]
        if point not in there and not reasons:
            found.append(f"{point}: no scenario gets there, and no reason is told why none can")
        elif point in there and reasons:
            found.append(f"{point}: is reached, and told to be impossible: {reasons[0]}")
    return found
