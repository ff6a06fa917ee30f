"""VMs switched on and off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import Any

from tests.testbed.azure_arm import security_groups
from tests.testbed.azure_arm.books import Booted
from tests.testbed.azure_arm.calls import Answer, Call, Routes, begin
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError
from tests.testbed.azure_arm.faults import VM
from tests.testbed.azure_arm.machine_views import PATH
from tests.testbed.azure_arm.vms import Machine

__all__ = ["alone", "deallocate", "routes", "shut_down", "until_up"]

routes = Routes()


@routes.add("POST", PATH + "/{name}/start", VM + "/start")
async def start(call: Call) -> Answer:
    """Start one, which needs a place for it again if it was deallocated."""
    return _switch(call, _start)


@routes.add("POST", PATH + "/{name}/deallocate", VM + "/deallocate")
async def deallocate_call(call: Call) -> Answer:
    """Stop one, and give its place back."""
    return _switch(call, deallocate)


@routes.add("POST", PATH + "/{name}/powerOff", VM + "/powerOff")
async def power_off(call: Call) -> Answer:
    """Stop one, and keep its place, which goes on costing."""
    return _switch(call, _power_off)


@routes.add("POST", PATH + "/{name}/restart", VM + "/restart")
async def restart(call: Call) -> Answer:
    """Stop one and start it."""

    async def again(cloud: Cloud, vm: Resource) -> None:
        await _power_off(cloud, vm)
        await _start(cloud, vm)

    return _switch(call, again)


def _switch(call: Call, how: Any) -> Answer:
    cloud = call.cloud
    cloud.group_for_writing(call.names["group"])
    vm = cloud.resource(call.names["group"], VM, call.names["name"])
    if vm.notes["failed"]:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"Cannot modify extensions in the VM when the VM '{vm.name}' is not running: its "
            "provisioning has failed.",
        )

    async def work() -> None:
        await asyncio.sleep(cloud.settings.write_s)
        if call.fault is not None:
            raise call.fault.raised()
        await how(cloud, vm)

    return begin(call, 202, vm.body["location"], alone(vm, work()))


async def _start(cloud: Cloud, vm: Resource) -> None:
    if vm.notes["power"] == "running":
        return
    vm.notes["power"] = "starting"
    vm.properties["provisioningState"] = "Updating"
    began = time.time()
    await asyncio.sleep(cloud.settings.allocate_s)
    cloud.ledger.resume(vm.id)
    vm.notes["power"] = "running"
    machine: Machine = vm.notes["machine"]
    machine.rules = security_groups.rules_of(cloud, vm.notes["interfaces"][0])
    await until_up(cloud, vm, cloud.backend.start(machine))
    cloud.boots.append(Booted(vm.id, began, time.time()))
    vm.properties["provisioningState"] = "Succeeded"
    vm.touch()


async def deallocate(cloud: Cloud, vm: Resource) -> None:
    """Stop a VM and give its place back; its disk and address go on costing."""
    if vm.notes["power"] == "deallocated":
        return
    vm.notes["power"] = "deallocating"
    await cloud.backend.stop(vm.notes["machine"])
    cloud.ledger.pause(vm.id)
    vm.notes |= {"power": "deallocated", "guest": False}
    vm.properties["provisioningState"] = "Succeeded"
    vm.touch()


async def _power_off(cloud: Cloud, vm: Resource) -> None:
    vm.notes["power"] = "stopping"
    await cloud.backend.stop(vm.notes["machine"])
    vm.notes |= {"power": "stopped", "guest": False}


async def shut_down(cloud: Cloud, vm: Resource) -> None:
    """Deallocate one, as a schedule does."""
    if not vm.notes["failed"]:
        await alone(vm, deallocate(cloud, vm))


async def alone(vm: Resource, work: Awaitable[None]) -> None:
    """Do something with a VM; what is done later with it ends this first."""
    before = vm.notes.get("task")
    vm.notes["task"] = task = asyncio.current_task()
    if before is not None and not before.done():
        before.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([before])
    try:
        await work
    except asyncio.CancelledError:
        if vm.notes.get("task") is task:
            raise
        raise ArmError(
            409,
            "OperationPreempted",
            "Operation execution has been preempted by a more recent operation.",
        ) from None


async def until_up(cloud: Cloud, vm: Resource, boot: Awaitable[None]) -> None:
    """Wait until the guest says that it is up, but not for ever."""
    vm.notes["guest"] = False
    task = asyncio.ensure_future(boot)
    late = asyncio.ensure_future(cloud.clock.sleep(cloud.settings.provisioning_s))
    try:
        await asyncio.wait([task, late], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            vm.properties["provisioningState"] = "Failed"
            vm.touch()
            raise ArmError(
                409,
                "OSProvisioningTimedOut",
                f"OS Provisioning for VM '{vm.name}' did not finish in the allotted time. The VM "
                "may "
                "still finish provisioning successfully. Please check provisioning state later. "
                "For "
                "details on how to check current provisioning state of Windows VMs, refer to "
                "https://aka.ms/WindowsVMLifecycle and Linux VMs, refer to "
                "https://aka.ms/LinuxVMLifecycle.",
            )
        await task
        vm.notes["guest"] = True
    finally:
        for one in (task, late):
            if not one.done():
                one.cancel()
        await asyncio.wait([task, late])
