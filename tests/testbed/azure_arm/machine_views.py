"""How VMs are told of."""

from __future__ import annotations

import uuid
from typing import Any

from tests.testbed.azure_arm import network
from tests.testbed.azure_arm.calls import IN_GROUP, IN_SUBSCRIPTION, Answer, Call, Routes, pages
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.faults import VM
from tests.testbed.azure_arm.machine_checks import IMAGE_GB

__all__ = ["PATH", "new_body", "routes"]

routes = Routes()
PATH = IN_GROUP + "/providers/Microsoft.Compute/virtualMachines"
_POWER = {
    "starting": "VM starting",
    "running": "VM running",
    "stopping": "VM stopping",
    "stopped": "VM stopped",
    "deallocating": "VM deallocating",
    "deallocated": "VM deallocated",
}


def new_body(
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
        "diskSizeGB": disk.get("diskSizeGB", IMAGE_GB),
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


@routes.add("GET", PATH + "/{name}", VM)
async def get(call: Call) -> Answer:
    """Tell of one."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    return Answer(200, _expanded(call, vm, single=True), {"ETag": vm.etag})


@routes.add("GET", PATH + "/{name}/instanceView", VM + "/instanceView")
async def view(call: Call) -> Answer:
    """Tell what state one is in."""
    vm = call.cloud.resource(call.names["group"], VM, call.names["name"])
    return Answer(200, _view(call.cloud, vm))


@routes.add("GET", PATH, VM)
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
