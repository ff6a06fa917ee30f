"""What is kept of jobs and partitions in memory, and what is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from skyport.terminal.v1 import admin_pb2
from swm_core.domain.partition import Partition, PartitionSpec
from swm_core.domain.states import PartitionState
from swm_core.lifecycle.live import LiveJobs, LivePartitions, NotLive
from swm_core.terminal.sites import SiteAdministration


async def test_nothing_is_kept_of_what_has_ended() -> None:
    store: Any = None
    jobs, partitions = LiveJobs(store), LivePartitions(store)
    with pytest.raises(NotLive):
        await jobs.note("j1", "cancel requested")
    with pytest.raises(NotLive):
        await partitions.note("p1", text="idle")
    assert not jobs._locks
    assert not partitions._locks


async def test_who_drains_a_site_wakes_those_who_look_after_its_partitions() -> None:
    store: Any = None
    partitions = LivePartitions(store)
    for name, site in (("p1", "cloud"), ("p2", "lab")):
        spec = PartitionSpec("small", node_count=1)
        partitions.add(Partition(name, site, "ann", spec, "f", PartitionState.READY, 1.0))
    slots = [partitions.slot(name) for name in ("p1", "p2")]
    before = [slot.version for slot in slots if slot]

    async def set_drained(site: str, *, drained: bool) -> None:
        assert (site, drained) == ("cloud", True)

    gate: Any = SimpleNamespace(name="cloud", drained=False, on_change=lambda: None)
    context: Any = SimpleNamespace(
        gates={"cloud": gate},
        store=SimpleNamespace(sites=SimpleNamespace(set_drained=set_drained)),
        partitions=partitions,
    )
    lifecycle: Any = None
    request = admin_pb2.DrainSiteRequest(site="cloud", drained=True)
    await SiteAdministration(context, lifecycle).drain(request)
    assert gate.drained
    assert [slot.version for slot in slots if slot] == [before[0] + 1, before[1]]
