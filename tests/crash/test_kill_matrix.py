"""Kill core, gate or both at any moment: no job is lost, none runs twice, nothing stays behind.

The short form of `make kill-matrix`: every transition, every decision and every RPC of the Gate
API, each at some site, at some moment and with some victim.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.matrix import Summary, run
from tests.crash.matrix_cases import (
    BY_HAND,
    SAMPLE,
    VICTIMS,
    Case,
    Kill,
    full,
    is_impossible,
    sample,
    write_sample,
    wrong_points,
)
from tests.crash.matrix_parts import SITES
from tests.crash.matrix_points import (
    IMPOSSIBLE,
    Point,
    all_points,
    decisions,
    methods,
    transitions,
)
from tests.crash.matrix_scenarios import SCENARIOS
from tests.crash.matrix_workers import Workers

_WORLDS = 3
"""Side by side: each waits most of the time."""


@pytest.mark.timeout(900)
def test_kills_at_every_transition_and_rpc_do_no_harm(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    summary = Summary()
    with Workers(_WORLDS) as workers:
        run(workers, sample(), summary)
    told = capsys.readouterr().out
    record_property("told", str(summary))
    wrong = [line for line in told.splitlines() if "] ok " not in line]
    assert not summary.failed, "\n".join(wrong)
    assert str(summary).endswith("lost 0, doubled 0, leaked 0")


def test_the_short_form_has_every_transition_and_every_rpc() -> None:
    covered = {kill.point.subject for case in sample() for kill in case.kills}
    subjects = {point.subject for point in all_points()}
    assert len(subjects) == len([*transitions(), *decisions(), *methods()])
    assert not {subject for subject in subjects - covered if not is_impossible(subject)}


def test_the_short_form_has_all_sites_and_all_victims() -> None:
    cases = sample()
    assert {case.site for case in cases} == set(SITES)
    assert len({kill.victims for case in cases for kill in case.kills}) == 3


def test_the_short_form_kills_in_each_scenario_with_cases_of_its_own() -> None:
    marked = {name for name, scenario in SCENARIOS.items() if scenario.own_cases}
    assert marked >= {name for name in SCENARIOS if name.startswith("contained")}
    assert marked <= {case.scenario for case in sample()}


def test_cases_by_hand_are_kept_when_the_others_are_chosen_anew(tmp_path: Path) -> None:
    before = SAMPLE.read_text()
    file = tmp_path / "sample.txt"
    file.write_text(before)
    reached = _all_reach_all()
    count = write_sample(reached, file)
    chosen, _, kept = file.read_text().partition(BY_HAND)
    assert kept == before.partition(BY_HAND)[2]
    assert "contained_out_of_memory" in kept
    cases = [Case.parse(line) for line in (chosen + kept).splitlines() if line]
    assert len(cases) == count
    assert all(case.kills for case in cases)
    covered = {kill.point.subject for case in cases for kill in case.kills}
    assert covered == {point.subject for point in reached}


def test_the_full_form_has_each_point_of_a_scenario_with_cases_of_its_own() -> None:
    reached = _all_reach_all()
    victims: dict[tuple[str, Point], list[tuple[str, ...]]] = collections.defaultdict(list)
    everyone: dict[Point, set[tuple[str, ...]]] = collections.defaultdict(set)
    for case in full(reached):
        (kill,) = case.kills
        victims[case.scenario, kill.point].append(kill.victims)
        everyone[kill.point].add(kill.victims)
    assert all(everyone[point] == set(VICTIMS) for point in reached)
    of_sites = ("Identity", "Inventory", "/WatchJ", "/WatchP", "/ListJ", "/ListP")
    for scenario in SCENARIOS.values():
        own = [
            victims[scenario.name, point]
            for point in reached
            if point.site in scenario.sites and not any(word in point.what for word in of_sites)
        ]
        if scenario.own_cases:
            assert own, scenario.name
            assert all(map(len, own)), scenario.name
            assert {each for found in own for each in found} == set(VICTIMS), scenario.name


def _all_reach_all() -> dict[Point, list[str]]:
    """Each point that can be reached, by all scenarios of its site."""
    return {
        point: [scenario.name for scenario in SCENARIOS.values() if point.site in scenario.sites]
        for point in all_points()
        if not any(entry.covers(point) for entry in IMPOSSIBLE)
    }


def test_a_point_that_is_not_reached_needs_a_reason() -> None:
    possible = [each for each in all_points() if not any(i.covers(each) for i in IMPOSSIBLE)]
    assert wrong_points(possible) == []
    (told,) = wrong_points(possible[1:])
    assert told.startswith(str(possible[0]))


def test_a_point_that_is_reached_may_not_be_told_to_be_impossible() -> None:
    possible = [each for each in all_points() if not any(i.covers(each) for i in IMPOSSIBLE)]
    other = next(each for each in all_points() if each not in possible)
    (told,) = wrong_points([*possible, other])
    assert told.startswith(str(other))


def test_each_reason_is_about_some_point() -> None:
    for entry in IMPOSSIBLE:
        assert any(entry.covers(point) for point in all_points()), entry


def test_a_case_is_found_by_its_name() -> None:
    kills = (
        Kill(Point("lab", "job RUNNING>STAGING_OUT", "before"), ("core", "gate")),
        Kill(Point("lab", "serve skyport.gate.v1.JobService/StartJob", "after"), ("gate",)),
    )
    case = Case("succeeds", "lab", kills)
    assert Case.parse(case.name) == case
    for name in ("", "nothing", case.name.replace("lab", "moon"), case.name.replace("gate", "x")):
        with pytest.raises(ValueError, match="is no case"):
            Case.parse(name)
