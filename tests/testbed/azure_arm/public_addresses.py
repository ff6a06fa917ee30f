"""Public addresses. One is that of the interface it is at."""

from __future__ import annotations

import uuid
from typing import Any

from tests.testbed.azure_arm.calls import Answer, Call, Routes
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import invalid
from tests.testbed.azure_arm.faults import PUBLIC_IP
from tests.testbed.azure_arm.network import PROVIDER, base, done

__all__ = ["make_public_address", "routes"]

routes = Routes()
# What an address costs in an hour, in USD.
ADDRESS_PRICE = 0.005


@routes.add("PUT", PROVIDER + "/publicIPAddresses/{name}", PUBLIC_IP)
async def put_address(call: Call) -> Answer:
    """Make one. What it is, is known when it is at an interface."""
    cloud = call.cloud
    document, location = call.located()
    made = base(cloud, call, PUBLIC_IP, location, document)
    _fill_address(made, document)
    is_new = cloud.find(made.id) is None
    answer = done(cloud, call, made)
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
