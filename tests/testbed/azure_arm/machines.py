"""VMs: made with all they need, started, stopped, evicted, deleted."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import time
import uuid
from collections.abc import Awaitable
from typing import Any

from tests.testbed.azure_arm import images, network, skus, tags
from tests.testbed.azure_arm.books import Booted
from tests.testbed.azure_arm.calls import (
    IN_GROUP,
    IN_SUBSCRIPTION,
    Answer,
    Call,
    Routes,
    begin,
    pages,
)
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError, invalid
from tests.testbed.azure_arm.faults import DISK, MESSAGES, NIC, PUBLIC_IP, VM, Fault
from tests.testbed.azure_arm.vms import Machine

__all__ = ["deallocate", "evict", "of_group", "remove", "routes"]

routes = Routes()
_PATH = IN_GROUP + "/providers/Microsoft.Compute/virtualMachines"
# What a GB of disk costs in an hour, in USD.
DISK_PRICE = 0.0001
_DISK_GB = 30
_POWER = {
    "starting": "VM starting",
    "running": "VM running",
    "stopping": "VM stopping",
    "stopped": "VM stopped",
    "deallocating": "VM deallocating",
    "deallocated": "VM deallocated",
}
_NETWORK_VERSIONS = {"2020-11-01", "2022-11-01"}
_MAX_DATA = 65535


# Making one.


@routes.add("PUT", _PATH + "/{name}", VM)
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
    size = _size(cloud, has, location, document.get("zones") or [])
    spot = _check_spot(cloud, has, size)
    user_data = _check_os(has)
    profile = has["osProfile"]
    image = images.resolve(cloud, (has.get("storageProfile") or {}).get("imageReference"), location)
    wanted, ready = _check_network(cloud, has, resource_id)
    _check_quota(cloud, size, spot=spot)

    made = Resource(resource_id, VM, name, group.name, {})
    interfaces = [network.make_interface(cloud, group.name, location, it) for it in wanted] + ready
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
            keys=_keys(profile),
            resource_group=group.name,
            size=size.name,
            location=location,
        ),
    }
    for interface in interfaces:
        interface.notes["vm"] = resource_id
        interface.properties["virtualMachine"] = {"id": resource_id}
    made.body = _body(made, document, has, image, location, given)
    made.properties["timeCreated"] = cloud.clock.stamp()
    cloud.add(made)
    return _go(call, made, 201)


def _go(call: Call, vm: Resource, status: int) -> Answer:
    """Have it made, and answer."""
    body = network.shown(vm)
    work = _alone(vm, _create(call.cloud, vm, call.fault))
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
    if old.notes["failed"]:
        old.notes |= {"failed": False, "power": "starting"}
        old.properties["provisioningState"] = "Creating"
        return _go(call, old, 200)

    async def nothing() -> None:
        await asyncio.sleep(cloud.settings.write_s)
        if call.fault is not None:
            raise call.fault.raised()

    return begin(call, 200, old.body["location"], nothing(), network.shown(old))


async def _alone(vm: Resource, work: Awaitable[None]) -> None:
    """Do something with a VM; what is done later with it ends this first."""
    before = vm.notes.get("task")
    vm.notes["task"] = task = asyncio.current_task()
    if before is not None and not before.done():
        before.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([before])
    try:
        await work
    except asyncio.CancelledError:
        if vm.notes.get("task") is task:
            raise
        raise ArmError(
            409,
            "OperationPreempted",
            "Operation execution has been preempted by a more recent operation.",
        ) from None


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
    machine.rules = network.rules_of(cloud, vm.notes["interfaces"][0])
    machine.faults = cloud.faults.of_guest(vm.name)
    machine.disk = True
    vm.notes["power"] = "running"
    await _until_up(cloud, vm, cloud.backend.create(machine))
    cloud.boots.append(Booted(vm.id, began, time.time()))
    vm.properties["provisioningState"] = "Succeeded"
    vm.touch()


async def _until_up(cloud: Cloud, vm: Resource, boot: Awaitable[None]) -> None:
    """Wait until the guest says that it is up, but not for ever."""
    vm.notes["guest"] = False
    task = asyncio.ensure_future(boot)
    late = asyncio.ensure_future(cloud.clock.sleep(cloud.settings.provisioning_s))
    try:
        await asyncio.wait([task, late], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            vm.properties["provisioningState"] = "Failed"
            vm.touch()
            raise ArmError(
                409,
                "OSProvisioningTimedOut",
                f"OS Provisioning for VM '{vm.name}' did not finish in the allotted time. The VM "
                "may "
                "still finish provisioning successfully. Please check provisioning state later. "
                "For "
                "details on how to check current provisioning state of Windows VMs, refer to "
                "https://aka.ms/WindowsVMLifecycle and Linux VMs, refer to "
                "https://aka.ms/LinuxVMLifecycle.",
            )
        await task
        vm.notes["guest"] = True
    finally:
        for one in (task, late):
            if not one.done():
                one.cancel()
        await asyncio.wait([task, late])


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


# What is demanded of one.


def _size(cloud: Cloud, has: dict[str, Any], location: str, zones: list[str]) -> skus.Size:
    name = (has.get("hardwareProfile") or {}).get("vmSize")
    if not name:
        raise invalid("Required parameter 'hardwareProfile.vmSize' is missing (null).")
    size = skus.find(name)
    if size is None:
        raise invalid(
            f"The value {name} provided for the VM size is not valid. The valid sizes in the "
            "current "
            f"region are: {','.join(it.name for it in skus.SIZES)}."
        )
    if location in size.forbidden or any(it in size.zones for it in zones):
        raise ArmError(
            409,
            "SkuNotAvailable",
            "The requested VM size for resource 'Following SKUs have failed for Capacity "
            f"Restrictions: {size.name}' is currently not available in location '{location}'. "
            "Please "
            "try another size or deploy to a different location or different zone. See "
            "https://aka.ms/azureskunotavailable for details.",
        )
    return size


def _check_spot(cloud: Cloud, has: dict[str, Any], size: skus.Size) -> bool:
    spot = has.get("priority") in {"Spot", "Low"}
    most = (has.get("billingProfile") or {}).get("maxPrice")
    if not spot:
        for name in ("evictionPolicy", "billingProfile"):
            if has.get(name):
                raise invalid(
                    f"'{name}' can be set only when 'priority' is Spot (the request has "
                    f"'{has.get('priority', 'Regular')}')."
                )
        return False
    if not size.spot:
        raise invalid(
            f"Azure Spot is not supported for this VM size '{size.name}'. Please use a different "
            "VM "
            "size.",
            "AzureSpotIsNotSupportedForThisVMSize",
        )
    if most is not None and most != -1:
        if most <= 0:
            raise invalid(MESSAGES["MaxPriceValueInvalid"][2], "MaxPriceValueInvalid")
        if most < (size.spot_price or size.price or 0):
            raise ArmError(*MESSAGES["SpotPriceGreaterThanProvidedMaxPrice"])
    return True


def _check_os(has: dict[str, Any]) -> str:
    """The user-data of its guest; an error if its account is not as Azure wants it."""
    profile = has.get("osProfile") or {}
    for name in ("computerName", "adminUsername"):
        if not profile.get(name):
            raise invalid(f"Required parameter 'osProfile.{name}' is missing (null).")
    if profile["adminUsername"].lower() in {
        "root",
        "admin",
        "administrator",
        "user",
        "guest",
        "test",
    }:
        raise invalid(
            "The Admin Username specified is not allowed. For more information about disallowed "
            "usernames, see https://aka.ms/vmosprofile"
        )
    linux = profile.get("linuxConfiguration") or {}
    keys = (linux.get("ssh") or {}).get("publicKeys") or []
    if linux.get("disablePasswordAuthentication"):
        home = f"/home/{profile['adminUsername']}/.ssh/authorized_keys"
        if not keys:
            raise invalid(
                "Authentication using either SSH or by user name and password must be enabled in "
                "Linux profile."
            )
        for key in keys:
            if key.get("path") != home:
                raise invalid(
                    "Destination path for SSH public keys is currently limited to its default "
                    "value "
                    f"{home} due to a known issue in Linux provisioning agent."
                )
            if not re.match(r"(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+", key.get("keyData") or ""):
                raise invalid(
                    "The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid."
                )
    elif not profile.get("adminPassword"):
        raise invalid("Required parameter 'osProfile.adminPassword' is missing (null).")
    data = profile.get("customData") or ""
    with contextlib.suppress(binascii.Error, ValueError):
        decoded = base64.b64decode(data, validate=True)
        if len(decoded) <= _MAX_DATA:
            return decoded.decode()
    raise invalid(
        "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 "
        "characters."
    )


def _keys(profile: dict[str, Any]) -> tuple[str, ...]:
    linux = profile.get("linuxConfiguration") or {}
    return tuple(it["keyData"] for it in (linux.get("ssh") or {}).get("publicKeys") or [])


def _check_network(
    cloud: Cloud, has: dict[str, Any], vm: str
) -> tuple[list[dict[str, Any]], list[Resource]]:
    """Interfaces that have to be made, and those that are there."""
    profile = has.get("networkProfile") or {}
    wanted = profile.get("networkInterfaceConfigurations") or []
    there = profile.get("networkInterfaces") or []
    if bool(wanted) == bool(there):
        raise invalid(
            "Required parameter 'networkProfile' must have either networkInterfaces or "
            "networkInterfaceConfigurations."
        )
    if wanted and profile.get("networkApiVersion") not in _NETWORK_VERSIONS:
        raise invalid(
            "Required parameter 'networkProfile.networkApiVersion' is missing or not one of "
            f"{', '.join(sorted(_NETWORK_VERSIONS))}."
        )
    for one in wanted:
        network.check_interface(cloud, one, vm)
        found = cloud.find(cloud.id_of(vm.split("/")[4], NIC, one["name"]))
        if found is not None:
            _check_free(cloud, found, vm)
    ready = []
    for one in there:
        found = cloud.find(one.get("id", ""))
        if found is None:
            raise ArmError(
                404,
                "NotFound",
                f"Resource {one.get('id')} referenced by resource {vm} was not found.",
            )
        _check_free(cloud, found, vm)
        ready.append(found)
    return list(wanted), ready


def _check_free(cloud: Cloud, interface: Resource, vm: str) -> None:
    user = interface.notes.get("vm")
    if user and user.lower() != vm.lower():
        raise ArmError(
            400,
            "NicInUse",
            f"Network Interface {interface.id} is used by existing resource {user}.",
        )
    network.require_not_reserved(cloud, interface, vm)


def _check_quota(cloud: Cloud, size: skus.Size, *, spot: bool) -> None:
    cores, spots, families, _ = skus.used(cloud)
    settings = cloud.settings
    if spot:
        checks = [("LowPriorityCores", spots, settings.spot_cores)]
    else:
        checks = [
            (f"{size.family} Family Cores", families.get(size.family, 0), settings.cores),
            ("Total Regional Cores", cores, settings.cores),
        ]
    for what, current, limit in checks:
        if current + size.cpus > limit:
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"Operation could not be completed as it results in exceeding approved {what} "
                "quota. "
                "Additional details - Deployment Model: Resource Manager, Current Limit: "
                f"{limit}, Current Usage: {current}, Additional Required: {size.cpus}, (Minimum) "
                "New "
                f"Limit Required: {current + size.cpus}. Submit a request for Quota increase at "
                "https://aka.ms/ProdportalCRP/.",
            )


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


def _body(
    vm: Resource,
    document: dict[str, Any],
    has: dict[str, Any],
    image: dict[str, Any],
    location: str,
    given: dict[str, str],
) -> dict[str, Any]:
    disk = dict((has.get("storageProfile") or {}).get("osDisk") or {})
    managed = {"storageAccountType": "Standard_LRS", **(disk.get("managedDisk") or {})}
    os_disk: dict[str, Any] = {
        "osType": "Linux",
        "name": disk.get("name") or f"{vm.name}_OsDisk_1_{uuid.uuid4().hex}",
        "createOption": disk.get("createOption", "FromImage"),
        "caching": disk.get("caching", "None"),
        "managedDisk": managed,
        "deleteOption": disk.get("deleteOption", "Detach"),
        "diskSizeGB": disk.get("diskSizeGB", _DISK_GB),
    }
    profile = {
        key: value
        for key, value in (has.get("osProfile") or {}).items()
        if key not in {"customData", "adminPassword"}
    }
    if "windowsConfiguration" not in profile:
        profile["linuxConfiguration"] = {
            "disablePasswordAuthentication": False,
            "provisionVMAgent": True,
            "patchSettings": {"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"},
            **(profile.get("linuxConfiguration") or {}),
        }
    else:
        os_disk["osType"] = "Windows"
        profile["windowsConfiguration"] = {
            "provisionVMAgent": True,
            "patchSettings": {"patchMode": "AutomaticByOS"},
            **profile["windowsConfiguration"],
        }
    profile |= {
        "secrets": [],
        "allowExtensionOperations": True,
        "requireGuestProvisionSignal": True,
    }
    interfaces = [
        {
            "id": it.id,
            "properties": {"primary": True, **_kept(vm.notes["released"][it.id.lower()])},
        }
        for it in vm.notes["interfaces"]
    ]
    properties: dict[str, Any] = {
        "vmId": vm.notes["machine"].instance,
        "hardwareProfile": {"vmSize": vm.notes["size"].name},
        "storageProfile": {"imageReference": image, "osDisk": os_disk, "dataDisks": []},
        "osProfile": profile,
        "networkProfile": {"networkInterfaces": interfaces},
        "provisioningState": "Creating",
    }
    for key in (
        "priority",
        "evictionPolicy",
        "billingProfile",
        "securityProfile",
        "diagnosticsProfile",
    ):
        if has.get(key) is not None:
            properties[key] = has[key]
    body: dict[str, Any] = {
        "name": vm.name,
        "id": vm.id,
        "type": VM,
        "location": location,
        "properties": properties,
    }
    if given:
        body["tags"] = given
    if document.get("zones"):
        body["zones"] = document["zones"]
    return body


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("primary", "deleteOption") if key in options}


# Looking at them.


@routes.add("GET", _PATH + "/{name}", VM)
async def get(call: Call) -> Answer:
    """Tell of one."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    return Answer(200, _expanded(call, vm, single=True), {"ETag": vm.etag})


