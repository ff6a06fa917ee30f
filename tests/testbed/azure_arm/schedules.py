"""Schedules that shut a VM down each day at some time: the dead-man's switch."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

from tests.testbed.azure_arm import machine_power
from tests.testbed.azure_arm.calls import IN_GROUP, Answer, Call, Routes, pages
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError, invalid
from tests.testbed.azure_arm.faults import SCHEDULE

__all__ = ["routes", "watch"]

routes = Routes()
_PATH = IN_GROUP + "/providers/Microsoft.DevTestLab/schedules"
_PREFIX = "shutdown-computevm-"
_LOOK_EVERY_S = 0.5


@routes.add("PUT", _PATH + "/{name}", SCHEDULE)
async def put(call: Call) -> Answer:
    """Have a VM shut down each day at some time."""
    cloud, name = call.cloud, call.names["name"]
    document, location = call.located()
    group = cloud.group_for_writing(call.names["group"])
    has = document.get("properties") or {}
    target = cloud.find(str(has.get("targetResourceId", "")))
    time = str((has.get("dailyRecurrence") or {}).get("time", ""))
    if has.get("taskType") != "ComputeVmShutdownTask":
        raise invalid(
            "The task type of the schedule has to be 'ComputeVmShutdownTask'.",
            "InvalidScheduleTaskType",
        )
    if target is None:
        raise ArmError(
            404, "ResourceNotFound", f"The resource '{has.get('targetResourceId')}' was not found."
        )
    if name.lower() != f"{_PREFIX}{target.name}".lower():
        raise invalid(
            f"The name of the schedule has to be '{_PREFIX}{target.name}', for the VM "
            f"'{target.name}'.",
            "InvalidScheduleId",
        )
    if not re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", time):
        raise invalid(
            f"The time '{time}' of the schedule is not of the form HHmm.", "InvalidScheduleTime"
        )
    if has.get("timeZoneId") != "UTC":
        raise invalid("The stand-in knows no other timeZoneId than 'UTC'.", "InvalidTimeZoneId")
    schedule_id = cloud.id_of(group.name, SCHEDULE, name)
    old = cloud.find(schedule_id)
    properties = {
        "status": "Enabled",
        "notificationSettings": {"status": "Disabled", "timeInMinutes": 30},
        **has,
        "createdDate": cloud.clock.stamp(),
        "provisioningState": "Succeeded",
        "uniqueIdentifier": str(uuid.uuid4()),
    }
    if old is not None:
        for key in ("createdDate", "uniqueIdentifier"):
            properties[key] = old.properties[key]
    body = {
        "name": name,
        "id": schedule_id,
        "type": "microsoft.devtestlab/schedules",
        "location": location,
        "properties": properties,
    }
    made = Resource(schedule_id, SCHEDULE, name, group.name, body)
    made.notes |= {"vm": target.id, "due": next_at(cloud.clock.now(), time), "time": time}
    cloud.add(made)
    return Answer(201 if old is None else 200, body)


@routes.add("GET", _PATH + "/{name}", SCHEDULE)
async def get(call: Call) -> Answer:
    """Tell of one."""
    return Answer(200, call.cloud.resource(call.names["group"], SCHEDULE, call.names["name"]).body)


@routes.add("GET", _PATH, SCHEDULE)
async def list_(call: Call) -> Answer:
    """Tell of those of a group."""
    found = [it.body for it in call.cloud.listed(SCHEDULE, call.names["group"])]
    at = f"/subscriptions/{call.cloud.subscription}/resourceGroups/{call.names['group']}"
    return pages(call, found, f"{at}/providers/{SCHEDULE}")


@routes.add("DELETE", _PATH + "/{name}", SCHEDULE)
async def delete(call: Call) -> Answer:
    """Delete one."""
    cloud = call.cloud
    group = cloud.group(call.names["group"])
    found = cloud.find(cloud.id_of(group.name, SCHEDULE, call.names["name"]))
    if found is None:
        return Answer(204)
    cloud.remove(found)
    return Answer(200)


def next_at(now: float, time: str) -> float:
    """When it is that time of day next, which is later than now."""
    moment = datetime.fromtimestamp(now, UTC)
    due = moment.replace(hour=int(time[:2]), minute=int(time[2:]), second=0, microsecond=0)
    if due <= moment:
        due += timedelta(days=1)
    return due.timestamp()


async def watch(cloud: Cloud) -> None:
    """Shut VMs down when it is time."""
    while True:
        await cloud.clock.moved(_LOOK_EVERY_S)
        now = cloud.clock.now()
        for schedule in cloud.of_kind(SCHEDULE):
            if schedule.notes["due"] > now:
                continue
            schedule.notes["due"] = next_at(now, schedule.notes["time"])
            vm = cloud.find(schedule.notes["vm"])
            if vm is not None and schedule.properties["status"] == "Enabled":
                cloud.run(machine_power.shut_down(cloud, vm))
