"""Network interfaces.

The private address of one is one that this machine can reach, out of the block of its network,
whatever prefix the subnet has.
"""

from __future__ import annotations

import uuid
from typing import Any

from tests.testbed.azure_arm.calls import Answer, Call, Routes
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import invalid
from tests.testbed.azure_arm.faults import NIC, VM
from tests.testbed.azure_arm.network import PROVIDER, base, done, find, named, shown
from tests.testbed.azure_arm.public_addresses import make_public_address
from tests.testbed.azure_arm.security_groups import rules_of

__all__ = ["check_interface", "make_interface", "routes"]

routes = Routes()


@routes.add("PUT", PROVIDER + "/networkInterfaces/{name}", NIC)
async def put_interface(call: Call) -> Answer:
    """Make one."""
    cloud = call.cloud
    document, location = call.located()
    made = base(cloud, call, NIC, location, document)
    is_new = cloud.find(made.id) is None
    _fill_interface(cloud, made, document.get("properties") or {})
    answer = done(cloud, call, made)
    # As recorded: it is Succeeded at once, though its operation goes on.
    made.properties["provisioningState"] = "Succeeded"
    if not is_new:
        for vm in cloud.of_kind(VM):
            if made in vm.notes["interfaces"]:
                vm.notes["machine"].rules = rules_of(cloud, made)
                cloud.run(cloud.backend.filter(vm.notes["machine"]))
    answer.body = shown(made)
    return answer


def make_interface(cloud: Cloud, group: str, location: str, given: dict[str, Any]) -> Resource:
    """One that is told of within a VM, with its public address."""
    name = given.get("name")
    if not name:
        raise invalid("networkInterfaceConfiguration has no name.")
    made_id = cloud.id_of(group, NIC, name)
    old = cloud.find(made_id)
    if old is not None:
        return old
    body: dict[str, Any] = {
        "name": name,
        "id": made_id,
        "type": NIC,
        "location": location,
        "properties": {"provisioningState": "Succeeded", "resourceGuid": str(uuid.uuid4())},
    }
    made = Resource(made_id, NIC, name, group, body)
    has = dict(given.get("properties") or {})
    configurations = []
    for one in has.get("ipConfigurations") or []:
        inner = dict(one.get("properties") or {})
        wanted = inner.pop("publicIPAddressConfiguration", None)
        if wanted:
            address = make_public_address(cloud, group, location, wanted)
            inner["publicIPAddress"] = {"id": address.id}
        configurations.append({**one, "properties": inner})
    has["ipConfigurations"] = configurations
    _fill_interface(cloud, made, has)
    cloud.add(made)
    return made


def check_interface(cloud: Cloud, given: dict[str, Any], user: str) -> None:
    """What is told of within a VM may be made."""
    has = given.get("properties") or {}
    if not given.get("name") or not has.get("ipConfigurations"):
        raise invalid("networkInterfaceConfiguration has no name or no ipConfigurations.")
    for one in has["ipConfigurations"]:
        inner = one.get("properties") or {}
        if not one.get("name"):
            raise invalid("An ipConfiguration has no name.")
        find(cloud, named(inner.get("subnet"), "subnet"), user)
    if has.get("networkSecurityGroup"):
        find(cloud, named(has["networkSecurityGroup"], "networkSecurityGroup"), user)


def _fill_interface(cloud: Cloud, made: Resource, has: dict[str, Any]) -> None:
    configurations = has.get("ipConfigurations") or []
    if not configurations:
        raise invalid(
            f"{made.id} has no ipConfigurations.", "NetworkInterfaceMustHaveIpConfigurations"
        )
    filled = []
    for index, one in enumerate(configurations):
        inner = one.get("properties") or {}
        subnet = find(cloud, named(inner.get("subnet"), "subnet"), made.id)
        made.notes["subnet"] = subnet.id.lower()
        made.notes["vnet"] = subnet.notes["vnet"]
        if "address" not in made.notes:
            made.notes["address"] = cloud.backend.reserve(subnet.notes["vnet"])
        properties: dict[str, Any] = {
            "provisioningState": "Succeeded",
            "privateIPAddress": made.notes["address"],
            "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": subnet.id},
            "primary": index == 0,
            "privateIPAddressVersion": "IPv4",
        }
        configuration_id = f"{made.id}/ipConfigurations/{one['name']}"
        if inner.get("publicIPAddress"):
            address = find(cloud, named(inner["publicIPAddress"], "publicIPAddress"), made.id)
            properties["publicIPAddress"] = {"id": address.id}
            address.notes["interface"] = made.id.lower()
            address.properties["ipAddress"] = made.notes["address"]
            address.properties["ipConfiguration"] = {"id": configuration_id}
            address.touch()
        made.touch()
        filled.append(
            {
                "name": one["name"],
                "id": configuration_id,
                "etag": made.etag,
                "type": f"{NIC}/ipConfigurations",
                "properties": properties,
            }
        )
    made.properties["ipConfigurations"] = filled
    if has.get("networkSecurityGroup"):
        group = find(cloud, named(has["networkSecurityGroup"], "networkSecurityGroup"), made.id)
        made.properties["networkSecurityGroup"] = {"id": group.id}
        made.notes["nsg"] = group.id.lower()
    made.properties["dnsSettings"] = {
        "dnsServers": [],
        "appliedDnsServers": [],
        "internalDomainNameSuffix": "stand-in.internal.cloudapp.net",
    }
    made.properties["enableAcceleratedNetworking"] = bool(has.get("enableAcceleratedNetworking"))
    made.properties["enableIPForwarding"] = bool(has.get("enableIPForwarding"))
    for empty in ("hostedWorkloads", "tapConfigurations"):
        made.properties[empty] = []
    made.properties["nicType"] = "Standard"