@routes.add("GET", _PATH + "/{name}/instanceView", VM + "/instanceView")
async def view(call: Call) -> Answer:
    """Tell what state one is in."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    return Answer(200, _view(call.cloud, vm))


@routes.add("GET", _PATH, VM)
async def list_(call: Call) -> Answer:
    """Tell of those of a group."""
    found = [_expanded(call, it) for it in call.cloud.listed(VM, call.names["group"])]
    at = f"/subscriptions/{call.cloud.subscription}/resourceGroups/{call.names['group']}"
    return pages(call, found, f"{at}/providers/{VM}")


@routes.add("GET", f"{IN_SUBSCRIPTION}/providers/{VM}", VM)
async def list_all(call: Call) -> Answer:
    """Tell of all, or of their states alone."""
    only_status = call.query.get("statusonly", "").lower() == "true"
    found = [
        _status(call.cloud, it) if only_status else _expanded(call, it)
        for it in call.cloud.listed(VM)
    ]
    return pages(call, found, f"/subscriptions/{call.cloud.subscription}/providers/{VM}")


def _expanded(call: Call, vm: Resource, *, single: bool = False) -> dict[str, Any]:
    body = network.shown(vm)
    if call.query.get("$expand", "").lower() == "instanceview":
        properties = {**body["properties"], "instanceView": _view(call.cloud, vm)}
        return {**body, "properties": properties}
    return body


def _status(cloud: Cloud, vm: Resource) -> dict[str, Any]:
    return {
        "name": vm.name,
        "id": vm.id,
        "type": VM,
        "location": vm.body["location"],
        "properties": {
            "vmId": vm.properties["vmId"],
            "provisioningState": vm.properties["provisioningState"],
            "instanceView": _view(cloud, vm),
        },
    }


def _view(cloud: Cloud, vm: Resource) -> dict[str, Any]:
    state = vm.properties["provisioningState"].lower()
    power = vm.notes["power"]
    when = cloud.clock.stamp()
    statuses: list[dict[str, Any]] = []
    if state == "failed":
        fault = vm.notes.get("error")
        code = fault.code if fault is not None else "OSProvisioningTimedOut"
        statuses.append(
            {
                "code": f"ProvisioningState/failed/{code}",
                "level": "Error",
                "displayStatus": "Provisioning failed",
                "message": fault.message if fault is not None else "OS Provisioning timed out.",
                "time": when,
            }
        )
    elif state == "creating" and power == "running" and not vm.notes["guest"]:
        # As seen of Azure: three segments, beside a VM that runs.
        statuses.append(
            {
                "code": "ProvisioningState/succeeded/osProvisioningInProgress",
                "level": "Info",
                "displayStatus": "OS Provisioning In progress",
                "message": "This occurs when the VM has not yet reported that it is provisioned.",
                "time": when,
            }
        )
    else:
        statuses.append(
            {
                "code": f"ProvisioningState/{state}",
                "level": "Info",
                "displayStatus": f"Provisioning {state}" if state == "succeeded" else state.title(),
                "time": when,
            }
        )
    if power:
        statuses.append(
            {"code": f"PowerState/{power}", "level": "Info", "displayStatus": _POWER[power]}
        )
    found: dict[str, Any] = {
        "hyperVGeneration": "V2",
        "disks": [
            {
                "name": vm.properties["storageProfile"]["osDisk"]["name"],
                "statuses": [
                    {
                        "code": "ProvisioningState/succeeded",
                        "level": "Info",
                        "displayStatus": "Provisioning succeeded",
                        "time": when,
                    }
                ],
            }
        ],
        "statuses": statuses,
    }
    if vm.notes["guest"] and power == "running":
        found |= {"computerName": vm.notes["machine"].name, "osName": "debian", "osVersion": "12"}
        found["vmAgent"] = {"vmAgentVersion": "2.2", "statuses": []}
    return found


# Switching them on and off.


@routes.add("POST", _PATH + "/{name}/start", VM + "/start")
async def start(call: Call) -> Answer:
    """Start one, which needs a place for it again if it was deallocated."""
    return _switch(call, _start)


@routes.add("POST", _PATH + "/{name}/deallocate", VM + "/deallocate")
async def deallocate_call(call: Call) -> Answer:
    """Stop one, and give its place back."""
    return _switch(call, deallocate)


@routes.add("POST", _PATH + "/{name}/powerOff", VM + "/powerOff")
async def power_off(call: Call) -> Answer:
    """Stop one, and keep its place, which goes on costing."""
    return _switch(call, _power_off)


@routes.add("POST", _PATH + "/{name}/restart", VM + "/restart")
async def restart(call: Call) -> Answer:
    """Stop one and start it."""

    async def again(cloud: Cloud, vm: Resource) -> None:
        await _power_off(cloud, vm)
        await _start(cloud, vm)

    return _switch(call, again)


def _switch(call: Call, how: Any) -> Answer:
    cloud = call.cloud
    cloud.group_for_writing(call.names["group"])
    vm = cloud.resource(call.names["group"], VM, call.names["name"])
    if vm.notes["failed"]:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Cannot modify extensions in the VM when the VM '{vm.name}' is not running: its "
            "provisioning has failed.",
        )

    async def work() -> None:
        await asyncio.sleep(cloud.settings.write_s)
        if call.fault is not None:
            raise call.fault.raised()
        await how(cloud, vm)

    return begin(call, 202, vm.body["location"], _alone(vm, work()))


async def _start(cloud: Cloud, vm: Resource) -> None:
    if vm.notes["power"] == "running":
        return
    vm.notes["power"] = "starting"
    vm.properties["provisioningState"] = "Updating"
    began = time.time()
    await asyncio.sleep(cloud.settings.allocate_s)
    cloud.ledger.resume(vm.id)
    vm.notes["power"] = "running"
    machine: Machine = vm.notes["machine"]
    machine.rules = network.rules_of(cloud, vm.notes["interfaces"][0])
    await _until_up(cloud, vm, cloud.backend.start(machine))
    cloud.boots.append(Booted(vm.id, began, time.time()))
    vm.properties["provisioningState"] = "Succeeded"
    vm.touch()


async def deallocate(cloud: Cloud, vm: Resource) -> None:
    """Stop a VM and give its place back; its disk and address go on costing."""
    if vm.notes["power"] == "deallocated":
        return
    vm.notes["power"] = "deallocating"
    await cloud.backend.stop(vm.notes["machine"])
    cloud.ledger.pause(vm.id)
    vm.notes |= {"power": "deallocated", "guest": False}
    vm.properties["provisioningState"] = "Succeeded"
    vm.touch()


async def _power_off(cloud: Cloud, vm: Resource) -> None:
    vm.notes["power"] = "stopping"
    await cloud.backend.stop(vm.notes["machine"])
    vm.notes |= {"power": "stopped", "guest": False}


@routes.add("POST", _PATH + "/{name}/simulateEviction", VM + "/simulateEviction")
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
        await _alone(vm, deallocate(cloud, vm))


# Those that Windows-minded recordings ask for, and none here may have.


@routes.add("POST", _PATH + "/{name}/performMaintenance", VM + "/performMaintenance")
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


@routes.add("POST", _PATH + "/{name}/convertToManagedDisks", VM + "/convertToManagedDisks")
async def convert(call: Call) -> Answer:
    """Refuse: all disks are managed ones."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    raise ArmError(409, "OperationNotAllowed", f"VM '{vm.name}' is already using managed disks.")


@routes.add("POST", _PATH + "/{name}/reimage", VM + "/reimage")
async def reimage(call: Call) -> Answer:
    """Refuse."""
    call.cloud.resource(call.names["group"], VM, call.names["name"])
    raise ArmError(
        409,
        "OperationNotAllowed",
        "The Reimage and OSUpgrade Virtual Machine actions require that the virtual machine has "
        "Automatic OS Upgrades enabled.",
    )


# Ending them.


@routes.add("DELETE", _PATH + "/{name}", VM)
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
    await _alone(vm, cloud.backend.destroy(vm.notes["machine"]))
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


async def shut_down(cloud: Cloud, vm: Resource) -> None:
    """Deallocate one, as a schedule does."""
    if not vm.notes["failed"]:
        await _alone(vm, deallocate(cloud, vm))
