"""Security groups, networks, interfaces and public addresses.

The private address of an interface is one that this machine can reach, out of the block of its
network, whatever prefix the subnet has; and a public address is that of the interface it is at.
"""

from __future__ import annotations

import asyncio
import ipaddress
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
from tests.testbed.azure_arm.errors import ArmError, invalid, no_resource
from tests.testbed.azure_arm.faults import NIC, NSG, PUBLIC_IP, VM, VNET
from tests.testbed.azure_arm.vms import Rule

__all__ = ["make_interface", "make_public_address", "routes", "rules_of", "shown"]

routes = Routes()
_PROVIDER = IN_GROUP + "/providers/Microsoft.Network"
_SUBNET = f"{VNET}/subnets"
_RULE = f"{NSG}/securityRules"
# What an address costs in an hour, in USD.
ADDRESS_PRICE = 0.005
RESERVED_S = 180.0


def shown(resource: Resource) -> dict[str, Any]:
    """A resource as it is answered, with its etag."""
    return {**resource.body, "etag": resource.etag}


def _find(cloud: Cloud, resource_id: str, user: str) -> Resource:
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


def _named(value: Any, what: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise invalid(f"{what} has no id.", "InvalidRequestFormat")
    found: str = value["id"]
    return found


async def _settle(cloud: Cloud, call: Call, *resources: Resource) -> None:
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


def _base(cloud: Cloud, call: Call, kind: str, location: str, document: dict[str, Any]) -> Resource:
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


def _done(cloud: Cloud, call: Call, resource: Resource) -> Answer:
    """Put it where it belongs, and answer."""
    is_new = cloud.find(resource.id) is None
    resource.properties["provisioningState"] = "Updating"
    if is_new:
        cloud.add(resource)
    resource.touch()
    location = resource.body["location"]
    return begin(
        call, 201 if is_new else 200, location, _settle(cloud, call, resource), shown(resource)
    )


def _get(kind: str) -> None:
    path = f"{_PROVIDER}/{kind.split('/')[1]}"

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
    return users + [it.id for it in cloud.of_kind(_SUBNET) if it.notes.get("nsg") == group_id]


# Security groups.


@routes.add("PUT", _PROVIDER + "/networkSecurityGroups/{name}", NSG)
async def put_group(call: Call) -> Answer:
    """Make one, or replace its rules."""
    cloud = call.cloud
    document, location = call.located()
    made = _base(cloud, call, NSG, location, document)
    rules = (document.get("properties") or {}).get("securityRules") or []
    made.properties["securityRules"] = [_rule(made, it.get("name"), it) for it in rules]
    _check_rules(made)
    made.properties["defaultSecurityRules"] = [_rule(made, *it) for it in _DEFAULTS]
    answer = _done(cloud, call, made)
    _refilter(cloud, made)
    return answer


@routes.add("PUT", _PROVIDER + "/networkSecurityGroups/{name}/securityRules/{rule}", _RULE)
async def put_rule(call: Call) -> Answer:
    """Make one rule, or replace it."""
    cloud = call.cloud
    cloud.group_for_writing(call.names["group"])
    group = cloud.resource(call.names["group"], NSG, call.names["name"])
    made = _rule(group, call.names["rule"], call.document())
    rules = group.properties["securityRules"]
    others = [it for it in rules if it["name"].lower() != made["name"].lower()]
    group.properties["securityRules"] = [*others, made]
    try:
        _check_rules(group)
    except ArmError:
        group.properties["securityRules"] = rules
        raise
    _refilter(cloud, group)
    status = 200 if len(others) < len(rules) else 201
    work = _settle(cloud, call, group)
    return begin(call, status, group.body["location"], work, made)


@routes.add("GET", _PROVIDER + "/networkSecurityGroups/{name}/securityRules/{rule}", _RULE)
async def get_rule(call: Call) -> Answer:
    """Tell of one."""
    group = call.cloud.resource(call.names["group"], NSG, call.names["name"])
    for rule in group.properties["securityRules"]:
        if rule["name"].lower() == call.names["rule"].lower():
            return Answer(200, rule)
    raise no_resource(_RULE, f"{group.name}/{call.names['rule']}", group.group)


@routes.add("GET", _PROVIDER + "/networkSecurityGroups/{name}/securityRules", _RULE)
async def list_rules(call: Call) -> Answer:
    """Tell of all of a group."""
    group = call.cloud.resource(call.names["group"], NSG, call.names["name"])
    return Answer(200, {"value": group.properties["securityRules"]})


@routes.add("DELETE", _PROVIDER + "/networkSecurityGroups/{name}/securityRules/{rule}", _RULE)
async def delete_rule(call: Call) -> Answer:
    """Remove one."""
    cloud = call.cloud
    group = cloud.resource(call.names["group"], NSG, call.names["name"])
    rules = group.properties["securityRules"]
    left = [it for it in rules if it["name"].lower() != call.names["rule"].lower()]
    if len(left) == len(rules):
        return Answer(204)
    group.properties["securityRules"] = left
    _refilter(cloud, group)
    return begin(call, 202, group.body["location"], _settle(cloud, call, group))


def _default(name: str, priority: int, direction: str, access: str, source: str, to: str) -> Any:
    return (
        name,
        {
            "properties": {
                "protocol": "*",
                "sourcePortRange": "*",
                "destinationPortRange": "*",
                "sourceAddressPrefix": source,
                "destinationAddressPrefix": to,
                "access": access,
                "priority": priority,
                "direction": direction,
            }
        },
    )


_DEFAULTS = (
    _default("AllowVnetInBound", 65000, "Inbound", "Allow", "VirtualNetwork", "VirtualNetwork"),
    _default("AllowAzureLoadBalancerInBound", 65001, "Inbound", "Allow", "AzureLoadBalancer", "*"),
    _default("DenyAllInBound", 65500, "Inbound", "Deny", "*", "*"),
    _default("AllowVnetOutBound", 65000, "Outbound", "Allow", "VirtualNetwork", "VirtualNetwork"),
    _default("AllowInternetOutBound", 65001, "Outbound", "Allow", "*", "Internet"),
    _default("DenyAllOutBound", 65500, "Outbound", "Deny", "*", "*"),
)
_REQUIRED = ("protocol", "access", "priority", "direction")


def _rule(group: Resource, name: Any, given: dict[str, Any]) -> dict[str, Any]:
    wanted = dict(given.get("properties") or {})
    missing = [it for it in _REQUIRED if wanted.get(it) in (None, "")]
    missing += [
        one
        for one, several in (
            ("sourceAddressPrefix", "sourceAddressPrefixes"),
            ("destinationAddressPrefix", "destinationAddressPrefixes"),
            ("destinationPortRange", "destinationPortRanges"),
        )
        if not wanted.get(one) and not wanted.get(several)
    ]
    if not name or missing:
        raise invalid(
            f"Security rule {name or '?'} of {group.id} lacks: {', '.join(missing) or 'name'}.",
            "SecurityRuleInvalidFormat",
        )
    if wanted["access"] not in {"Allow", "Deny"} or wanted["direction"] not in {
        "Inbound",
        "Outbound",
    }:
        raise invalid(
            f"Security rule {name} has an invalid access or direction.", "InvalidRequestFormat"
        )
    for source in _sources(wanted):
        if source not in {"*", "Internet", "VirtualNetwork", "AzureLoadBalancer"}:
            try:
                ipaddress.ip_network(source, strict=False)
            except ValueError:
                raise invalid(
                    f"Security rule has invalid Address prefix. Value provided: {source}",
                    "SecurityRuleInvalidAddressPrefix",
                ) from None
    wanted.setdefault("sourcePortRange", "*")
    for one in ("sourcePortRanges", "destinationPortRanges"):
        wanted.setdefault(one, [])
    for one in ("sourceAddressPrefixes", "destinationAddressPrefixes"):
        wanted.setdefault(one, [])
    kind = "securityRules" if wanted["priority"] <= 4096 else "defaultSecurityRules"
    return {
        "name": name,
        "id": f"{group.id}/{kind}/{name}",
        "etag": f'W/"{uuid.uuid4()}"',
        "type": f"{NSG}/{kind}",
        "properties": {"provisioningState": "Succeeded", **wanted},
    }


def _check_rules(group: Resource) -> None:
    seen: dict[tuple[str, int], str] = {}
    for rule in group.properties["securityRules"]:
        has = rule["properties"]
        if not isinstance(has["priority"], int) or not 100 <= has["priority"] <= 4096:
            raise invalid(
                f"Security rule has invalid Priority. Value should be between 100 and 4096. Value "
                f"provided: {has['priority']}",
                "SecurityRuleInvalidPriority",
            )
        key = (has["direction"], has["priority"])
        if key in seen:
            raise invalid(
                f"Security rule {seen[key]} conflicts with rule {rule['name']}. Rules cannot have "
                "the same Priority and Direction.",
                "SecurityRuleConflict",
            )
        seen[key] = rule["name"]


def _sources(has: dict[str, Any]) -> list[str]:
    one = has.get("sourceAddressPrefix")
    return [*([one] if one else []), *(has.get("sourceAddressPrefixes") or [])]


def rules_of(cloud: Cloud, interface: Resource) -> list[Rule]:
    """What an interface lets in from outside its network. Without a public address: nothing."""
    if not any(
        it.notes.get("interface") == interface.id.lower() for it in cloud.of_kind(PUBLIC_IP)
    ):
        return []
    subnet = cloud.find(interface.notes["subnet"])
    groups = [interface.notes.get("nsg"), subnet.notes.get("nsg") if subnet else None]
    # Where both have one, both must let it in; the one of the subnet is enough here if it is alone.
    found = next((cloud.find(it) for it in groups if it), None)
    rules: list[Rule] = []
    for rule in found.properties["securityRules"] if found is not None else []:
        has = rule["properties"]
        if has["direction"] != "Inbound":
            continue
        one = has.get("destinationPortRange")
        ports = (*([one] if one else []), *(has.get("destinationPortRanges") or []))
        for source in _sources(has):
            if source in {"VirtualNetwork", "AzureLoadBalancer"}:
                continue
            rules.append(
                Rule(
                    has["priority"],
                    has["access"] == "Allow",
                    has["protocol"].lower(),
                    "*" if source in {"*", "Internet"} else source,
                    ports,
                )
            )
    return sorted(rules, key=lambda it: it.priority)


def _refilter(cloud: Cloud, group: Resource) -> None:
    """Have VMs that run heed what the group says now."""
    this = group.id.lower()
    subnets = {it.id.lower() for it in cloud.of_kind(_SUBNET) if it.notes.get("nsg") == this}
    for vm in cloud.of_kind(VM):
        for interface in vm.notes["interfaces"]:
            if interface.notes.get("nsg") == this or interface.notes["subnet"] in subnets:
                machine = vm.notes["machine"]
                machine.rules = rules_of(cloud, interface)
                cloud.run(cloud.backend.filter(machine))


# Networks.


@routes.add("PUT", _PROVIDER + "/virtualNetworks/{name}", VNET)
async def put_network(call: Call) -> Answer:
    """Make one, with its subnets."""
    cloud = call.cloud
    document, location = call.located()
    made = _base(cloud, call, VNET, location, document)
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
    answer = _done(cloud, call, made)
    for subnet in subnets:
        subnet.properties["provisioningState"] = "Succeeded"
    made.properties["subnets"] = [shown(it) for it in subnets]
    return answer


@routes.add("PUT", _PROVIDER + "/virtualNetworks/{name}/subnets/{subnet}", _SUBNET)
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
        _settle(cloud, call, made),
        shown(made),
    )


