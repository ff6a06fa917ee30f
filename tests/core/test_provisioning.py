"""Jobs and the partitions that are made for them, where one comes without the other."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from skyport.gate.v1 import inventory_pb2, partition_pb2
from skyport.gate.v1.inventory_pb2 import (
    NODE_STATE_DOWN,
    NODE_STATE_DRAINED,
    NODE_STATE_STARTING,
    NODE_STATE_UP,
)
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.partition import Partition, PartitionSpec
from swm_core.domain.states import JobState, PartitionState
from swm_core.gateways.inventory import Inventory
from swm_core.gateways.slots import Slot
from swm_core.lifecycle import provisioning
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.live import LivePartitions, NotLive
from swm_core.lifecycle.placement import Placement
from swm_core.scheduler import Create, Place


def partition(state: PartitionState) -> Partition:
    spec = PartitionSpec(flavor="small", node_count=1)
    return Partition("p1", "cloud", "ann", spec, "f", state, 1.0, job_id="j1")


async def test_a_partition_is_taken_when_its_gate_tells_of_it_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provisioning, "_LOOK_S", 0.01)
    monkeypatch.setattr(provisioning, "own_partition", lambda *_: None)
    monkeypatch.setattr(provisioning, "allocate", lambda *_: ("n1",))
    placed = asyncio.Event()

    async def apply(*_: object) -> None:
        placed.set()

    slot: Slot[Partition] = Slot()
    slot.put(partition(PartitionState.READY))
    context: Any = SimpleNamespace(
        partitions=SimpleNamespace(slot=lambda _: slot), jobs=SimpleNamespace(apply=apply)
    )
    gate: Any = SimpleNamespace(ready=True, inventory=SimpleNamespace(partitions={}))
    job = Job("j1", "ann", JobSpec(), "", JobState.PROVISIONING, 1.0, 1.0, partition_id="p1")
    waiting = asyncio.create_task(provisioning.await_partition(context, gate, job))
    await asyncio.sleep(0.05)
    assert not placed.is_set()
    gate.inventory.partitions["p1"] = True
    async with asyncio.timeout(20):
        await waiting
    assert placed.is_set()


@pytest.mark.parametrize("state", [NODE_STATE_DOWN, NODE_STATE_STARTING, NODE_STATE_DRAINED])
async def test_nodes_that_a_new_gate_has_yet_to_reach_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, state: inventory_pb2.NodeState.ValueType
) -> None:
    monkeypatch.setattr(provisioning, "_LOOK_S", 0.01)
    placed = asyncio.Event()

    async def apply(*_: object) -> None:
        placed.set()

    slot: Slot[Partition] = Slot()
    slot.put(partition(PartitionState.READY))
    context: Any = SimpleNamespace(
        partitions=SimpleNamespace(slot=lambda _: slot), jobs=SimpleNamespace(apply=apply)
    )
    inventory = Inventory()
    node = inventory_pb2.Node(name="n0", partition_id="p1", state=state, cpus=1)
    inventory.put_partition(partition_pb2.Partition(partition_id="p1", nodes=[node]))
    gate: Any = SimpleNamespace(ready=True, name="cloud", inventory=inventory)
    job = Job("j1", "ann", JobSpec(), "", JobState.PROVISIONING, 1.0, 1.0, partition_id="p1")
    waiting = asyncio.create_task(provisioning.await_partition(context, gate, job))
    await asyncio.sleep(0.05)
    if state == NODE_STATE_DRAINED:
        with pytest.raises(AttemptFailed, match="without what the job asked for"):
            await waiting
        return
    assert not waiting.done()
    up = inventory_pb2.Node(name="n0", partition_id="p1", state=NODE_STATE_UP, cpus=1)
    inventory.put_node(up)
    async with asyncio.timeout(20):
        await waiting
    assert placed.is_set()


async def test_who_makes_a_partition_hears_that_its_job_is_gone() -> None:
    store: Any = SimpleNamespace()
    partitions = LivePartitions(store)
    versions = []

    def made(partition: Partition) -> None:
        partitions.add(partition)
        slot = partitions.slot(partition.partition_id)
        assert slot is not None
        versions.append(slot.version)

    async def insert(partition: Partition) -> Partition:
        return partition

    async def apply(job_id: str, decide: object) -> None:
        raise NotLive(f"job {job_id} has ended")

    job = Job("j1", "ann", JobSpec(), "", JobState.QUEUED, 1.0, 1.0)
    context: Any = SimpleNamespace(
        clock=lambda: 1.0,
        gates={"cloud": SimpleNamespace(info=None)},
        jobs=SimpleNamespace(get=lambda _: job, apply=apply),
        partitions=partitions,
        store=SimpleNamespace(partitions=SimpleNamespace(insert=insert)),
    )
    nobody: Any = None
    placement = Placement(context, made, nobody, nobody)
    await placement._commit(Create("j1", "cloud", "", "small", 1, None, "", 0))
    (live,) = partitions
    slot = partitions.slot(live.partition_id)
    assert slot is not None
    assert slot.version > versions[0]
    assert not placement.is_placing_on("j1", live.partition_id)


async def test_a_partition_that_is_given_back_is_not_claimed_by_who_was_there_before() -> None:
    going = dataclasses.replace(
        partition(PartitionState.DELETING), pooled=True, served=("j2",), job_id="j1"
    )

    async def apply(partition_id: str, decide: Callable[[Partition], Partition]) -> Partition:
        return decide(going)

    job = Job("j2", "ann", JobSpec(), "", JobState.QUEUED, 1.0, 1.0, attempt=1)
    context: Any = SimpleNamespace(
        clock=lambda: 1.0,
        jobs=SimpleNamespace(get=lambda _: job),
        partitions=SimpleNamespace(get=lambda _: going, apply=apply),
    )
    nobody: Any = None
    placement = Placement(context, nobody, nobody, nobody)
    assert not await placement._claim(Place("j2", "cloud", "p1", ()))
