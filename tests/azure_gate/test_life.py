"""From nothing to nodes that are up and back to nothing, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

import grpc
import pytest

from gates.azure_gate import config as configuration
from gates.azure_gate.sdk import Sdk
from rpc_kit import private_files
from rpc_kit.errors import Problem
from skyport.gate.v1 import inventory_pb2, job_pb2, partition_pb2, types_pb2
from tests.azure_gate.conftest import MakeGate
from tests.azure_gate.harness import (
    DELETING,
    FAILED,
    READY,
    STOPPED,
    WITHIN_S,
    Gate,
    group_of,
    new_id,
    refused,
    until_called,
)
from tests.fake_gate.harness import INSTALLATION, make_ref
from tests.testbed.azure_arm import faults
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.azure_arm.faults import (
    GROUP,
    NSG,
    OPERATION,
    SCHEDULE,
    VM,
    VNET,
    Fault,
    GuestFault,
)

UP = inventory_pb2.NODE_STATE_UP
LOST = inventory_pb2.NODE_STATE_LOST


def machines(arm: AzureArm) -> int:
    """How many there have ever been."""
    return sum(entry.kind == "vm" for entry in arm.books().entries)


async def test_nodes_come_run_a_job_and_go_and_leave_nothing(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    made = await gate.create(name, nodes=2)
    assert made.partition_id == name
    ready = await gate.until_state(name, READY)
    assert [node.name for node in ready.nodes] == ["n0", "n1"]
    assert {node.state for node in ready.nodes} == {UP}
    assert ready.price.amount.nanos == 120_000_000
    # Only the first has an address outside.
    assert [len(node.addresses) for node in ready.nodes] == [2, 1]
    ref = make_ref("job-1", "n0", "n1", partition=name)
    ref, _ = await gate.start_job("hostname; [ $SWM_NUM_NODES = 2 ]\n", ref)
    end = await gate.ended(ref)
    assert end.exit_code == 0
    # A gate that knows nothing finds all of it.
    await gate.restart()
    assert (await gate.until_partition(name, lambda it: it.nodes[1].state == UP)).state == READY
    assert (await gate.status(ref)).end.exit_code == 0
    again = await gate.create(name, nodes=2)
    assert again.state == READY
    assert (await refused(gate.create(name, nodes=3))).reason == "PARTITION_DIFFERS"
    assert machines(azure_arm) == 2
    await gate.delete_for_good(name)
    assert (await refused(gate.create(name, nodes=2))).reason == "PARTITION_DELETED"
    assert (await refused(gate.get(name))).reason == "PARTITION_NOT_FOUND"
    assert (await refused(gate.status(ref))).reason == "PARTITION_NOT_FOUND"


@pytest.mark.parametrize("kind", [GROUP, NSG, VNET, VM, SCHEDULE])
async def test_a_gate_killed_at_a_call_goes_on_with_what_there_is(
    gate: Gate, azure_arm: AzureArm, kind: str
) -> None:
    # The effect comes, and the gate that asked for it does not live to hear of it.
    azure_arm.faults.add(Fault("PUT", kind, does="slow", delay_s=0.2))
    since = len(azure_arm.calls())
    name = new_id()
    asked = asyncio.ensure_future(gate.create(name, nodes=2))
    await until_called(azure_arm, "PUT", kind, since)
    await gate.restart()
    await asyncio.gather(asked, return_exceptions=True)
    await gate.create(name, nodes=2)
    await gate.until_state(name, READY)
    assert machines(azure_arm) == 2
    await gate.delete_for_good(name)


@pytest.mark.parametrize("kind", [GROUP, OPERATION, VM])
async def test_a_gate_killed_while_it_looks_goes_on_with_what_there_is(
    gate: Gate, azure_arm: AzureArm, kind: str
) -> None:
    # At lists, at single objects and at operations: whichever of a kind it asks for first. What
    # machines have is listed beside them.
    azure_arm.set(boot_s=0.2, delete_s=0.5)
    try:
        name = new_id()

        async def killed(asked: Awaitable[object]) -> None:
            number = azure_arm.faults.add(Fault("GET", kind, does="slow", delay_s=0.2, times=0))
            since = len(azure_arm.calls())
            task = asyncio.ensure_future(asked)
            await until_called(azure_arm, "GET", kind, since)
            gate.kill()
            azure_arm.faults.remove(number)
            await asyncio.gather(task, return_exceptions=True)
            await gate.restart()

        await killed(gate.create(name, nodes=2))
        await gate.create(name, nodes=2)
        await gate.until_state(name, READY)
        assert machines(azure_arm) == 2
        if kind == OPERATION:  # that of a deletion is not followed
            await gate.delete(name)
            await gate.restart()
        else:
            await killed(gate.delete(name))
        await gate.delete_for_good(name)
    finally:
        azure_arm.set(boot_s=0.0, delete_s=0.05)
    azure_arm.books().require_nothing_left()


@pytest.mark.parametrize("kind", [GROUP, NSG, VM, SCHEDULE])
async def test_a_delete_ends_a_create_under_way(gate: Gate, azure_arm: AzureArm, kind: str) -> None:
    azure_arm.faults.add(Fault("PUT", kind, does="slow", delay_s=1.0))
    since = len(azure_arm.calls())
    name = new_id()
    asked = asyncio.ensure_future(gate.create(name, nodes=2))
    if kind == GROUP:
        await asyncio.sleep(0.3)  # it has been sent, or not: both have to do
    else:
        await until_called(azure_arm, "PUT", NSG if kind == NSG else kind, since)
    await gate.delete_for_good(name)
    await asyncio.gather(asked, return_exceptions=True)
    assert (await refused(gate.create(name, nodes=2))).reason == "PARTITION_DELETED"


async def test_a_delete_does_not_wait_for_what_is_being_removed(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    azure_arm.faults.add(GuestFault("never boots"))
    azure_arm.faults.add(faults.error("SkuNotAvailable", "PUT", VM, name="n1", times=0))
    azure_arm.set(delete_s=2 * WITHIN_S)
    try:
        since = len(azure_arm.calls())
        await gate.create(name, nodes=2)
        await until_called(azure_arm, "DELETE", VM, since)
        azure_arm.set(delete_s=0.05)
        # Nor do others: they are told how it is.
        assert "removing" in (await gate.create(name, nodes=2)).text
        await gate.delete(name)
        await gate.delete_for_good(name)
    finally:
        azure_arm.set(delete_s=0.05)


async def test_a_delete_waits_for_a_group_that_is_on_its_way(
    gate: Gate, azure_arm: AzureArm
) -> None:
    number = azure_arm.faults.add(Fault("PUT", GROUP, does="slow", delay_s=1.0))
    name = new_id()
    asked = asyncio.ensure_future(gate.create(name))
    async with asyncio.timeout(WITHIN_S):
        while not await asyncio.to_thread(azure_arm.faults.hits, number):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    # Not "there is no such partition": it is about to be there.
    await gate.delete(name)
    await asyncio.gather(asked, return_exceptions=True)
    await gate.delete_for_good(name)


async def test_a_deletion_goes_on_without_the_gate_that_began_it(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    azure_arm.faults.add(GuestFault("never boots"))
    await gate.create(name)
    azure_arm.set(delete_s=2.0)
    try:
        await gate.delete(name)
        await gate.restart()
        # It may be gone by now; if not, nobody takes it for one that is there.
        with contextlib.suppress(grpc.aio.AioRpcError):
            assert (await gate.get(name)).state == DELETING
        await gate.delete_for_good(name)
    finally:
        azure_arm.set(delete_s=0.05)


async def test_what_another_installation_has_is_left_alone(gate: Gate) -> None:
    name = new_id()
    await gate.create(name)
    other = partition_pb2.DeletePartitionRequest(partition_id=name, installation="another")
    assert (await refused(gate.partitions.DeletePartition(other))).reason == "NOT_YOURS"
    await gate.delete_for_good(name)
    never = await refused(gate.delete(new_id()))
    assert never.reason == "PARTITION_NOT_FOUND"


async def test_what_can_not_be_read_is_there_all_the_same(gate: Gate) -> None:
    name = new_id()
    await gate.create(name)
    gate.kill()
    # Somebody has been at its tags.
    sdk = Sdk(configuration.load(gate.folder / "gate.toml"))
    try:
        left = {"tags": {"swm-installation": INSTALLATION}}
        await sdk.call("damage", lambda: sdk.resources.resource_groups.update(group_of(name), left))
    finally:
        await sdk.close()
    await gate.restart()
    assert (await refused(gate.get(name))).reason == "NOT_YOURS"
    assert (await refused(gate.create(name))).reason == "NOT_YOURS"
    await gate.delete_for_good(name)


async def test_a_machine_that_is_asked_for_once_more_is_the_same_to_the_letter(
    make_gate: MakeGate, azure_arm: AzureArm, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    private_files.write_new(key, base64.b64encode(b"k" * 64))
    data = {"account": "acct", "container": "blobs", "key_file": str(key)}
    gate = await make_gate(storage={"data": data})
    azure_arm.faults.add(faults.failed_operation("AllocationFailed"))
    azure_arm.set(allocate_s=1.5)
    try:
        name = new_id()
        since = len(azure_arm.calls())
        await gate.create(name, storage=["data"])
        await until_called(azure_arm, "PUT", VM, since)
        # It is gone when that fails, so nobody has written why; and the pass would be another.
        gate.kill()
        await asyncio.sleep(1.5)  # as long as that takes: it is told to nobody
        azure_arm.set(allocate_s=0.05)
        await gate.restart()
        azure_arm.clock.advance(200)
        await gate.create(name, storage=["data"])
        await gate.until_state(name, READY)
    finally:
        azure_arm.set(allocate_s=0.05)
    await gate.delete_for_good(name)


async def test_what_exists_is_asked_for_again_also_when_there_is_no_more_of_it(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name)
    gate.config["vm_sizes"] = ["Standard_E*"]
    # It is asked before the gate has looked at anything.
    number = azure_arm.faults.add(Fault("GET", GROUP, name="", does="slow", delay_s=5.0, times=0))
    try:
        await gate.restart()
        await gate.create(name)
        assert (await refused(gate.create(new_id()))).reason == "FLAVOR_NOT_FOUND"
    finally:
        azure_arm.faults.remove(number)
    await gate.delete_for_good(name)


async def test_no_more_partitions_than_configured_though_all_are_asked_for_at_once(
    make_gate: MakeGate,
) -> None:
    gate = await make_gate(max_partitions=2)
    names = [new_id() for _ in range(5)]
    told = await asyncio.gather(*map(gate.create, names), return_exceptions=True)
    refusals = [one for one in told if isinstance(one, grpc.aio.AioRpcError)]
    assert {Problem.from_error(one).reason for one in refusals} == {"QUOTA"}
    assert len(refusals) == 3
    await gate.restart()  # also by who begins anew
    assert (await refused(gate.create(new_id()))).reason == "QUOTA"
    for name, one in zip(names, told, strict=True):
        if not isinstance(one, BaseException):
            await gate.delete_for_good(name)


async def test_a_node_that_is_taken_away_is_lost_and_the_last_fails_all(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name, nodes=2, spot=True)
    await gate.until_state(name, READY)
    ref = make_ref("job-1", "n1", partition=name)
    ref, _ = await gate.start_job("sleep 600\n", ref)
    await gate.running(ref)
    azure_arm.evict(f"{group_of(name)}/n1")
    told = await gate.until_partition(name, lambda it: it.nodes[1].state == LOST)
    assert told.state == READY
    assert told.nodes[1].failure.reason == "PREEMPTED"
    end = (await gate.status(ref)).end
    assert end.failure.reason == "PREEMPTED"
    assert end.HasField("start_time")
    azure_arm.evict(f"{group_of(name)}/n0")
    told = await gate.until_partition(name, lambda it: it.state == FAILED)
    assert told.failure.reason == "PREEMPTED"
    assert not azure_arm.books().live
    await gate.delete_for_good(name)


async def test_with_the_first_node_all_are_lost_for_it_is_the_way_to_them(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name, nodes=3, spot=True)
    await gate.until_state(name, READY)
    both, _ = await gate.start_job("sleep 600\n", make_ref("job-1", "n0", "n1", partition=name))
    other, _ = await gate.start_job("sleep 600\n", make_ref("job-2", "n2", partition=name))
    run = [asyncio.Event(), asyncio.Event()]

    async def end_of(ref: types_pb2.JobRef, runs: asyncio.Event) -> job_pb2.JobEnd:
        def check(status: job_pb2.JobStatus) -> bool:
            if status.state == job_pb2.JOB_STATE_RUNNING:
                runs.set()  # from here on it is watched
            return status.HasField("end")

        return (await gate.until(ref, check)).end

    told = [asyncio.ensure_future(end_of(*one)) for one in zip((both, other), run, strict=True)]
    for runs in run:
        await asyncio.wait_for(runs.wait(), WITHIN_S)
    azure_arm.evict(f"{group_of(name)}/n0")
    failed = await gate.until_partition(name, lambda it: it.state == FAILED)
    assert failed.failure.reason == "PREEMPTED"
    assert "n0, by which the others are reached" in failed.failure.message
    assert not azure_arm.books().live
    for end in await asyncio.wait_for(asyncio.gather(*told), WITHIN_S):
        assert {node.failure.reason for node in end.nodes} == {"PREEMPTED"}
        assert end.HasField("start_time")
    # A gate that comes later says the same.
    await gate.restart()
    assert (await gate.get(name)).failure.reason == "PREEMPTED"
    await gate.delete_for_good(name)


async def test_the_rules_follow_the_address_that_we_come_from(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name)
    await gate.until_state(name, READY)
    azure_arm.move_egress()
    since = len(azure_arm.calls())
    await until_called(azure_arm, "PUT", NSG, since)
    await gate.until_partition(name, lambda it: it.nodes[0].state == UP)
    await gate.delete_for_good(name)


async def test_an_expiry_deallocates_and_a_create_starts_again(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name, expires_in_s=600.0)
    ready = await gate.until_state(name, READY)
    before_s = ready.expire_time.seconds
    renew = partition_pb2.RenewPartitionRequest(partition_id=name)
    renew.expire_time.FromSeconds(int(time.time()) + 7_200)
    renewed = (await gate.partitions.RenewPartition(renew)).partition
    assert renewed.expire_time.seconds > before_s
    azure_arm.clock.advance(1_200)
    assert (await gate.get(name)).state == READY
    azure_arm.clock.advance(6_600)
    await gate.until_state(name, STOPPED)
    assert (await refused(gate.partitions.RenewPartition(renew))).reason == "PARTITION_NOT_READY"
    await gate.create(name, expires_in_s=3_600.0)
    await gate.until_state(name, READY)
    assert machines(azure_arm) == 1
    await gate.delete_for_good(name)


async def test_machines_end_by_themselves_from_when_they_cost_though_nobody_sees_them_made(
    gate: Gate, azure_arm: AzureArm
) -> None:
    # The lid is closed while they boot, and nobody comes back.
    azure_arm.faults.add(GuestFault("never boots", times=0))
    name = new_id()
    since = len(azure_arm.calls())
    await gate.create(name, nodes=2, expires_in_s=600.0)
    async with asyncio.timeout(WITHIN_S):
        while sum(call.kind == SCHEDULE for call in azure_arm.calls(since)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the books are all there is to ask
    gate.kill()
    azure_arm.clock.advance(900)
    async with asyncio.timeout(WITHIN_S):
        while any(it.kind == "vm" and it.running for it in azure_arm.books().live):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await gate.restart()
    await gate.delete_for_good(name)


async def test_a_sweep_removes_an_installation_and_nothing_else(
    make_gate: MakeGate, azure_arm: AzureArm
) -> None:
    gate = await make_gate()
    names = [new_id(), new_id()]
    for name in names:
        await gate.create(name)
    gate.kill()

    async def run(*words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", gate.module, "sweep"),
            *("--config", str(gate.folder / "gate.toml"), *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, wrong = await process.communicate()
        return process.returncode or 0, told.decode(), wrong.decode()

    async def sweep(installation: str) -> tuple[int, list[dict[str, str]]]:
        status, told, _ = await run("--installation", installation, "--yes", "--json")
        return status, [json.loads(line) for line in told.splitlines()]

    assert await sweep("another") == (0, [])
    # Where nobody can be asked, nobody has agreed.
    code, _, wrong = await run("--installation", INSTALLATION)
    assert (code, "--yes" in wrong) == (1, True), wrong
    assert len(azure_arm.books().resources) > 2
    status, told = await sweep(INSTALLATION)
    assert status == 0
    assert {line["partition"] for line in told} == set(names)
    assert {line["outcome"] for line in told} == {"removed"}
    azure_arm.books().require_nothing_left()


async def test_what_a_killed_gate_was_writing_is_removed(gate: Gate) -> None:
    state = gate.folder / "state"
    drafts = [state / ".deleted.0a1b2c3d", state / "cache" / ".sizes.json.0a1b2c3d"]
    kept = state / "deleted"
    (state / "cache").mkdir(mode=0o700, exist_ok=True)
    for path in (*drafts, kept):
        path.write_bytes(b"")
    gate.kill()
    await gate.restart()
    assert not [path for path in drafts if path.exists()]
    assert kept.exists()