@routes.add("GET", _PROVIDER + "/virtualNetworks/{name}/subnets/{subnet}", _SUBNET)
async def get_subnet(call: Call) -> Answer:
    """Tell of one subnet."""
    cloud = call.cloud
    network = cloud.resource(call.names["group"], VNET, call.names["name"])
    found = cloud.find(f"{network.id}/subnets/{call.names['subnet']}")
    if found is None:
        raise no_resource(_SUBNET, f"{network.name}/{call.names['subnet']}", network.group)
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
        group = _find(cloud, _named(has["networkSecurityGroup"], "networkSecurityGroup"), subnet_id)
        properties["networkSecurityGroup"] = {"id": group.id}
        notes["nsg"] = group.id.lower()
    body = {"name": name, "id": subnet_id, "properties": properties, "type": _SUBNET}
    made = Resource(subnet_id, _SUBNET, name, network.group, body, notes=notes)
    made.touch()
    return made


# Public addresses.


@routes.add("PUT", _PROVIDER + "/publicIPAddresses/{name}", PUBLIC_IP)
async def put_address(call: Call) -> Answer:
    """Make one. What it is, is known when it is at an interface."""
    cloud = call.cloud
    document, location = call.located()
    made = _base(cloud, call, PUBLIC_IP, location, document)
    _fill_address(made, document)
    is_new = cloud.find(made.id) is None
    answer = _done(cloud, call, made)
    if is_new:
        cloud.ledger.begin(made.id, "address", ADDRESS_PRICE)
    return answer


