"""What goes wrong when it is told to, and what it leaves."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)

from tests.azure_arm.sdk import GROUP, Sdk, vm_body
from tests.testbed.azure_arm import AzureArm, Fault, GuestFault, faults
from tests.testbed.azure_arm.faults import DISK, MESSAGES, NIC, NSG, PUBLIC_IP, VM, VNET
from tests.testbed.azure_arm.faults import GROUP as GROUPS


async def test_every_error_of_the_catalogue_at_a_vm(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    for which, (status, code, _) in MESSAGES.items():
        number = arm.faults.add(faults.error(which, "PUT", VM))
        with pytest.raises(HttpResponseError) as caught:
            await sdk.compute.virtual_machines.begin_create_or_update(GROUP, "n0", vm_body(subnet))
        error = caught.value
        assert error.error is not None
        assert (error.status_code, error.error.code) == (status, code)
        if status == 409:
            assert isinstance(error, ResourceExistsError)
        assert arm.faults.hits(number) == 1
        arm.faults.clear()
    assert arm.books().created == 0
    await sdk.delete_group()


async def test_an_operation_that_fails_leaves_a_vm(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    arm.faults.add(faults.failed_operation("DeploymentFailed", inner="ZonalAllocationFailed"))
    with pytest.raises(HttpResponseError) as caught:
        await sdk.make_vm(subnet)
    assert caught.value.status_code == 200
    assert caught.value.error is not None
    assert caught.value.error.code == "DeploymentFailed"
    (detail,) = caught.value.error.details
    assert json.loads(detail.message or "")["error"]["code"] == "ZonalAllocationFailed"
    vm = await sdk.compute.virtual_machines.get(GROUP, "n0", expand="instanceView")
    assert vm.provisioning_state == "Failed"
    # Nothing of it runs, but its address is there and costs.
    assert [it.kind for it in arm.books().live] == ["address"]
    await (await sdk.compute.virtual_machines.begin_delete(GROUP, "n0")).result()
    assert arm.books().left == 0
    await sdk.delete_group()


async def test_an_interface_stays_reserved_after_a_vm_failed(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    body = vm_body(subnet, public=False)
    body["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]["properties"][
        "deleteOption"
    ] = "Detach"
    arm.faults.add(faults.failed_operation("AllocationFailed"))
    vms, nics = sdk.compute.virtual_machines, sdk.network.network_interfaces
    with pytest.raises(HttpResponseError, match="AllocationFailed"):
        await (await vms.begin_create_or_update(GROUP, "n0", body)).result()
    with pytest.raises(HttpResponseError, match="NicInUse"):
        await nics.begin_delete(GROUP, "n0-nic")
    await (await vms.begin_delete(GROUP, "n0")).result()
    with pytest.raises(HttpResponseError, match="NicReservedForAnotherVm"):
        await nics.begin_delete(GROUP, "n0-nic")
    arm.clock.advance(181)
    await (await nics.begin_delete(GROUP, "n0-nic")).result()
    await sdk.delete_group()


async def test_an_answer_is_lost_after_the_effect(sdk: Sdk, arm: AzureArm) -> None:
    # As often as the client sends it: aiohttp does so again when a connection that it kept is cut.
    arm.faults.add(Fault("PUT", GROUPS, does="lose", times=0))
    with pytest.raises((ServiceResponseError, ServiceRequestError)):
        await sdk.make_group()
    assert (await sdk.resources.resource_groups.get(GROUP)).name == GROUP
    arm.faults.add(Fault("DELETE", GROUPS, does="cut", times=0))
    with pytest.raises((ServiceResponseError, ServiceRequestError)):
        await sdk.delete_group()
    assert (await sdk.resources.resource_groups.get(GROUP)).name == GROUP
    arm.faults.clear()
    arm.faults.add(Fault("GET", GROUPS, does="slow", delay_s=0.3))
    before = time.monotonic()
    await sdk.resources.resource_groups.get(GROUP)
    assert time.monotonic() - before >= 0.3
    await sdk.delete_group()


async def test_a_storm_of_429(sdk: Sdk, arm: AzureArm) -> None:
    number = arm.faults.add(faults.error("TooManyRequests", times=0, retry_after=7))
    for _ in range(3):
        with pytest.raises(HttpResponseError) as caught:
            await sdk.make_group()
        assert caught.value.status_code == 429
        assert getattr(caught.value.response, "headers", {})["Retry-After"] == "7"
    arm.faults.remove(number)
    await sdk.make_group()
    await sdk.delete_group()


async def test_the_nth_call_of_a_kind_fails(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    arm.faults.add(faults.error("RegionalQuota", "PUT", VM, nth=2))
    done = await asyncio.gather(
        *(sdk.make_vm(subnet, f"n{i}", public=False) for i in range(3)), return_exceptions=True
    )
    assert sum(isinstance(it, HttpResponseError) for it in done) == 1
    await sdk.delete_group()


async def test_deletions_that_fail(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await sdk.make_vm(subnet)
    arm.faults.add(faults.failed_operation("Conflict", "DELETE", GROUPS))
    with pytest.raises(HttpResponseError):
        await sdk.delete_group()
    group = await sdk.resources.resource_groups.get(GROUP)
    assert group.properties is not None
    assert group.properties.provisioning_state == "Succeeded"
    await sdk.delete_group()


async def test_a_guest_that_never_boots_or_late(sdk: Sdk, arm: AzureArm) -> None:
    arm.faults.add(GuestFault("never boots", name="n0"))
    arm.faults.add(GuestFault("late", name="n1", seconds=0.2))
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await sdk.make_vm(subnet, "n1")
    vms = sdk.compute.virtual_machines
    poller = await vms.begin_create_or_update(GROUP, "n0", vm_body(subnet, "n0"))
    codes: list[str | None] = []
    while "PowerState/running" not in codes:
        view = await vms.instance_view(GROUP, "n0")
        codes = [it.code for it in view.statuses or []]
    assert codes[0] == "ProvisioningState/succeeded/osProvisioningInProgress"
    arm.clock.advance(1201)
    with pytest.raises(HttpResponseError, match="OSProvisioningTimedOut"):
        await poller.result()
    # It runs, and it costs.
    assert sorted(it.kind for it in arm.books().live if "n0" in it.resource) == [
        "address", "disk", "vm",
    ]  # fmt: skip
    await sdk.delete_group()


async def test_a_group_that_is_being_deleted(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    arm.set(delete_s=0.5)
    poller = await sdk.resources.resource_groups.begin_delete(GROUP, polling=False)
    # The trap: it says so at once.
    assert poller.status().lower() == "succeeded"
    with pytest.raises(ResourceExistsError, match="ResourceGroupBeingDeleted"):
        await sdk.make_group()
    while True:
        try:
            group = await sdk.resources.resource_groups.get(GROUP)
        except ResourceNotFoundError:
            break
        assert group.properties is not None
        assert group.properties.provisioning_state == "Deleting"
        await asyncio.sleep(0.02)
    for kind in (NSG, VNET, NIC, PUBLIC_IP, DISK):
        assert not [it for it in arm.books().resources if kind in it]
