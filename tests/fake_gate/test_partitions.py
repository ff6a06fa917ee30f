"""Partitions: made once, gone for good, and everything that happens to them in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from skyport.gate.v1 import inventory_pb2, job_pb2, partition_pb2, types_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import (
    INSTALLATION,
    ORIGIN,
    STATIC,
    WITHIN_S,
    Gate,
    eventually,
    fingerprint,
    make_ref,
    problem,
    processes_of,
    refused,
    start_request,
)

_DYNAMIC: dict[str, Any] = {
    "dynamic": {
        "boot_s": 0.05,
        "quota_nodes": 5,
        "flavors": [
            {
                "name": "small",
                "location": "north",
                "cpus": 2,
                "memory": "4G",
                "gpus": 1,
                "price": "1.75",
                "spot_price": "0.5",
                "as_of": "2026-01-31T12:00:00Z",
            },
            {"name": "rare", "location": "north", "capacity": 1},
        ],
    },
    "images": [{"name": "ubuntu"}],
}
_CREATING, _READY, _STOPPED, _FAILED, _DELETING = range(1, 6)


@pytest.fixture
async def gate(make_gate: MakeGate) -> Gate:
    return await make_gate(**_DYNAMIC)


def create_request(
    partition_id: str = "p-1", *, expires_s: float = 3_600, **spec: Any
) -> partition_pb2.CreatePartitionRequest:
    given = {"flavor": "small", "location": "north", "node_count": 1, **spec}
    request = partition_pb2.CreatePartitionRequest(
        partition_id=partition_id,
        spec_fingerprint=fingerprint(sorted(given.items(), key=str)),
        spec=partition_pb2.PartitionSpec(**given),
        origin=ORIGIN,
        owner="ann",
    )
    request.expire_time.FromNanoseconds(time.time_ns() + round(expires_s * 1e9))
    return request


def _get(gate: Gate, partition_id: str = "p-1") -> Any:
    return gate.partitions.GetPartition(
        partition_pb2.GetPartitionRequest(partition_id=partition_id)
    )


def _delete(gate: Gate, partition_id: str = "p-1", installation: str = INSTALLATION) -> Any:
    return gate.partitions.DeletePartition(
        partition_pb2.DeletePartitionRequest(partition_id=partition_id, installation=installation)
    )


async def _until(
    gate: Gate, check: Callable[[partition_pb2.PartitionEvent], object]
) -> partition_pb2.PartitionEvent:
    """The first event of a watch for which `check` holds."""
    call = gate.partitions.WatchPartitions(partition_pb2.WatchPartitionsRequest())
    try:
        async with asyncio.timeout(WITHIN_S):
            async for answer in call:
                event: partition_pb2.PartitionEvent
                for event in answer.events:
                    if check(event):
                        return event
    finally:
        call.cancel()
    raise AssertionError("the watch ended")


async def _state(gate: Gate, state: int, partition_id: str = "p-1") -> partition_pb2.Partition:
    def check(event: partition_pb2.PartitionEvent) -> bool:
        told = event.partition
        return told.partition_id == partition_id and told.state == state

    return (await _until(gate, check)).partition


async def _gone(gate: Gate, partition_id: str = "p-1") -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await _get(gate, partition_id)
            except grpc.aio.AioRpcError:
                await refused(_get(gate, partition_id), "PARTITION_NOT_FOUND")
                return
            await asyncio.sleep(0.01)


async def _job(gate: Gate, script: str = "sleep 60") -> types_pb2.JobRef:
    ref = make_ref("job-1", "p-1-1", partition="p-1")
    await gate.start_job(script, ref)
    await gate.running(ref)
    return ref


async def test_a_partition_boots_runs_a_job_and_leaves_nothing_but_a_tombstone(gate: Gate) -> None:
    answer = await gate.partitions.CreatePartition(create_request(node_count=2))
    assert answer.partition.state in {_CREATING, _READY}
    ready = await _state(gate, _READY)
    assert [node.name for node in ready.nodes] == ["p-1-1", "p-1-2"]
    assert (ready.nodes[0].cpus, ready.nodes[0].memory_bytes) == (2, 4 << 30)
    assert ready.nodes[0].gpu_ids == ["0"]
    assert (ready.owner, ready.origin) == ("ann", ORIGIN)
    assert (ready.price.amount.units, ready.price.amount.nanos) == (1, 750_000_000)
    assert ready.price.as_of.ToJsonString() == "2026-01-31T12:00:00Z"
    ref = await _job(gate)
    await _delete(gate)
    await _gone(gate)
    assert not processes_of(ref)
    left = list(gate.site.rglob("*p-1*"))
    assert [(path.parent.name, path.stat().st_size) for path in left] == [("gone_partitions", 0)]
    await refused(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)), "PARTITION_NOT_FOUND")


async def test_the_same_create_again_makes_one_partition(gate: Gate) -> None:
    request = create_request()
    answers = await asyncio.gather(*(gate.partitions.CreatePartition(request) for _ in range(4)))
    assert len({answer.partition.create_time.ToNanoseconds() for answer in answers}) == 1
    await _state(gate, _READY)
    again = await gate.partitions.CreatePartition(request)
    assert again.partition.state == _READY
    later = create_request(expires_s=7_200)
    assert (await gate.partitions.CreatePartition(later)).partition.expire_time == later.expire_time
    # The later of the two holds.
    kept = await gate.partitions.CreatePartition(request)
    assert kept.partition.expire_time == later.expire_time


async def test_a_caller_with_a_deadline_makes_one_partition(gate: Gate) -> None:
    gate.faults({"kind": "delay", "method": "CreatePartition", "when": "inside", "seconds": 2.0})
    request = create_request()
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await gate.partitions.CreatePartition(request, timeout=0.2)
    await _state(gate, _READY)


async def test_another_fingerprint_or_a_site_s_own_id_differs(make_gate: MakeGate) -> None:
    gate = await make_gate(**_DYNAMIC, **STATIC)
    await gate.partitions.CreatePartition(create_request())
    other = create_request(node_count=2)
    await refused(
        gate.partitions.CreatePartition(other),
        "PARTITION_DIFFERS",
        grpc.StatusCode.ALREADY_EXISTS,
    )
    await refused(gate.partitions.CreatePartition(create_request("local")), "PARTITION_DIFFERS")
    await refused(_delete(gate, "local"), "NOT_YOURS")
    renew = partition_pb2.RenewPartitionRequest(partition_id="local")
    renew.expire_time.CopyFrom(create_request().expire_time)
    await refused(gate.partitions.RenewPartition(renew), "NOT_YOURS")


async def test_nothing_is_made_after_a_delete(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request())
    await _delete(gate)
    await _gone(gate)
    await refused(_delete(gate), "PARTITION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    await refused(
        gate.partitions.CreatePartition(create_request()),
        "PARTITION_DELETED",
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    # A create that was on its way when the delete came.
    await refused(_delete(gate, "late"), "PARTITION_NOT_FOUND")
    await refused(gate.partitions.CreatePartition(create_request("late")), "PARTITION_DELETED")


async def test_a_partition_of_another_installation_is_left_alone(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request())
    await refused(_delete(gate, installation="other"), "NOT_YOURS")
    listed = await gate.partitions.ListPartitions(
        partition_pb2.ListPartitionsRequest(installation="other")
    )
    assert not listed.partitions
    every = await gate.partitions.ListPartitions(partition_pb2.ListPartitionsRequest())
    assert [partition.partition_id for partition in every.partitions] == ["p-1"]


async def test_delete_stops_a_boot(gate: Gate) -> None:
    gate.faults({"kind": "boot_never"})
    await gate.partitions.CreatePartition(create_request())
    assert (await _get(gate)).partition.state == _CREATING
    await _delete(gate)
    await _gone(gate)


async def test_delete_does_not_wait_for_a_create_that_hangs(gate: Gate) -> None:
    gate.faults({"kind": "never", "method": "CreatePartition", "when": "inside"})
    create = asyncio.create_task(problem(gate.partitions.CreatePartition(create_request())))
    await _state(gate, _CREATING)
    await _delete(gate)
    assert (await create).reason == "PARTITION_DELETED"
    await _gone(gate)


async def test_a_boot_goes_on_when_the_core_asks_a_new_gate_again(gate: Gate) -> None:
    gate.faults({"kind": "die", "method": "CreatePartition", "when": "inside", "times": 1})
    request = create_request()
    assert (await problem(gate.partitions.CreatePartition(request))).reason is None
    await gate.died()
    await gate.start()
    # Only the core knows whether it still wants it.
    assert (await _get(gate)).partition.state == _CREATING
    await gate.partitions.CreatePartition(request)
    await _state(gate, _READY)


async def test_a_deletion_goes_on_after_a_restart(make_gate: MakeGate) -> None:
    gate = await make_gate(dynamic={**_DYNAMIC["dynamic"], "delete_s": 1.5})
    await gate.partitions.CreatePartition(create_request())
    await _state(gate, _READY)
    await _delete(gate)
    await _delete(gate)
    assert (await _get(gate)).partition.state == _DELETING
    await gate.restart()
    await _gone(gate)


async def test_a_failed_boot_keeps_the_tagged_object_with_its_reason(gate: Gate) -> None:
    gate.faults(
        {"kind": "boot_fails", "reason": "CAPACITY", "message": "none left", "retryable": True}
    )
    request = create_request()
    await gate.partitions.CreatePartition(request)
    failed = await _state(gate, _FAILED)
    assert (failed.failure.reason, failed.failure.retryable) == ("CAPACITY", True)
    assert failed.failure.message == "none left"
    assert not failed.nodes
    await gate.restart()
    assert (await gate.partitions.CreatePartition(request)).partition.failure == failed.failure
    await _delete(gate)
    await _gone(gate)


async def test_what_the_site_does_not_have_is_refused_early(gate: Gate) -> None:
    create = gate.partitions.CreatePartition
    not_found = grpc.StatusCode.NOT_FOUND
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    await refused(create(create_request(flavor="no")), "FLAVOR_NOT_FOUND", not_found)
    await refused(create(create_request(location="south")), "FLAVOR_NOT_FOUND", not_found)
    await refused(create(create_request(image="no")), "IMAGE_NOT_FOUND", not_found)
    await refused(create(create_request(flavor="rare", node_count=2)), "CAPACITY", exhausted)
    await refused(create(create_request(node_count=6)), "QUOTA", exhausted)
    await refused(create(create_request(expires_s=-1)), "FIELD_OUT_OF_RANGE")
    await refused(create(create_request(expires_s=8 * 86_400)), "FIELD_OUT_OF_RANGE")
    await refused(create(create_request(site_options={"x": "y"})), "FIELD_MALFORMED")
    await refused(create(create_request(storage=["scratch"])), "CAPABILITY_MISSING")
    await refused(create(create_request("UPPER")), "FIELD_MALFORMED")
    await refused(create(create_request(node_count=0)), "FIELD_REQUIRED")
    other_scope = create_request()
    other_scope.scope_uid = "another"
    await refused(create(other_scope), "SITE_CHANGED")
    assert list(gate.site.glob("partitions/*")) == []


async def test_quota_comes_back_with_a_delete(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request(node_count=5))
    await refused(gate.partitions.CreatePartition(create_request("p-2")), "QUOTA")
    await _delete(gate)
    await _gone(gate)
    await gate.partitions.CreatePartition(create_request("p-2"))


async def test_a_spot_partition_has_the_spot_price(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request(spot=True))
    ready = await _state(gate, _READY)
    assert (ready.price.amount.units, ready.price.amount.nanos) == (0, 500_000_000)


async def test_expiry_deletes_unless_renewed(gate: Gate) -> None:
    deleted = asyncio.create_task(_until(gate, lambda event: event.deleted_partition_id == "p-1"))
    # The one that is renewed would expire first.
    await gate.partitions.CreatePartition(create_request("p-2", expires_s=1.5))
    await gate.partitions.CreatePartition(create_request(expires_s=2))
    renew = partition_pb2.RenewPartitionRequest(partition_id="p-2")
    renew.expire_time.CopyFrom(create_request().expire_time)
    renewed = await gate.partitions.RenewPartition(renew)
    assert renewed.partition.expire_time == renew.expire_time
    await deleted
    assert (await _get(gate, "p-2")).partition.state in {_CREATING, _READY}
    past = partition_pb2.RenewPartitionRequest(partition_id="p-2")
    past.expire_time.FromSeconds(1)
    await refused(gate.partitions.RenewPartition(past), "FIELD_OUT_OF_RANGE")
    gone = partition_pb2.RenewPartitionRequest(partition_id="p-1")
    gone.expire_time.CopyFrom(renew.expire_time)
    await refused(gate.partitions.RenewPartition(gone), "PARTITION_NOT_FOUND")


async def test_an_expiry_fires_although_no_gate_was_there_at_its_time(gate: Gate) -> None:
    request = create_request(expires_s=1)
    await gate.partitions.CreatePartition(request)
    gate.kill()
    expires = request.expire_time.ToNanoseconds()
    await eventually(lambda: time.time_ns() > expires, "its time has come")
    await gate.start()
    await _gone(gate)


async def test_expiry_that_deallocates_stops_jobs_and_a_create_starts_the_nodes_again(
    make_gate: MakeGate,
) -> None:
    gate = await make_gate(dynamic={**_DYNAMIC["dynamic"], "expiry": "deallocate"})
    await gate.partitions.CreatePartition(create_request(expires_s=5))
    await _state(gate, _READY)
    ref = await _job(gate)
    await _state(gate, _STOPPED)
    end = await gate.ended(ref)
    assert end.failure.reason == "NODE_FAIL", end
    assert not processes_of(ref)
    renew = partition_pb2.RenewPartitionRequest(partition_id="p-1")
    renew.expire_time.CopyFrom(create_request().expire_time)
    await refused(gate.partitions.RenewPartition(renew), "PARTITION_NOT_READY")
    late = make_ref("job-2", "p-1-1", partition="p-1")
    await refused(gate.stage(late), "PARTITION_NOT_READY")
    await gate.partitions.CreatePartition(create_request())
    await _state(gate, _READY)
    await gate.start_job("true", late)
    assert (await gate.ended(late)).exit_code == 0


async def test_jobs_wait_until_the_partition_is_ready(gate: Gate) -> None:
    gate.faults({"kind": "boot_never"})
    await gate.partitions.CreatePartition(create_request())
    ref = make_ref("job-1", "p-1-1", partition="p-1")
    await refused(gate.stage(ref), "PARTITION_NOT_READY", grpc.StatusCode.FAILED_PRECONDITION)
    nowhere = make_ref("job-1", "x-1", partition="x")
    await refused(gate.stage(nowhere), "PARTITION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_a_lost_node_ends_its_jobs_and_says_why(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request(node_count=2))
    await _state(gate, _READY)
    ref = await _job(gate)
    gate.faults(lost={"p-1-1": "PREEMPTED"})
    event = await _until(
        gate,
        lambda event: any(
            node.state == inventory_pb2.NODE_STATE_LOST for node in event.partition.nodes
        ),
    )
    assert event.partition.state == _READY
    assert event.partition.nodes[0].failure.reason == "PREEMPTED"
    assert (await gate.ended(ref)).failure.reason == "PREEMPTED"
    # What is lost stays lost.
    gate.faults()
    await gate.restart()
    nodes = (await _get(gate)).partition.nodes
    assert [node.state for node in nodes] == [
        inventory_pb2.NODE_STATE_LOST, inventory_pb2.NODE_STATE_UP
    ]  # fmt: skip
    gate.faults(lost={"p-1-2": "PREEMPTED"})
    assert (await _state(gate, _FAILED)).failure.reason == "PREEMPTED"


async def test_a_watch_tells_all_then_a_boundary_then_changes(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request())
    await _state(gate, _READY)
    call = gate.partitions.WatchPartitions(
        partition_pb2.WatchPartitionsRequest(installation=INSTALLATION)
    )
    kinds = []
    async with asyncio.timeout(WITHIN_S):
        async for answer in call:
            for event in answer.events:
                kinds.append(event.WhichOneof("event"))
                if kinds[-1] == "snapshot_end":
                    await _delete(gate)
            if "deleted_partition_id" in kinds:
                break
    call.cancel()
    assert kinds[:2] == ["partition", "snapshot_end"]
    assert kinds[-1] == "deleted_partition_id"


async def test_the_inventory_tells_flavors_images_and_nodes(make_gate: MakeGate) -> None:
    gate = await make_gate(**_DYNAMIC, **STATIC)
    await gate.partitions.CreatePartition(create_request())
    await _state(gate, _READY)
    flavors = (await gate.inventory.ListFlavors(inventory_pb2.ListFlavorsRequest())).flavors
    assert [flavor.name for flavor in flavors] == ["rare", "small"]
    assert flavors[1].on_demand_price.amount.units == 1
    assert flavors[1].spot_price.amount.nanos == 500_000_000
    assert not flavors[0].HasField("on_demand_price")
    images = (await gate.inventory.ListImages(inventory_pb2.ListImagesRequest())).images
    assert [image.name for image in images] == ["ubuntu"]
    names = []
    request = inventory_pb2.ListNodesRequest(page_size=1)
    while True:
        answer = await gate.inventory.ListNodes(request)
        names += [(node.partition_id, node.name) for node in answer.nodes]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert names == [("local", "n1"), ("local", "n2"), ("p-1", "p-1-1")]
    nowhere = inventory_pb2.ListNodesRequest(partition_id="nowhere")
    await refused(gate.inventory.ListNodes(nowhere), "PARTITION_NOT_FOUND")
    other_location = inventory_pb2.ListFlavorsRequest(location="south")
    assert not (await gate.inventory.ListFlavors(other_location)).flavors


async def test_a_start_that_reaches_a_ready_partition_runs_there(gate: Gate) -> None:
    await gate.partitions.CreatePartition(create_request())
    await _state(gate, _READY)
    ref = make_ref("job-1", "p-1-1", partition="p-1")
    await gate.stage(ref)
    request = start_request(ref, 'echo "$SWM_GPUS"')
    request.allocations[0].gpu_ids.append("0")
    await gate.jobs.StartJob(request)
    assert await gate.output(ref) == b"0\n"
