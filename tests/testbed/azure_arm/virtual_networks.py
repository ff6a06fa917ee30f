"""Virtual networks and their subnets."""

from __future__ import annotations

import ipaddress
from typing import Any

from tests.testbed.azure_arm.calls import Answer, Call, Routes, begin
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import invalid, no_resource
from tests.testbed.azure_arm.faults import VNET
from tests.testbed.azure_arm.network import PROVIDER, SUBNET, base, done, find, named, settle, shown

__all__ = ["routes"]

routes = Routes()


@routes.add("PUT", PROVIDER + "/virtualNetworks/{name}", VNET)
async def put_network(call: Call) -> Answer:
    """Make one, with its subnets."""
    cloud = call.cloud
    document, location = call.located()
    made = base(cloud, call, VNET, location, document)
    has = document.get("properties") or {}
    space = (has.get("addressSpace") or {}).get("addressPrefixes")
    if not space:
        raise invalid(f"Address space of {made.id} is missing.", "MissingAddressSpace")
    made.properties["addressSpace"] = {"addressPrefixes": space}
    subnets = [_subnet(cloud, made, it.get("name"), it) for it in has.get("subnets") or []]
    for subnet in subnets:
        cloud.add(subnet)
    made.properties["subnets"] = [shown(it) for it in subnets]
    made.properties["virtualNetworkPeerings"] = []
    made.properties["enableDdosProtection"] = False
    made.properties["enableVmProtection"] = False
    answer = done(cloud, call, made)
    for subnet in subnets:
        subnet.properties["provisioningState"] = "Succeeded"
    made.properties["subnets"] = [shown(it) for it in subnets]
    return answer


@routes.add("PUT", PROVIDER + "/virtualNetworks/{name}/subnets/{subnet}", SUBNET)
async def put_subnet(call: Call) -> Answer:
    """Make one subnet."""
    cloud = call.cloud
    cloud.group_for_writing(call.names["group"])
    network = cloud.resource(call.names["group"], VNET, call.names["name"])
    made = _subnet(cloud, network, call.names["subnet"], call.document())
    is_new = cloud.find(made.id) is None
    cloud.add(made)
    others = [it for it in network.properties["subnets"] if it["id"].lower() != made.id.lower()]
    network.properties["subnets"] = [*others, shown(made)]
    return begin(
        call,
        201 if is_new else 200,
        network.body["location"],
        settle(cloud, call, made),
        shown(made),
    )


@routes.add("GET", PROVIDER + "/virtualNetworks/{name}/subnets/{subnet}", SUBNET)
async def get_subnet(call: Call) -> Answer:
    """Tell of one subnet."""
    cloud = call.cloud
    network = cloud.resource(call.names["group"], VNET, call.names["name"])
    found = cloud.find(f"{network.id}/subnets/{call.names['subnet']}")
    if found is None:
        raise no_resource(SUBNET, f"{network.name}/{call.names['subnet']}", network.group)
    return Answer(200, shown(found), {"ETag": found.etag})


def _subnet(cloud: Cloud, network: Resource, name: Any, given: dict[str, Any]) -> Resource:
    has = given.get("properties") or {}
    prefix = has.get("addressPrefix") or next(iter(has.get("addressPrefixes") or []), None)
    if not name or not prefix:
        raise invalid(
            f"Subnet '{name}' of {network.id} has no address prefix.", "InvalidRequestFormat"
        )
    try:
        inner = ipaddress.ip_network(prefix)
        outer = [
            ipaddress.ip_network(it) for it in network.properties["addressSpace"]["addressPrefixes"]
        ]
    except ValueError as error:
        raise invalid(f"The address prefix is invalid: {error}", "InvalidCIDRNotation") from None
    if not any(inner.version == it.version and inner.subnet_of(it) for it in outer):  # type: ignore[arg-type]
        raise invalid(
            f"Subnet '{name}' is not valid in virtual network '{network.name}'.",
            "NetcfgInvalidSubnet",
        )
    properties: dict[str, Any] = {
        "provisioningState": "Updating",
        "addressPrefix": prefix,
        "delegations": [],
        "privateEndpointNetworkPolicies": "Enabled",
        "privateLinkServiceNetworkPolicies": "Enabled",
    }
    subnet_id = f"{network.id}/subnets/{name}"
    notes: dict[str, Any] = {"vnet": network.id.lower()}
    if has.get("networkSecurityGroup"):
        group = find(cloud, named(has["networkSecurityGroup"], "networkSecurityGroup"), subnet_id)
        properties["networkSecurityGroup"] = {"id": group.id}
        notes["nsg"] = group.id.lower()
    body = {"name": name, "id": subnet_id, "properties": properties, "type": SUBNET}
    made = Resource(subnet_id, SUBNET, name, network.group, body, notes=notes)
    made.touch()
    return made