def _fill_address(made: Resource, given: dict[str, Any]) -> None:
    has = given.get("properties") or {}
    made.body["sku"] = {"tier": "Regional", **(given.get("sku") or {"name": "Standard"})}
    made.properties.setdefault("publicIPAddressVersion", "IPv4")
    made.properties["publicIPAllocationMethod"] = has.get("publicIPAllocationMethod", "Static")
    made.properties["idleTimeoutInMinutes"] = has.get("idleTimeoutInMinutes", 4)
    made.properties["ipTags"] = []
    if has.get("deleteOption"):
        made.properties["deleteOption"] = has["deleteOption"]


def make_public_address(cloud: Cloud, group: str, location: str, given: dict[str, Any]) -> Resource:
    """One that is told of within a VM."""
    name = given.get("name")
    if not name:
        raise invalid("publicIPAddressConfiguration has no name.")
    made_id = cloud.id_of(group, PUBLIC_IP, name)
    body: dict[str, Any] = {
        "name": name,
        "id": made_id,
        "type": PUBLIC_IP,
        "location": location,
        "properties": {"provisioningState": "Succeeded", "resourceGuid": str(uuid.uuid4())},
    }
    made = Resource(made_id, PUBLIC_IP, name, group, body)
    _fill_address(made, given)
    old = cloud.find(made_id)
    if old is not None:
        return old
    cloud.add(made)
    cloud.ledger.begin(made.id, "address", ADDRESS_PRICE)
    return made


