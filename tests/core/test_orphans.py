"""What is an orphan, and when it is deleted: tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from swm_core.domain.orphans import (
    Found,
    Known,
    Orphan,
    OrphanKind,
    Unreachable,
    Verdict,
    delete_time,
    judge,
    may_be_hidden,
)

OURS = "abc123"
GENERATIONS = frozenset({"g1", "g2"})
PARTITION = Found(
    kind=OrphanKind.PARTITION,
    orphan_id="p1",
    installation=OURS,
    generation="g1",
    partition_id="p1",
    dynamic=True,
    owner="bo",
)
ATTEMPT = Found(
    kind=OrphanKind.JOB,
    orphan_id="j1/1",
    installation=OURS,
    generation="g2",
    partition_id="hosts",
    dynamic=False,
    owner="bo",
)
LEAVE, REPORT, DELETE = Verdict.LEAVE, Verdict.REPORT, Verdict.DELETE


@pytest.mark.parametrize("found", [PARTITION, ATTEMPT], ids=["partition", "attempt"])
@pytest.mark.parametrize(
    ("changes", "known", "verdict"),
    [
        ({}, Known.NEVER, DELETE),
        ({}, Known.GONE, DELETE),
        ({}, Known.LIVE, LEAVE),
        ({"installation": "other"}, Known.NEVER, LEAVE),
        ({"installation": "other"}, Known.GONE, LEAVE),
        ({"installation": ""}, Known.NEVER, LEAVE),
        ({"generation": "g3"}, Known.NEVER, REPORT),
        ({"generation": "g3"}, Known.GONE, REPORT),
        ({"generation": "g3"}, Known.LIVE, LEAVE),
        ({"generation": ""}, Known.NEVER, REPORT),
        ({"generation": "g3", "installation": "other"}, Known.NEVER, LEAVE),
    ],
)
def test_what_is_done_with_what_a_site_has(
    found: Found, changes: dict[str, Any], known: Known, verdict: Verdict
) -> None:
    found = dataclasses.replace(found, **changes)
    assert judge(found, known, installation=OURS, generations=GENERATIONS) is verdict


@pytest.mark.parametrize("known", list(Known))
def test_a_partition_that_is_always_there_is_never_an_orphan(known: Known) -> None:
    fixed = dataclasses.replace(PARTITION, dynamic=False)
    assert judge(fixed, known, installation=OURS, generations=GENERATIONS) is LEAVE


@pytest.mark.parametrize(
    ("generation", "requested", "at"),
    [
        ("g1", False, 160.0),
        ("g1", True, 100.0),
        ("g3", False, None),
        ("g3", True, 100.0),
        ("", False, None),
    ],
)
def test_an_orphan_is_deleted_after_the_grace_time_or_when_somebody_asks(
    generation: str, requested: bool, at: float | None
) -> None:
    found = dataclasses.replace(PARTITION, generation=generation)
    orphan = Orphan("lab", found, 100.0, requested)
    assert delete_time(orphan, generations=GENERATIONS, grace_s=60.0) == at


@pytest.mark.parametrize(
    ("unreachable", "partition_id", "nodes", "hidden"),
    [
        ([], "hosts", ["n1"], False),
        ([Unreachable("n1", "hosts")], "hosts", ["n1"], True),
        ([Unreachable("n2", "hosts")], "hosts", ["n1"], False),
        ([Unreachable("n2", "hosts")], "hosts", ["n1", "n2"], True),
        ([Unreachable("n1", "other")], "hosts", ["n1"], False),
        # A queue tells no nodes before it has placed a job.
        ([Unreachable("n2", "batch")], "batch", [], True),
        # A location of which nothing is known.
        ([Unreachable("north", "")], "hosts", ["n1"], True),
        ([Unreachable("north", "")], "p1", [], True),
        ([Unreachable("p2-1", "p2")], "p1", [], False),
    ],
)
def test_what_a_list_lacks_may_be_where_it_could_not_look(
    unreachable: list[Unreachable], partition_id: str, nodes: list[str], hidden: bool
) -> None:
    assert may_be_hidden(unreachable, partition_id, nodes) is hidden
