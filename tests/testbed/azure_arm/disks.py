"""Disks. They come with VMs; by themselves they can be looked at and deleted."""

from __future__ import annotations

import asyncio

from tests.testbed.azure_arm.calls import (
    IN_GROUP,
    IN_SUBSCRIPTION,
    Answer,
    Call,
    Routes,
    begin,
    pages,
)
from tests.testbed.azure_arm.errors import ArmError
from tests.testbed.azure_arm.faults import DISK

__all__ = ["routes"]

routes = Routes()
_PATH = IN_GROUP + "/providers/Microsoft.Compute/disks"


@routes.add("GET", _PATH + "/{name}", DISK)
async def get(call: Call) -> Answer:
    """Tell of one."""
    return Answer(200, call.cloud.resource(call.names["group"], DISK, call.names["name"]).body)


@routes.add("GET", _PATH, DISK)
async def list_(call: Call) -> Answer:
    """Tell of those of a group."""
    found = [it.body for it in call.cloud.listed(DISK, call.names["group"])]
    at = f"/subscriptions/{call.cloud.subscription}/resourceGroups/{call.names['group']}"
    return pages(call, found, f"{at}/providers/{DISK}")


@routes.add("GET", f"{IN_SUBSCRIPTION}/providers/{DISK}", DISK)
async def list_all(call: Call) -> Answer:
    """Tell of all."""
    found = [it.body for it in call.cloud.listed(DISK)]
    return pages(call, found, f"/subscriptions/{call.cloud.subscription}/providers/{DISK}")


@routes.add("DELETE", _PATH + "/{name}", DISK)
async def delete(call: Call) -> Answer:
    """Delete one that no VM has."""
    cloud = call.cloud
    group = cloud.group(call.names["group"])
    disk = cloud.find(cloud.id_of(group.name, DISK, call.names["name"]))
    if disk is None:
        return Answer(204)
    if "managedBy" in disk.body:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Disk {disk.name} is attached to VM {disk.body['managedBy']}.",
        )

    async def work() -> None:
        await asyncio.sleep(cloud.settings.write_s)
        if call.fault is not None:
            raise call.fault.raised()
        cloud.remove(disk)

    return begin(call, 202, disk.body["location"], work())
