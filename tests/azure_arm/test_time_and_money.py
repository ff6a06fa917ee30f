"""What depends on the time of the stand-in: schedules, lists that lag, cost; and offers."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.azure_arm.sdk import GROUP, LOCATION, Sdk
from tests.testbed.azure_arm import AzureArm

WITHIN_S = 20


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await is_so():  # noqa: ASYNC110 - it is asked over the wire
            await asyncio.sleep(0.02)


async def power_of(sdk: Sdk, name: str = "n0") -> str | None:
    view = await sdk.compute.virtual_machines.instance_view(GROUP, name)
    return (view.statuses or [])[-1].code


async def test_a_schedule_deallocates(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    vm = await sdk.make_vm(subnet)
    due = datetime.fromtimestamp(arm.clock.now() + 7200, UTC).strftime("%H%M")
    schedule = f"{vm.id.rpartition('/providers/')[0]}/providers/Microsoft.DevTestLab/schedules"
    wanted: Any = {
        "location": LOCATION,
        "properties": {
            "status": "Enabled",
            "taskType": "ComputeVmShutdownTask",
            "dailyRecurrence": {"time": due},
            "timeZoneId": "UTC",
            "targetResourceId": vm.id,
        },
    }
    by_id = sdk.resources.resources
    version = "2018-09-15"
    with pytest.raises(HttpResponseError, match="InvalidScheduleId"):
        await by_id.begin_create_or_update_by_id(f"{schedule}/mine", wanted, api_version=version)
    name = f"{schedule}/shutdown-computevm-n0"
    await (await by_id.begin_create_or_update_by_id(name, wanted, api_version=version)).result()
    found = await by_id.get_by_id(name, api_version=version)
    assert found.properties is not None
    assert found.properties["dailyRecurrence"]["time"] == due
    arm.clock.advance(3600)
    assert await power_of(sdk) == "PowerState/running"
    arm.clock.advance(3700)

    async def is_off() -> bool:
        return await power_of(sdk) == "PowerState/deallocated"

    await until(is_off)
    # The disk and the address go on costing, the VM does not.
    before = {it.kind: it.billed_s for it in arm.books().entries}
    arm.clock.advance(3600)
    after = {it.kind: it.billed_s for it in arm.books().entries}
    assert after["vm"] == before["vm"]
    assert min(after[it] - before[it] for it in ("disk", "address")) >= 3600
    vms = sdk.compute.virtual_machines
    await (await vms.begin_start(GROUP, "n0")).result()
    assert await power_of(sdk) == "PowerState/running"
    await (await by_id.begin_delete_by_id(name, api_version=version)).result()
    with pytest.raises(ResourceNotFoundError):
        await by_id.get_by_id(name, api_version=version)
    await sdk.delete_group()
    books = arm.books()
    assert (books.created, books.left) == (3, 0)
    vm_entry = next(it for it in books.entries if it.kind == "vm")
    assert vm_entry.amount == pytest.approx(0.12 * vm_entry.billed_s / 3600)
    assert f"created 3, left 0, billed {books.billed:.4f} USD" == str(books)


async def test_lists_lag_and_status_only(sdk: Sdk, arm: AzureArm) -> None:
    arm.set(list_lag_s=1000)
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await sdk.make_vm(subnet, spot=True)
    nics, vms = sdk.network.network_interfaces, sdk.compute.virtual_machines
    assert (await nics.get(GROUP, "n0-nic")).name == "n0-nic"
    assert [it.name async for it in nics.list(GROUP)] == []
    arm.clock.advance(1001)
    assert [it.name async for it in nics.list(GROUP)] == ["n0-nic"]
    (vm,) = [it async for it in vms.list_all(status_only="true")]
    assert vm.instance_view is not None
    assert [it.code for it in vm.instance_view.statuses or []] == [
        "ProvisioningState/succeeded", "PowerState/running",
    ]  # fmt: skip
    (vm,) = [it async for it in vms.list(GROUP, expand="instanceView")]
    assert vm.instance_view is not None
    assert (vm.priority, vm.eviction_policy) == ("Spot", "Delete")
    disks = [it.name async for it in sdk.compute.disks.list_by_resource_group(GROUP)]
    assert len(disks) == 1
    # Evicted: it is gone, and all that was to go with it.
    arm.evict(f"{GROUP}/n0")
    with pytest.raises(ResourceNotFoundError, match="ResourceNotFound"):
        await vms.get(GROUP, "n0")
    assert arm.books().left == 0
    await sdk.delete_group()


async def test_an_operation_is_taken_up_again(sdk: Sdk, arm: AzureArm) -> None:
    arm.set(boot_s=0.5, retry_after_s=0)
    await sdk.make_group()
    nsg = await sdk.network.network_security_groups.begin_create_or_update(
        GROUP,
        "nsg",
        {"location": LOCATION},  # type: ignore[call-overload]
    )
    token = nsg.continuation_token()
    await nsg.result()
    again = await sdk.network.network_security_groups.begin_create_or_update(
        GROUP,
        "nsg",
        {"location": LOCATION},
        continuation_token=token,  # type: ignore[call-overload]
    )
    assert (await again.result()).provisioning_state == "Succeeded"
    last = arm.calls()[-1]
    assert (last.method, last.status) == ("GET", 200)
    await sdk.delete_group()


async def test_offers(sdk: Sdk, arm: AzureArm) -> None:
    found = [it async for it in sdk.compute.resource_skus.list(filter=f"location eq '{LOCATION}'")]
    sizes = {it.name: it for it in found if it.resource_type == "virtualMachines"}
    assert len(found) > len(sizes)

    def of(name: str) -> dict[str, str]:
        return {str(it.name): str(it.value) for it in sizes[name].capabilities or []}

    assert of("Standard_NC6")["vCPUs"] == "6"
    assert of("Standard_A0")["MemoryGB"] == "0.75"
    assert "GPUs" not in of("Standard_D2s_v3")
    assert "CpuArchitectureType" not in of("Standard_A0")
    restrictions = {it: [r.type for r in sizes[it].restrictions or []] for it in sizes}
    assert restrictions["Standard_D13_v2_Promo"] == ["Location"]
    assert restrictions["Standard_E4s_v3"] == ["Zone"]
    usages = {it.name.value: it async for it in sdk.compute.usage.list(LOCATION)}
    assert (usages["cores"].current_value, usages["cores"].limit) == (0, 400)
    versions = await sdk.compute.virtual_machine_images.list(
        LOCATION, "Debian", "debian-12", "12-gen2", top=1, orderby="name desc"
    )
    assert [it.name for it in versions] == ["0.20240717.1811"]
    one = await sdk.compute.virtual_machine_images.get(
        LOCATION, "Debian", "debian-12", "12-arm64", "0.20240717.1811"
    )
    assert one.architecture == "Arm64"

    # Prices: without a login, in pages, with much that is not asked for.
    arm.set(prices_page=50)
    context = ssl.create_default_context(cafile=arm.ready.ca_file)
    items: list[dict[str, Any]] = []
    pages = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        query = {
            "$filter": "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
            f"and armRegionName eq '{LOCATION}'"
        }
        async with session.get(arm.ready.prices, params=query) as response:
            page = await response.json()
        while True:
            pages += 1
            items += page["Items"]
            assert page["Count"] == len(page["Items"])
            if page["NextPageLink"] is None:
                break
            async with session.get(page["NextPageLink"]) as response:
                page = await response.json()
        async with session.get(arm.ready.egress) as response:
            assert (await response.text()).strip() == arm.egress()
    assert pages == -(-len(items) // 50) > 1
    assert {it["armRegionName"] for it in items} == {LOCATION}
    assert {it["type"] for it in items} == {"Consumption"}
    names = json.dumps(items)
    for oddity in (" Windows", "CloudServices", "Dedicated", "Low Priority", " Spot"):
        assert oddity in names
    assert any(it["retailPrice"] == 0 for it in items)
    # Some sizes have no price at all.
    assert "Standard_ND96asr_v4" not in names
