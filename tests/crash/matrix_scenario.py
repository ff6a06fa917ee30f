"""What a scenario of the matrix is, and what several of them share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from tests.crash.matrix_parts import CORE, SITES
from tests.crash.matrix_play import Play
from tests.crash.world import AGAIN_S, Submitted
from tests.system.harness.jobs import ENDS
from tests.system.harness.waiting import eventually

API = "skyport.gate.v1"
INPUTS = {"in.txt": b"hello\n" * 2_000, "sub/more.bin": bytes(range(256)) * 300}


@dataclasses.dataclass(frozen=True)
class Extra:
    """Something else that happens at a fail point, beside what a case is about.

    Attributes:
        part: `core`, or `gate` for that of the site.
        what: The point without the site, as in `Point`.
        delay_s: How long to wait there.
        kill: Who is killed there: `core`, `gate`.
    """

    part: str
    what: str
    delay_s: float = 0.0
    kill: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Something that happens to jobs at a site.

    Attributes:
        name: Of the function that plays it.
        play: Has it happen.
        sites: Where it can.
        extras: What else happens at fail points.
        own_cases: Whether the full form kills at each point that it reaches, though cheaper
            scenarios reach the same one: what is behind the point is another.
    """

    name: str
    play: Callable[[Play], None]
    sites: tuple[str, ...] = SITES
    extras: tuple[Extra, ...] = ()
    own_cases: bool = False


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    sites: tuple[str, ...] = SITES, extras: tuple[Extra, ...] = (), *, own_cases: bool = False
) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """Make a scenario of a function, named after it. The cheapest come first in this file."""

    def make(play: Callable[[Play], None]) -> Callable[[Play], None]:
        name = play.__name__
        SCENARIOS[name] = Scenario(name, play, sites, extras, own_cases)
        return play

    return make


def queued_again(play: Play, submitted: Submitted) -> None:
    """Wait until a job was queued again, and then not for as long as places without room rest."""
    eventually(
        lambda: play.reasons(submitted) & {"NO_CAPACITY"} or play.state(submitted) in ENDS,
        "it is queued again",
        within_s=AGAIN_S,
    )
    with play.parts.without(CORE):
        pass
    play.ended(submitted)


def refused(method: str) -> dict[str, object]:
    fault = {"kind": "fail", "method": method, "times": 1}
    return fault | {"code": "INVALID_ARGUMENT", "reason": "FIELD_MALFORMED"}


def no_room(method: str) -> dict[str, object]:
    fault = {"kind": "fail", "method": method, "times": 1}
    return fault | {"code": "RESOURCE_EXHAUSTED", "reason": "CAPACITY"}


def nothing_runs_late(play: Play, submitted: Submitted, late_s: float) -> None:
    """Nothing of a job that has ended begins, however late the start comes."""
    before = play.world.facts.read_text().count(submitted.job.job_id)
    time.sleep(late_s)  # what must not happen tells no event
    after = play.world.facts.read_text().count(submitted.job.job_id)
    assert after == before, f"job {submitted.job.job_id} began to run after it was cancelled"
