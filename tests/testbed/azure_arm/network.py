"""What resources of networks have in common: they are written, read and deleted alike."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from tests.testbed.azure_arm import tags
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
from tests.testbed.azure_arm.faults import NIC, NSG, PUBLIC_IP, VNET

routes = Routes()
PROVIDER = IN_GROUP + "/providers/Microsoft.Network"
SUBNET = f"{VNET}/subnets"
RESERVED_S = 180.0


def shown(resource: Resource) -> dict[str, Any]:
    """A resource as it is answered, with its etag."""
    return {**resource.body, "etag": resource.etag}


def find(cloud: Cloud, resource_id: str, user: str) -> Resource:
    """What one resource names in another; an error if that does not exist."""
    found = cloud.find(resource_id)
    if found is None:
        raise ArmError(
            400,
            "InvalidResourceReference",
            f"Resource {resource_id} referenced by resource {user} was not found. Please make sure "
            "that the referenced resource exists, and that both resources are in the same region.",
        )
    return found


def named(value: Any, what: str) -> str:
    """The id of a resource that another one names."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise invalid(f"{what} has no id.", "InvalidRequestFormat")
    found: str = value["id"]
    return found


async def settle(cloud: Cloud, call: Call, *resources: Resource) -> None:
    """Have what was just written be done with, after a while."""
    await asyncio.sleep(cloud.settings.write_s)
    for resource in resources:
        if call.fault is not None:
            resource.properties["provisioningState"] = "Failed"
        elif resource.properties["provisioningState"] == "Updating":
            resource.properties["provisioningState"] = "Succeeded"
        resource.touch()
    if call.fault is not None:
        raise call.fault.raised()


def base(cloud: Cloud, call: Call, kind: str, location: str, document: dict[str, Any]) -> Resource:
    """A new resource, or the old one of that name with other tags."""
    group = cloud.group_for_writing(call.names["group"])
    name = call.names["name"]
    resource_id = cloud.id_of(call.names["group"], kind, name)
    given = tags.check(document.get("tags"), cloud.settings.max_tags)
    old = cloud.find(resource_id)
    if old is not None:
        if given:
            old.body["tags"] = given
        return old
    body: dict[str, Any] = {
        "name": name,
        "id": resource_id,
        "type": kind,
        "location": location,
        "properties": {"provisioningState": "Updating", "resourceGuid": str(uuid.uuid4())},
    }
    if given:
        body["tags"] = given
    return Resource(resource_id, kind, name, group.name, body)


def done(cloud: Cloud, call: Call, resource: Resource) -> Answer:
    """Put it where it belongs, and answer."""
    is_new = cloud.find(resource.id) is None
    resource.properties["provisioningState"] = "Updating"
    if is_new:
        cloud.add(resource)
    resource.touch()
    location = resource.body["location"]
    return begin(
        call, 201 if is_new else 200, location, settle(cloud, call, resource), shown(resource)
    )


def _get(kind: str) -> None:
    path = f"{PROVIDER}/{kind.split('/')[1]}"

    @routes.add("GET", path + "/{name}", kind)
    async def get(call: Call) -> Answer:
        found = call.cloud.resource(call.names["group"], kind, call.names["name"])
        return Answer(200, shown(found), {"ETag": found.etag})

    @routes.add("GET", path, kind)
    async def list_(call: Call) -> Answer:
        found = [shown(it) for it in call.cloud.listed(kind, call.names["group"])]
        at = f"/subscriptions/{call.cloud.subscription}/resourceGroups/{call.names['group']}"
        return pages(call, found, f"{at}/providers/{kind}")

    @routes.add("GET", f"{IN_SUBSCRIPTION}/providers/{kind}", kind)
    async def list_all(call: Call) -> Answer:
        found = [shown(it) for it in call.cloud.listed(kind)]
        return pages(call, found, f"/subscriptions/{call.cloud.subscription}/providers/{kind}")

    @routes.add("DELETE", path + "/{name}", kind)
    async def delete(call: Call) -> Answer:
        cloud = call.cloud
        group = cloud.group(call.names["group"])
        found = cloud.find(cloud.id_of(group.name, kind, call.names["name"]))
        if found is None:
            return Answer(204)
        _require_free(cloud, found)

        async def remove() -> None:
            await asyncio.sleep(cloud.settings.write_s)
            if call.fault is not None:
                raise call.fault.raised()
            discard(cloud, found)

        return begin(call, 202, found.body["location"], remove())


