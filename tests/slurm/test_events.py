"""What jobs tell of themselves, and how long that is looked for. No cluster is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gate_kit import Operations
from gate_kit.job_status import End
from gate_kit.ssh.evidence import Lasting
from gates.ssh_cluster_gate.slurm.evidence import Evidence, Given
from gates.ssh_cluster_gate.slurm.live import Live
from gates.ssh_cluster_gate.slurm.watching import SlurmWatching
from skyport.gate.v1 import types_pb2

NAME = "debug.inst.job-1.1"
GIVEN = Given("7", ("n1",), {}, (), (), 5)
END = End("exit", "0", 0.0, 9)


def live(**found: Any) -> Live:
    account: Any = SimpleNamespace()
    return Live(types_pb2.JobRef(), Lasting(), account, 0.0, Evidence("r", exists=True, **found))


def told(events: list[str], one: Live) -> list[Live]:
    queue = SimpleNamespace(poke=lambda: None)
    jobs: Any = SimpleNamespace(on_live=[], live={}, queue=lambda _: queue)
    return SlurmWatching(jobs, Operations())._told(events, {NAME: one})


@pytest.mark.parametrize(
    "event", ["", ",", ",,", "x", NAME, f"{NAME},7", f"{NAME},7,else", f"other{NAME},7,ended"]
)
def test_what_others_write_there_tells_nothing(event: str) -> None:
    one = live()
    assert told([event], one) == []
    assert not one.shows_less_than_said


@pytest.mark.parametrize(
    ("what", "found", "is_looked_for"),
    [
        ("begun", {}, True),
        ("begun", {"given": GIVEN}, False),
        ("ended", {"given": GIVEN}, True),
        ("ended", {"given": GIVEN, "ends": {0: END}}, False),
        ("ended", {"final": END}, False),
    ],
)
def test_what_a_job_has_told_is_looked_for_until_it_is_seen(
    what: str, found: dict[str, Any], is_looked_for: bool
) -> None:
    one = live(**found)
    assert not one.shows_less_than_said
    assert told([f"{NAME},7,{what}"], one) == [one]
    assert one.shows_less_than_said is is_looked_for
