"""What goes wrong at Azure leaves nothing that costs money, whichever call it befalls."""

from __future__ import annotations

import asyncio
import re

import grpc
import pytest

from gates.azure_gate import errors
from skyport.common.v1 import money_pb2
from skyport.gate.v1 import identity_pb2, partition_pb2
from tests.azure_gate.conftest import MakeGate
from tests.azure_gate.harness import (
    CREATING,
    FAILED,
    READY,
    WITHIN_S,
    Gate,
    create_request,
    group_of,
    new_id,
    refused,
    until_called,
)
from tests.testbed.azure_arm import faults
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.azure_arm.faults import GROUP, NSG, SCHEDULE, VM, VNET, Fault, GuestFault


def billed(arm: AzureArm) -> list[str]:
    """What costs money now."""
    return [entry.resource for entry in arm.books().live]


async def until_failed(gate: Gate, name: str) -> tuple[str, str]:
    """The reason and the text of a partition's failure."""
    told = await gate.until_partition(name, lambda it: it.state == FAILED)
    return told.failure.reason, told.failure.message


@pytest.mark.parametrize(
    ("kind", "which", "reason"),
    [
        (NSG, "OperationNotAllowed", "PROVISIONING_FAILED"),
        (VNET, "AuthorizationFailed", "PERMISSION_MISSING"),
        (VM, "SkuNotAvailable", "CAPACITY"),
        (VM, "SpotQuota", "QUOTA"),
        (VM, "SpotPriceGreaterThanProvidedMaxPrice", "PROVISIONING_FAILED"),
        (SCHEDULE, "MissingSubscriptionRegistration", "PERMISSION_MISSING"),
    ],
)
async def test_a_call_that_is_refused(
    gate: Gate, azure_arm: AzureArm, kind: str, which: str, reason: str
) -> None:
    azure_arm.faults.add(faults.error(which, "PUT", kind, times=0))
    name = new_id()
    await gate.create(name, nodes=2)
    found, text = await until_failed(gate, name)
    assert found == reason
    assert faults.MESSAGES[which][1] in text
    # Empty but for the group, which tells why, also to a gate that knows nothing.
    assert azure_arm.books().resources == (f"{group_id(azure_arm, name)}",)
    await gate.restart()
    again = await gate.get(name)
    assert (again.state, again.failure.reason) == (FAILED, reason)
    assert (await gate.create(name, nodes=2)).state == FAILED
    await gate.delete_for_good(name)


@pytest.mark.parametrize(
    ("kind", "which"), [(NSG, "InternalServerError"), (VM, "AllocationFailed"), (VM, "Conflict")]
)
async def test_an_operation_that_fails_after_it_was_accepted(
    gate: Gate, azure_arm: AzureArm, kind: str, which: str
) -> None:
    azure_arm.faults.add(
        faults.failed_operation(which, "PUT", kind, name="n1" if kind == VM else "*")
    )
    name = new_id()
    await gate.create(name, nodes=2)
    # The machine that failed holds its interface for a while.
    removing = await gate.until_partition(
        name, lambda it: it.state == FAILED or "removing" in it.text
    )
    if removing.state != FAILED:
        assert removing.state == CREATING
        azure_arm.clock.advance(200)
    reason, _ = await until_failed(gate, name)
    assert reason == ("CAPACITY" if kind == VM else "PROVISIONING_FAILED")
    assert not billed(azure_arm)
    await gate.delete_for_good(name)


async def test_a_machine_that_is_still_on_its_way_is_deleted_with_the_others(
    gate: Gate, azure_arm: AzureArm
) -> None:
    # What can't be had is known at once of n0; n1 arrives when nobody waits for it any more.
    azure_arm.faults.add(faults.error("SkuNotAvailable", "PUT", VM, name="n0", times=0))
    azure_arm.faults.add(Fault("PUT", VM, name="n1", does="slow", delay_s=2.0))
    name = new_id()
    since = len(azure_arm.calls())
    await gate.create(name, nodes=2)
    assert (await until_failed(gate, name))[0] == "CAPACITY"
    put = [it.status for it in azure_arm.calls(since) if (it.method, it.name) == ("PUT", "n1")]
    assert put == [201]
    assert azure_arm.books().resources == (group_id(azure_arm, name),)
    await gate.delete_for_good(name)


