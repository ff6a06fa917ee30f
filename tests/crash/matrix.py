"""`make kill-matrix`: every case of the matrix, in several worlds side by side.

    python -m tests.crash.matrix                      all of it; takes long
    python -m tests.crash.matrix --case 'NAME'        one case, as a run has named it
    python -m tests.crash.matrix --site azure         all cases of one site
    python -m tests.crash.matrix --scenario contained   those of one scenario
    python -m tests.crash.matrix --sample             the short form that CI runs
    python -m tests.crash.matrix --write-sample       choose the cases of the short form anew

First every scenario is played without kills, which tells what points it reaches. Then there is one
case for each point and each victim. The last line tells all of it in figures.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Sequence

from tests.crash import ending
from tests.crash.matrix_cases import Case, Reached, full, sample, write_sample, wrong_points
from tests.crash.matrix_parts import SITES
from tests.crash.matrix_points import all_points
from tests.crash.matrix_run import Outcome
from tests.crash.matrix_scenarios import SCENARIOS
from tests.crash.matrix_workers import Looked, Workers


class Summary:
    """The sum of all outcomes."""

    def __init__(self) -> None:
        self.kills = self.jobs = self.lost = self.doubled = self.leaked = 0
        self.failed: list[str] = []

    def add(self, outcome: Outcome) -> None:
        found = outcome.verdict
        self.kills += found.kills
        self.jobs += found.jobs
        self.lost += len(found.lost)
        self.doubled += len(found.doubled)
        self.leaked += len(found.leaked)
        if not outcome.is_clean:
            self.failed.append(outcome.case.name)

    def __str__(self) -> str:
        return (
            f"kills {self.kills}, jobs {self.jobs}, lost {self.lost}, "
            f"doubled {self.doubled}, leaked {self.leaked}"
        )


def look(workers: Workers, sites: Sequence[str]) -> tuple[Reached, list[str]]:
    """What each scenario reaches at these sites, and what went wrong on the way."""
    plays = [
        (each.name, site) for each in SCENARIOS.values() for site in each.sites if site in sites
    ]
    found: dict[str, Looked] = {}
    wrong = []
    for number, looked in enumerate(workers.look(plays), 1):
        found[looked.name] = looked
        told = f"{len(looked.points)} points" if not looked.problem else f"FAILED\n{looked.problem}"
        say(f"[look {number}/{len(plays)}] {looked.name}: {told}")
        if looked.problem:
            wrong.append(f"{looked.name}: does not come through without any kill")
    reached = collections.defaultdict(list)
    known = set(all_points())
    for scenario, site in plays:
        for point in found[f"{scenario} @ {site}"].points & known:
            reached[point].append(scenario)
    return dict(reached), wrong


def run(workers: Workers, cases: list[Case], summary: Summary) -> None:
    began = time.monotonic()
    for number, outcome in enumerate(workers.run(cases), 1):
        summary.add(outcome)
        state = "ok" if outcome.is_clean else "FAILED"
        spent_s = time.monotonic() - began
        say(f"[{number}/{len(cases)} {spent_s:.0f} s] {state} {outcome.case.name}")
        if not outcome.is_clean:
            say("\n".join([*outcome.missed, str(outcome.verdict)]))


def _sites_of(scenarios: Sequence[str] | None) -> set[str]:
    """The sites where any of these is played; all sites, if none are named."""
    return {site for name in scenarios or SCENARIOS for site in SCENARIOS[name].sites}


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what it is for


def main() -> int:
    parser = argparse.ArgumentParser(prog="make kill-matrix", description="The kill matrix.")
    parser.add_argument("--case", action="append", help="run these cases only")
    parser.add_argument("--sample", action="store_true", help="run the short form")
    parser.add_argument("--write-sample", action="store_true", help="choose the short form anew")
    parser.add_argument("--site", action="append", choices=SITES, help="these sites only")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="the cases of these scenarios only"
    )
    parser.add_argument("--share", default="1/1", help="every Nth case, as 1/3")
    parser.add_argument("--worlds", type=int, default=2, help="how many side by side")
    options = parser.parse_args()
    ending.heed()
    part, _, parts = options.share.partition("/")
    summary = Summary()
    wrong: list[str] = []
    with Workers(options.worlds) as workers:
        if options.case:
            cases = [Case.parse(name) for name in options.case]
        elif options.sample:
            cases = sample()
        else:
            sites = [site for site in options.site or SITES if site in _sites_of(options.scenario)]
            reached, wrong = look(workers, sites)
            wrong += wrong_points(reached, sites)
            for text in wrong:
                say(text)
            if options.write_sample:
                say(f"the short form has {write_sample(reached)} cases now")
                return 1 if wrong else 0
            cases = [
                case
                for case in full(reached)
                if not options.scenario or case.scenario in options.scenario
            ][int(part) - 1 :: int(parts)]
            say(f"{len(reached)} points, {len(cases)} cases")
        run(workers, cases, summary)
    for name in summary.failed:
        say(f"failed, alone by: make kill-matrix CASE='{name}'")
    if wrong:
        say(f"{len(wrong)} points or scenarios are not as they should be; they are told above")
    say(str(summary))
    return 1 if summary.failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
