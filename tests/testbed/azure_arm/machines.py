"""VMs: made with all they need, evicted, deleted with what shall go with them."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from tests.testbed.azure_arm import images, network, security_groups, tags
from tests.testbed.azure_arm.books import Booted
from tests.testbed.azure_arm.calls import Answer, Call, Routes, begin
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError
from tests.testbed.azure_arm.faults import DISK, PUBLIC_IP, VM, Fault
from tests.testbed.azure_arm.interfaces import make_interface
from tests.testbed.azure_arm.machine_checks import (
    check_disk,
    check_network,
    check_os,
    check_quota,
    check_spot,
    keys_of,
    size_of,
)
from tests.testbed.azure_arm.machine_power import alone, deallocate, until_up
from tests.testbed.azure_arm.machine_views import PATH, new_body
from tests.testbed.azure_arm.vms import Machine

__all__ = ["evict", "of_group", "remove", "routes"]

routes = Routes()
# What a GB of disk costs in an hour, in USD.
DISK_PRICE = 0.0001


# Making one.


@routes.add("PUT", PATH + "/{name}", VM)
async def put(call: Call) -> Answer:
    """Make one, or try again to make one that failed."""
    cloud, name = call.cloud, call.names["name"]
    document, location = call.located()
    group = cloud.group_for_writing(call.names["group"])
    resource_id = cloud.id_of(call.names["group"], VM, name)
    has = document.get("properties") or {}
    old = cloud.find(resource_id)
    if old is not None:
        return _put_again(call, old, has)
    given = tags.check(document.get("tags"), cloud.settings.max_tags)
    size = size_of(cloud, has, location, document.get("zones") or [])
    spot = check_spot(cloud, has, size)
    check_disk(has)
    user_data = check_os(has)
    profile = has["osProfile"]
    image = images.resolve(cloud, (has.get("storageProfile") or {}).get("imageReference"), location)
    wanted, ready = check_network(cloud, has, resource_id)
    check_quota(cloud, size, spot=spot)

    made = Resource(resource_id, VM, name, group.name, {})
    interfaces = [make_interface(cloud, group.name, location, it) for it in wanted] + ready
    options = {it["name"].lower(): (it.get("properties") or {}) for it in wanted}
    for one in (has.get("networkProfile") or {}).get("networkInterfaces") or []:
        options[one["id"].rpartition("/")[2].lower()] = one.get("properties") or {}
    made.notes |= {
        "size": size,
        "spot": spot,
        "price": (size.spot_price if spot else size.price) or 0.0,
        "interfaces": interfaces,
        "power": "starting",
        "failed": False,
        "guest": False,
        "released": {it.id.lower(): options.get(it.name.lower(), {}) for it in interfaces},
        "address_option": _address_options(wanted),
        "machine": Machine(
            id=resource_id,
            name=profile["computerName"],
            instance=str(uuid.uuid4()),
            address=interfaces[0].notes["address"],
            user_data=user_data,
            admin=profile["adminUsername"],
            keys=keys_of(profile),
            resource_group=group.name,
            size=size.name,
            location=location,
        ),
    }
    for interface in interfaces:
        interface.notes["vm"] = resource_id
        interface.properties["virtualMachine"] = {"id": resource_id}
    made.body = new_body(made, document, has, image, location, given)
    made.properties["timeCreated"] = cloud.clock.stamp()
    cloud.add(made)
    return _go(call, made, 201)


def _go(call: Call, vm: Resource, status: int) -> Answer:
    """Have it made, and answer."""
    body = network.shown(vm)
    work = alone(vm, _create(call.cloud, vm, call.fault))
    return begin(call, status, vm.body["location"], work, body)


def _put_again(call: Call, old: Resource, has: dict[str, Any]) -> Answer:
    cloud = call.cloud
    wanted = (has.get("hardwareProfile") or {}).get("vmSize", "")
    if wanted.lower() != old.notes["size"].name.lower() and not old.notes["failed"]:
        raise ArmError(
            409,
            "PropertyChangeNotAllowed",
            "Changing property 'hardwareProfile.vmSize' is not supported by the stand-in.",
        )
    if check_os(has) != old.notes["machine"].user_data:
        raise ArmError(
            409,
            "PropertyChangeNotAllowed",
            "Changing property 'osProfile.customData' is not allowed.",
        )
    if old.notes["failed"]:
        old.notes |= {"failed": False, "power": "starting"}
        old.properties["provisioningState"] = "Creating"
        return _go(call, old, 200)

    async def nothing() -> None:
        await asyncio.sleep(cloud.settings.write_s)
        if call.fault is not None:
            raise call.fault.raised()

    return begin(call, 200, old.body["location"], nothing(), network.shown(old))


async def _create(cloud: Cloud, vm: Resource, fault: Fault | None) -> None:
    machine: Machine = vm.notes["machine"]
    began = time.time()
    await asyncio.sleep(cloud.settings.allocate_s)
    if fault is not None:
        vm.properties["provisioningState"] = "Failed"
        vm.notes |= {"failed": True, "power": "", "error": fault}
        for interface in vm.notes["interfaces"]:
            network.reserve_for(cloud, interface, vm.id)
        vm.touch()
        raise fault.raised()
    cloud.ledger.begin(vm.id, "vm", vm.notes["price"])
    _add_disk(cloud, vm)
    machine.rules = security_groups.rules_of(cloud, vm.notes["interfaces"][0])
    machine.faults = cloud.faults.of_guest(vm.name)
    machine.disk = True
    vm.notes["power"] = "running"
    await until_up(cloud, vm, cloud.backend.create(machine))
    cloud.boots.append(Booted(vm.id, began, time.time()))
    vm.properties["provisioningState"] = "Succeeded"
    vm.touch()


def _add_disk(cloud: Cloud, vm: Resource) -> None:
    disk = vm.properties["storageProfile"]["osDisk"]
    disk_id = cloud.id_of(vm.group, DISK, disk["name"])
    if cloud.find(disk_id) is not None:
        return
    body = {
        "name": disk["name"],
        "id": disk_id,
        "type": DISK,
        "location": vm.body["location"],
        "managedBy": vm.id,
        "sku": {"name": disk["managedDisk"]["storageAccountType"], "tier": "Standard"},
        "properties": {
            "osType": "Linux",
            "creationData": {"createOption": "FromImage"},
            "diskSizeGB": disk["diskSizeGB"],
            "diskSizeBytes": disk["diskSizeGB"] << 30,
            "timeCreated": cloud.clock.stamp(),
            "provisioningState": "Succeeded",
            "diskState": "Attached",
            "uniqueId": str(uuid.uuid4()),
        },
    }
    made = Resource(disk_id, DISK, disk["name"], vm.group, body)
    cloud.add(made)
    cloud.ledger.begin(disk_id, "disk", DISK_PRICE * disk["diskSizeGB"])
    disk["managedDisk"]["id"] = disk_id
    vm.notes["disk"] = disk_id


def _address_options(wanted: list[dict[str, Any]]) -> dict[str, str]:
    """By the name of a public address that is told of within the VM: what becomes of it."""
    options = {}
    for one in wanted:
        for inner in (one.get("properties") or {}).get("ipConfigurations") or []:
            address = (inner.get("properties") or {}).get("publicIPAddressConfiguration")
            if address:
                option = (address.get("properties") or {}).get("deleteOption", "Detach")
                options[address["name"].lower()] = option
    return options


# Ending them.


@routes.add("DELETE", PATH + "/{name}", VM)
async def delete(call: Call) -> Answer:
    """Delete one, and what shall go with it, afterwards."""
    cloud = call.cloud
    group = cloud.group(call.names["group"])
    vm = cloud.find(cloud.id_of(group.name, VM, call.names["name"]))
    if vm is None:
        return Answer(204)
    vm.properties["provisioningState"] = "Deleting"

    async def work() -> None:
        await asyncio.sleep(cloud.settings.delete_s)
        if call.fault is not None:
            vm.properties["provisioningState"] = "Failed"
            raise call.fault.raised()
        await remove(cloud, vm)

    return begin(call, 202, vm.body["location"], work())


def of_group(cloud: Cloud, group: str) -> list[Resource]:
    """All VMs of a group."""
    return cloud.of_kind(VM, group)


async def remove(cloud: Cloud, vm: Resource) -> None:
    """End a VM, and what shall go with it: disk, interfaces, their addresses."""
    await alone(vm, cloud.backend.destroy(vm.notes["machine"]))
    if cloud.find(vm.id) is not vm:
        return
    disk = cloud.find(vm.notes.get("disk", ""))
    if disk is not None:
        if vm.properties["storageProfile"]["osDisk"]["deleteOption"] == "Delete":
            cloud.remove(disk)
        else:
            disk.body.pop("managedBy", None)
            disk.properties["diskState"] = "Unattached"
    addresses = cloud.of_kind(PUBLIC_IP)
    for interface in vm.notes["interfaces"]:
        interface.notes.pop("vm", None)
        interface.properties.pop("virtualMachine", None)
        mine = [it for it in addresses if it.notes.get("interface") == interface.id.lower()]
        if vm.notes["released"][interface.id.lower()].get("deleteOption") == "Delete":
            network.discard(cloud, interface)
            for address in mine:
                option = address.properties.get("deleteOption")
                if (option or vm.notes["address_option"].get(address.name.lower())) == "Delete":
                    cloud.remove(address)
        elif vm.notes["failed"]:
            network.reserve_for(cloud, interface, vm.id)
    cloud.remove(vm)


@routes.add("POST", PATH + "/{name}/simulateEviction", VM + "/simulateEviction")
async def simulate(call: Call) -> Answer:
    """Evict a spot VM, soon."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    if not vm.notes["spot"]:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Operation 'simulateEviction' is not allowed on VM '{vm.name}' since its priority is "
            "not Spot.",
        )
    call.cloud.run(evict(call.cloud, vm))
    return Answer(204)