# Interfaces.


@routes.add("PUT", _PROVIDER + "/networkInterfaces/{name}", NIC)
async def put_interface(call: Call) -> Answer:
    """Make one."""
    cloud = call.cloud
    document, location = call.located()
    made = _base(cloud, call, NIC, location, document)
    is_new = cloud.find(made.id) is None
    _fill_interface(cloud, made, document.get("properties") or {})
    answer = _done(cloud, call, made)
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
        _find(cloud, _named(inner.get("subnet"), "subnet"), user)
    if has.get("networkSecurityGroup"):
        _find(cloud, _named(has["networkSecurityGroup"], "networkSecurityGroup"), user)


def _fill_interface(cloud: Cloud, made: Resource, has: dict[str, Any]) -> None:
    configurations = has.get("ipConfigurations") or []
    if not configurations:
        raise invalid(
            f"{made.id} has no ipConfigurations.", "NetworkInterfaceMustHaveIpConfigurations"
        )
    filled = []
    for index, one in enumerate(configurations):
        inner = one.get("properties") or {}
        subnet = _find(cloud, _named(inner.get("subnet"), "subnet"), made.id)
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
            address = _find(cloud, _named(inner["publicIPAddress"], "publicIPAddress"), made.id)
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
        group = _find(cloud, _named(has["networkSecurityGroup"], "networkSecurityGroup"), made.id)
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