async def test_a_disk_that_is_smaller_than_the_image_is_as_large_as_the_image(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name, disk_bytes=10 << 30)
    await gate.until_state(name, READY)
    await gate.delete_for_good(name)


async def test_an_image_of_ones_own_that_is_not_there_is_no_eviction(
    gate: Gate, azure_arm: AzureArm
) -> None:
    own = f"/subscriptions/{azure_arm.ready.subscription}/resourceGroups/g"
    own += "/providers/Microsoft.Compute/images/own"
    name = new_id()
    await gate.create(name, spot=True, image=own)
    reason, text = await until_failed(gate, name)
    assert reason == "IMAGE_NOT_FOUND"
    assert own in text
    await gate.delete_for_good(name)


async def test_a_group_that_is_locked_is_busy(gate: Gate, azure_arm: AzureArm) -> None:
    azure_arm.faults.add(GuestFault("never boots"))
    name = new_id()
    await gate.create(name)
    said = "The scope cannot perform delete operation because following scope(s) are locked."
    azure_arm.faults.add(
        Fault("DELETE", GROUP, status=409, code="ScopeLocked", message=said, times=1)
    )
    problem = await refused(gate.delete(name))
    assert (problem.code, problem.reason) == (grpc.StatusCode.ABORTED, "BUSY")
    assert said in problem.message
    await gate.delete_for_good(name)


@pytest.mark.parametrize("which", ["QuotaExceeded", "AuthorizationFailed", "TooManyRequests"])
async def test_a_group_that_can_not_be_made_is_told_at_once(
    gate: Gate, azure_arm: AzureArm, which: str
) -> None:
    number = azure_arm.faults.add(faults.error(which, "PUT", GROUP, times=2))
    name = new_id()
    if which == "TooManyRequests":
        await gate.create(name)
        assert azure_arm.faults.hits(number) == 2
    else:
        problem = await refused(gate.create(name))
        expected = errors.parse(*faults.MESSAGES[which][:1], f'{{"error": {{"code": "{which}"}}}}')
        assert problem.code is errors.refusal(expected, "").code
    await gate.delete_for_good(name)


@pytest.mark.parametrize("kind", [GROUP, NSG, VNET, VM, SCHEDULE])
async def test_a_lost_answer_makes_nothing_twice(
    gate: Gate, azure_arm: AzureArm, kind: str
) -> None:
    azure_arm.faults.add(Fault("PUT", kind, does="lose"))
    name = new_id()
    await gate.create(name, nodes=2)
    await gate.until_state(name, READY)
    machines = [entry for entry in azure_arm.books().entries if entry.kind == "vm"]
    assert len(machines) == 2
    await gate.delete_for_good(name)


