"""Security groups and their rules, and what they let in to VMs."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

from tests.testbed.azure_arm.calls import Answer, Call, Routes, begin
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError, invalid, no_resource
from tests.testbed.azure_arm.faults import NSG, PUBLIC_IP, VM
from tests.testbed.azure_arm.network import PROVIDER, SUBNET, base, done, settle
from tests.testbed.azure_arm.vms import Rule

__all__ = ["routes", "rules_of"]

routes = Routes()
_RULE = f"{NSG}/securityRules"


@routes.add("PUT", PROVIDER + "/networkSecurityGroups/{name}", NSG)
async def put_group(call: Call) -> Answer:
    """Make one, or replace its rules."""
    cloud = call.cloud
    document, location = call.located()
    made = base(cloud, call, NSG, location, document)
    rules = (document.get("properties") or {}).get("securityRules") or []
    made.properties["securityRules"] = [_rule(made, it.get("name"), it) for it in rules]
    _check_rules(made)
    made.properties["defaultSecurityRules"] = [_rule(made, *it) for it in _DEFAULTS]
    answer = done(cloud, call, made)
    _refilter(cloud, made)
    return answer


@routes.add("PUT", PROVIDER + "/networkSecurityGroups/{name}/securityRules/{rule}", _RULE)
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
    work = settle(cloud, call, group)
    return begin(call, status, group.body["location"], work, made)


@routes.add("GET", PROVIDER + "/networkSecurityGroups/{name}/securityRules/{rule}", _RULE)
async def get_rule(call: Call) -> Answer:
    """Tell of one."""
    group = call.cloud.resource(call.names["group"], NSG, call.names["name"])
    for rule in group.properties["securityRules"]:
        if rule["name"].lower() == call.names["rule"].lower():
            return Answer(200, rule)
    raise no_resource(_RULE, f"{group.name}/{call.names['rule']}", group.group)


@routes.add("GET", PROVIDER + "/networkSecurityGroups/{name}/securityRules", _RULE)
async def list_rules(call: Call) -> Answer:
    """Tell of all of a group."""
    group = call.cloud.resource(call.names["group"], NSG, call.names["name"])
    return Answer(200, {"value": group.properties["securityRules"]})


@routes.add("DELETE", PROVIDER + "/networkSecurityGroups/{name}/securityRules/{rule}", _RULE)
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
    return begin(call, 202, group.body["location"], settle(cloud, call, group))


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
    subnets = {it.id.lower() for it in cloud.of_kind(SUBNET) if it.notes.get("nsg") == this}
    for vm in cloud.of_kind(VM):
        for interface in vm.notes["interfaces"]:
            if interface.notes.get("nsg") == this or interface.notes["subnet"] in subnets:
                machine = vm.notes["machine"]
                machine.rules = rules_of(cloud, interface)
                cloud.run(cloud.backend.filter(machine))
