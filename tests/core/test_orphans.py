"""What is an orphan, and when it is deleted: tables."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from types import SimpleNamespace
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
from swm_core.lifecycle import orphans
from swm_core.store import StoreUnavailable

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


async def test_a_store_that_cannot_write_does_not_end_the_one_who_deletes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orphans, "_STORE_S", 0.01)
    refused = 0
    noted = asyncio.Event()

    async def put(orphan: Orphan) -> None:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise StoreUnavailable("the disk is full")
        noted.set()

    async def answer(*_: object) -> None:
        """The gate has begun to delete it, or is ready."""

    stored = Orphan("lab", PARTITION, seen_time=0.0, requested=True)
    context: Any = SimpleNamespace(
        installation=OURS,
        clock=time.time,
        partitions={},
        store=SimpleNamespace(
            meta=SimpleNamespace(trusted_generations=lambda: GENERATIONS),
            orphans=SimpleNamespace(of=lambda _: [stored], put=put),
            partitions={},
        ),
    )
    gate: Any = SimpleNamespace(
        name="lab",
        scope_uid="",
        wait_ready=answer,
        call=answer,
        partitions=SimpleNamespace(DeletePartition=None),
    )
    found = orphans.Orphans(context, gate, 3_600.0)
    found.load()
    running = asyncio.create_task(found.run())
    try:
        written = asyncio.create_task(noted.wait())
        await asyncio.wait((running, written), timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert noted.is_set()
        assert not running.done()
    finally:
        written.cancel()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