async def test_an_end_that_can_not_be_moved_is_told_by_the_tables_and_moved_the_next_time(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    await gate.create(name, expires_in_s=3_600.0)
    before_s = (await gate.until_state(name, READY)).expire_time.seconds
    renew = partition_pb2.RenewPartitionRequest(partition_id=name)
    renew.expire_time.FromSeconds(before_s + 3_600)
    for which, method, kind, reason in (
        ("AuthorizationFailed", "PATCH", GROUP, "PERMISSION_MISSING"),
        # A machine that was taken away and is not missed yet: the others run on.
        ("ResourceNotFound", "PUT", SCHEDULE, "SITE_UNREACHABLE"),
    ):
        azure_arm.faults.add(faults.error(which, method, kind))
        told = await refused(gate.partitions.RenewPartition(renew))
        assert told.reason == reason, which
        assert (await gate.get(name)).expire_time.seconds == before_s
    for method, kind in (("PATCH", GROUP), ("PUT", SCHEDULE)):
        azure_arm.faults.add(faults.error("AuthorizationFailed", method, kind))
        told = await refused(gate.create(name, expires_in_s=7_200.0))
        assert told.reason == "PERMISSION_MISSING", kind
        assert (await gate.get(name)).expire_time.seconds == before_s
    since = len(azure_arm.calls())
    moved = await gate.create(name, expires_in_s=7_200.0)
    assert moved.expire_time.seconds > before_s
    assert [it.kind for it in azure_arm.calls(since) if it.method == "PUT"] == [SCHEDULE]
    await gate.delete_for_good(name)


async def test_a_failure_is_told_though_the_create_is_repeated_meanwhile(
    gate: Gate, azure_arm: AzureArm
) -> None:
    name = new_id()
    azure_arm.set(allocate_s=1.5)
    try:
        azure_arm.faults.add(faults.failed_operation("AllocationFailed", times=0))
        since = len(azure_arm.calls())
        await gate.create(name)
        await until_called(azure_arm, "PUT", VM, since)
        # It is looked at as it was before it failed, and goes on with that afterwards.
        slow = Fault("GET", GROUP, name=group_of(name), does="slow", delay_s=4.0)
        azure_arm.faults.add(slow)
        await gate.create(name)
        azure_arm.clock.advance(200)  # the machine that failed holds its interface for a while
        assert (await until_failed(gate, name))[0] == "CAPACITY"
    finally:
        azure_arm.set(allocate_s=0.05)
    await gate.delete_for_good(name)


async def test_a_storm_of_refusals_only_takes_longer(gate: Gate, azure_arm: AzureArm) -> None:
    name = new_id()
    storm = [
        azure_arm.faults.add(faults.error("TooManyRequests", method, kind, times=2))
        for method, kind in (
            ("GET", GROUP),
            ("PUT", NSG),
            ("PUT", VNET),
            ("PUT", VM),
            ("GET", VM),
            ("GET", "operations"),
            ("PATCH", GROUP),
            ("DELETE", GROUP),
        )
    ]
    await gate.create(name)
    await gate.until_state(name, READY)
    await gate.delete_for_good(name)
    assert sum(map(azure_arm.faults.hits, storm)) == 2 * len(storm)


async def test_a_machine_that_never_boots_is_given_up(
    make_gate: MakeGate, azure_arm: AzureArm
) -> None:
    gate = await make_gate(boot_timeout=4)
    azure_arm.faults.add(GuestFault("never boots"))
    name = new_id()
    await gate.create(name, nodes=2)
    reason, text = await until_failed(gate, name)
    assert reason == "PROVISIONING_FAILED"
    assert "was not ready within 4 s" in text
    assert not billed(azure_arm)
    await gate.delete_for_good(name)


async def test_a_machine_that_is_taken_away_while_it_boots_is_not_waited_for(
    gate: Gate, azure_arm: AzureArm
) -> None:
    azure_arm.faults.add(GuestFault("late", seconds=10 * WITHIN_S, times=0))
    name = new_id()
    await gate.create(name, nodes=2, spot=True)
    async with asyncio.timeout(WITHIN_S):
        while not (await gate.get(name)).nodes[1].addresses:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # the watch tells no addresses by themselves
    azure_arm.evict(f"{group_of(name)}/n1")
    assert (await until_failed(gate, name))[0] == "PREEMPTED"
    assert not billed(azure_arm)
    await gate.delete_for_good(name)


async def test_a_late_sshd_is_waited_for(gate: Gate, azure_arm: AzureArm) -> None:
    azure_arm.faults.add(GuestFault("late", seconds=2.0, times=0))
    name = new_id()
    await gate.create(name, nodes=2)
    await gate.until_state(name, READY)
    await gate.delete_for_good(name)


async def test_an_unknown_egress_address_is_refused_and_never_everybody(
    gate: Gate, azure_arm: AzureArm
) -> None:
    for said in ("0.0.0.0", "<html>", "*", "2001:db8::7"):  # noqa: S104 - it is refused
        azure_arm.say_egress(said)
        name = new_id()
        await gate.create(name)
        reason, text = await until_failed(gate, name)
        assert reason == "PROVISIONING_FAILED"
        assert "inbound_from" in text
        await gate.delete_for_good(name)
    azure_arm.say_egress(None)


async def test_what_can_not_be_had_is_told_before_anything_is_made(
    gate: Gate, azure_arm: AzureArm
) -> None:
    create = gate.partitions.CreatePartition
    euro = money_pb2.Money(currency_code="EUR", units=1)
    for spec, reason in (
        ({"flavor": "Standard_Nothing"}, "FLAVOR_NOT_FOUND"),
        ({"location": "mars"}, "FLAVOR_NOT_FOUND"),
        ({"image": "ubuntu"}, "IMAGE_NOT_FOUND"),
        ({"storage": ["data"]}, "CAPABILITY_MISSING"),
        ({"site_options": {"a": "b"}}, "FIELD_MALFORMED"),
        ({"spot_price_limit": euro}, "FIELD_MALFORMED"),
        ({"spot_price_limit": money_pb2.Money(currency_code="USD")}, "FIELD_OUT_OF_RANGE"),
    ):
        problem = await refused(create(create_request(new_id(), **spec)))
        assert problem.reason == reason, spec
    # What is written for this kind of site reaches it, and is refused by its name.
    told = await gate.identity.GetGateInfo(identity_pb2.GetGateInfoRequest(api_versions=["v1"]))
    assert told.option_prefix == "azure"
    assert told.HasField("options")
    assert not told.options.names
    own = f"/subscriptions/{azure_arm.ready.subscription}/resourceGroups/g"
    own += "/providers/Microsoft.Compute/images/own"
    for name, fits in (
        ("Debian:debian-12:12-gen2:latest", True),
        (own, True),
        ("ubuntu", False),
        ("/etc/passwd", False),
    ):
        assert bool(re.fullmatch(told.node_images.pattern, name, re.ASCII)) is fits, name
    problem = await refused(create(create_request(new_id(), site_options={"a": "b"})))
    assert "site_options[a] is no option of this site; it takes none" in problem.message
    problem = await refused(create(create_request(new_id(), expires_in_s=2 * 86_400)))
    assert problem.reason == "FIELD_OUT_OF_RANGE"
    request = create_request(new_id())
    request.scope_uid = "another"
    assert (await refused(create(request))).reason == "SITE_CHANGED"
    assert not azure_arm.books().resources


async def test_azure_away_is_not_known_and_never_gone(gate: Gate, azure_arm: AzureArm) -> None:
    name = new_id()
    await gate.create(name)
    await gate.until_state(name, READY)
    number = azure_arm.faults.add(Fault("GET", does="cut", times=0))
    try:
        problem = await asyncio.wait_for(refused(gate.get(name)), 90)
        assert problem.reason in {"SITE_UNREACHABLE", None}
    finally:
        azure_arm.faults.remove(number)
    assert (await gate.get(name)).state == READY
    await gate.delete_for_good(name)


async def test_who_does_not_answer_is_told_and_for_how_long(
    make_gate: MakeGate, azure_arm: AzureArm
) -> None:
    number = azure_arm.faults.add(Fault("GET", GROUP, does="slow", delay_s=60.0, times=0))
    gate = await make_gate()
    try:
        async with asyncio.timeout(WITHIN_S):
            told = await gate.probe()
            while "has not answered for" not in told.message:
                await asyncio.sleep(0.2)  # nobody tells that time has passed
                told = await gate.probe()
        assert not told.ready
        assert told.message.startswith(azure_arm.ready.resource_manager)
    finally:
        azure_arm.faults.remove(number)


def group_id(arm: AzureArm, name: str) -> str:
    return f"/subscriptions/{arm.ready.subscription}/resourceGroups/{group_of(name)}"
