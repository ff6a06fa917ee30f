"""Resource groups."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.testbed.azure_arm import machines, tags
from tests.testbed.azure_arm.calls import IN_GROUP, IN_SUBSCRIPTION, Answer, Call, Routes, pages
from tests.testbed.azure_arm.cloud import Cloud, Group
from tests.testbed.azure_arm.errors import ArmError, invalid
from tests.testbed.azure_arm.faults import DISK, GROUP, NIC, NSG, PUBLIC_IP, VNET
from tests.testbed.azure_arm.skus import LOCATIONS

__all__ = ["routes"]

routes = Routes()
_FORCED = {
    "microsoft.compute/virtualmachines",
    "microsoft.compute/virtualmachinescalesets",
    "microsoft.databricks/workspaces",
}


@routes.add("PUT", IN_GROUP, GROUP)
async def put(call: Call) -> Answer:
    """Make one, or set its tags anew."""
    cloud, name = call.cloud, call.names["group"]
    document, location = call.located()
    if not re.fullmatch(r"[\w.()-]{0,89}[\w()-]", name):
        raise invalid(
            f"The provided resource group name '{name}' is not valid.", "InvalidResourceGroup"
        )
    wanted = tags.check(document.get("tags"), cloud.settings.max_tags)
    if location not in LOCATIONS:
        raise ArmError(
            400,
            "LocationNotAvailableForResourceGroup",
            f"The provided location '{location}' is not available for resource group. List of "
            f"available regions is '{','.join(LOCATIONS)}'.",
        )
    old = cloud.groups.get(name.lower())
    if old is None:
        made = Group(name, location, wanted if "tags" in document else None)
        made.visible_at = cloud.clock.now() + cloud.settings.list_lag_s
        cloud.groups[name.lower()] = made
        return Answer(201, _body(cloud, made))
    cloud.group_for_writing(name)
    if old.location != location:
        raise ArmError(
            409,
            "InvalidResourceGroupLocation",
            f"Invalid resource group location '{location}'. The Resource group already exists in "
            f"location '{old.location}'.",
        )
    old.tags = wanted if "tags" in document else None
    return Answer(200, _body(cloud, old))


@routes.add("GET", IN_GROUP, GROUP)
async def get(call: Call) -> Answer:
    """Tell of one."""
    return Answer(200, _body(call.cloud, call.cloud.group(call.names["group"])))


@routes.add("HEAD", IN_GROUP, GROUP)
async def head(call: Call) -> Answer:
    """Tell whether there is one."""
    there = call.names["group"].lower() in call.cloud.groups
    return Answer(204) if there else Answer(404, None, {"x-ms-failure-cause": "gateway"})


@routes.add("GET", IN_SUBSCRIPTION + "/resourceGroups", GROUP)
async def list_(call: Call) -> Answer:
    """Tell of all, or of those with a tag."""
    cloud, wanted = call.cloud, call.query.get("$filter", "")
    now = cloud.clock.now()
    found = [
        _body(cloud, it)
        for it in cloud.groups.values()
        if it.visible_at <= now and (not wanted or tags.matching(it.tags, wanted))
    ]
    if "$top" in call.query:
        found = found[: int(call.query["$top"])]
    return pages(call, found, f"/subscriptions/{cloud.subscription}/resourcegroups")


@routes.add("PATCH", IN_GROUP, GROUP)
async def patch(call: Call) -> Answer:
    """Set its tags."""
    cloud = call.cloud
    document = call.document()
    group = cloud.group_for_writing(call.names["group"])
    if "tags" in document:
        group.tags = tags.check(document["tags"], cloud.settings.max_tags)
    return Answer(200, _body(cloud, group))


@routes.add("DELETE", IN_GROUP, GROUP)
async def delete(call: Call) -> Answer:
    """Delete it and all that is in it, afterwards."""
    cloud = call.cloud
    group = cloud.group(call.names["group"])
    forced = call.query.get("forcedeletiontypes", "")
    for kind in filter(None, forced.split(",")):
        if kind.strip().lower() not in _FORCED:
            raise invalid(
                f"Force deletion is not supported for '{kind}'.", "InvalidForceDeletionTypes"
            )
    operation = cloud.operations.begin("", group.location)
    if not group.deleting:
        group.deleting = True

    async def go() -> None:
        try:
            await _delete(call, group, forced=bool(forced))
        except ArmError as error:
            group.deleting = False
            cloud.operations.fail(operation, error)
        else:
            cloud.operations.succeed(operation)

    cloud.run(go())
    return Answer(202, None, _result(call, operation.id))


@routes.add("GET", IN_SUBSCRIPTION + "/operationresults/{operation}", "operations")
async def result(call: Call) -> Answer:
    """Tell how far a deletion is."""
    operation = call.cloud.operations.get(call.names["operation"])
    if operation.ended is None:
        return Answer(202, None, _result(call, operation.id))
    if operation.error is not None:
        return Answer(409, {"error": operation.error})
    return Answer(200)


@routes.add("GET", IN_GROUP + "/resources", "Microsoft.Resources/resources")
async def resources(call: Call) -> Answer:
    """Tell of all that is in one."""
    cloud, group = call.cloud, call.cloud.group(call.names["group"])
    now = cloud.clock.now()
    found = [
        {key: it.body[key] for key in ("id", "name", "type", "location", "tags") if key in it.body}
        for it in cloud.resources.values()
        if it.group.lower() == group.name.lower()
        and it.visible_at <= now
        and it.kind.count("/") == 1
    ]
    return pages(
        call, found, f"/subscriptions/{cloud.subscription}/resourcegroups/{group.name}/resources"
    )


@routes.add(
    "POST", IN_GROUP + "/exportTemplate", "Microsoft.Resources/resourceGroups/exportTemplate"
)
async def export(call: Call) -> Answer:
    """Tell of one as a template; of an empty one alone."""
    call.cloud.group(call.names["group"])
    call.document()
    schema = "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#"
    template = {
        "$schema": schema,
        "contentVersion": "1.0.0.0",
        "parameters": {},
        "variables": {},
        "resources": [],
    }
    return Answer(200, {"template": template})


def _result(call: Call, operation: str) -> dict[str, str]:
    cloud = call.cloud
    place = f"{cloud.base}/subscriptions/{cloud.subscription}/operationresults/{operation}"
    headers = {"Location": f"{place}?api-version={call.version}"}
    if cloud.settings.retry_after_s is not None:
        headers["Retry-After"] = str(cloud.settings.retry_after_s)
    return headers


def _body(cloud: Cloud, group: Group) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": f"/subscriptions/{cloud.subscription}/resourceGroups/{group.name}",
        "name": group.name,
        "type": GROUP,
        "location": group.location,
        "properties": {"provisioningState": "Deleting" if group.deleting else "Succeeded"},
    }
    if group.tags is not None:
        body["tags"] = group.tags
    return body


async def _delete(call: Call, group: Group, *, forced: bool) -> None:
    cloud = call.cloud
    # Without force a VM is shut down first.
    await asyncio.sleep(cloud.settings.delete_s * (1 if forced else 3))
    await asyncio.gather(
        *(machines.remove(cloud, it) for it in machines.of_group(cloud, group.name))
    )
    if call.fault is not None:
        raise call.fault.raised()
    for kind in (NIC, PUBLIC_IP, DISK, NSG, VNET):
        for resource in cloud.of_kind(kind, group.name):
            cloud.free_address(resource)
            cloud.remove(resource)
    for resource in list(cloud.resources.values()):
        if resource.group.lower() == group.name.lower():
            cloud.remove(resource)
    if cloud.groups.get(group.name.lower()) is group:
        del cloud.groups[group.name.lower()]