async def evict(cloud: Cloud, vm: Resource) -> None:
    """Take a VM away, as its eviction policy says; one that is not spot is deallocated."""
    if vm.properties.get("evictionPolicy", "Deallocate") == "Delete":
        await remove(cloud, vm)
    else:
        await alone(vm, deallocate(cloud, vm))


# Those that Windows-minded recordings ask for, and none here may have.


@routes.add("POST", PATH + "/{name}/performMaintenance", VM + "/performMaintenance")
async def maintain(call: Call) -> Answer:
    """Refuse."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    raise ArmError(
        409,
        "OperationNotAllowed",
        f"Operation 'performMaintenance' is not allowed on VM '{vm.name}' since the Subscription "
        "of "
        "this VM is not eligible.",
    )


@routes.add("POST", PATH + "/{name}/convertToManagedDisks", VM + "/convertToManagedDisks")
async def convert(call: Call) -> Answer:
    """Refuse: all disks are managed ones."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    raise ArmError(409, "OperationNotAllowed", f"VM '{vm.name}' is already using managed disks.")


@routes.add("POST", PATH + "/{name}/reimage", VM + "/reimage")
async def reimage(call: Call) -> Answer:
    """Refuse."""
    call.cloud.resource(call.names["group"], VM, call.names["name"])
    raise ArmError(
        409,
        "OperationNotAllowed",
        "The Reimage and OSUpgrade Virtual Machine actions require that the virtual machine has "
        "Automatic OS Upgrades enabled.",
    )