for _kind in (NSG, VNET, NIC, PUBLIC_IP):
    _get(_kind)


def discard(cloud: Cloud, resource: Resource) -> None:
    """It is no more, and what named it does so no more."""
    cloud.free_address(resource)
    cloud.remove(resource)
    if resource.kind == VNET:
        for child in list(cloud.resources.values()):
            if child.id.lower().startswith(resource.id.lower() + "/"):
                cloud.remove(child)
    if resource.kind == NIC:
        for address in cloud.of_kind(PUBLIC_IP):
            if address.notes.get("interface") == resource.id.lower():
                address.notes.pop("interface")
                address.properties.pop("ipConfiguration", None)


def _require_free(cloud: Cloud, resource: Resource) -> None:
    """It may be deleted: nothing uses it."""
    this = resource.id.lower()
    if resource.kind == NIC:
        if user := resource.notes.get("vm"):
            raise ArmError(
                400,
                "NicInUse",
                f"Network Interface {resource.id} is used by existing resource {user}. In order to "
                "delete the network interface, it must be dissociated from the resource. To learn "
                "more, see aka.ms/deletenic.",
            )
        require_not_reserved(cloud, resource, "")
    for other in cloud.of_kind(NIC):
        if resource.kind == PUBLIC_IP and resource.notes.get("interface") == other.id.lower():
            raise ArmError(
                400,
                "PublicIPAddressCannotBeDeleted",
                f"Public IP address {resource.id} can not be deleted since it is still allocated "
                "to "
                f"resource {other.properties['ipConfigurations'][0]['id']}. In order to delete the "
                "public IP, disassociate/detach the Public IP address from the resource.",
            )
        if resource.kind == VNET and other.notes.get("vnet") == this:
            raise ArmError(
                400,
                "InUseSubnetCannotBeDeleted",
                f"Subnet {other.properties['ipConfigurations'][0]['properties']['subnet']['id']} "
                "is "
                f"in use by {other.id} and cannot be deleted. In order to delete the subnet, "
                "delete "
                "all the resources within the subnet. See aka.ms/deletesubnet.",
            )
    if resource.kind == NSG:
        for user_id in _users_of_group(cloud, this):
            raise ArmError(
                400,
                "InUseNetworkSecurityGroupCannotBeDeleted",
                f"Network security group {resource.id} cannot be deleted because it is in use by "
                "the "
                f"following resources: {user_id}. In order to delete the Network security group, "
                "remove the association with the resource(s).",
            )


def require_not_reserved(cloud: Cloud, interface: Resource, vm: str) -> None:
    """No VM that failed holds it, but this one."""
    holder, until = interface.notes.get("reserved", ("", 0.0))
    if holder and holder.lower() != vm.lower() and cloud.clock.now() < until:
        raise ArmError(
            400,
            "NicReservedForAnotherVm",
            "Nic(s) in request is reserved for another Virtual Machine for 180 seconds. Please "
            f"provide another nic(s) or retry after 180 seconds. Reserved VM: {holder}",
        )


def reserve_for(cloud: Cloud, interface: Resource, vm: str) -> None:
    """A VM that failed holds it for a while."""
    interface.notes["reserved"] = (vm, cloud.clock.now() + RESERVED_S)


def _users_of_group(cloud: Cloud, group_id: str) -> list[str]:
    users = [it.id for it in cloud.of_kind(NIC) if it.notes.get("nsg") == group_id]
    return users + [it.id for it in cloud.of_kind(SUBNET) if it.notes.get("nsg") == group_id]
