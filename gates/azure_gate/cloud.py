"""What is done in Azure, in its own terms: groups, networks, machines, schedules.

Everything of a partition lies in one resource group, under names that `bodies` fixes, so each call
can be repeated, and nothing has to be remembered to delete it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from gates.azure_gate import bodies
from gates.azure_gate.answers import Content, Group, Machine, contents_of, group_of, machine_of
from gates.azure_gate.config import Config
from gates.azure_gate.errors import Kind
from gates.azure_gate.sdk import OPERATION_S, AzureProblem, Operation, Sdk
from gates.azure_gate.tags import INSTALLATION, Tags

T = TypeVar("T")

_FORCED = "Microsoft.Compute/virtualMachines"


class Cloud:
    """One subscription.

    Args:
        config: Which.
        sdk: Makes the calls.
    """

    def __init__(self, config: Config, sdk: Sdk) -> None:
        self._config = config
        self._sdk = sdk
        self._writes: dict[str, set[asyncio.Task[Any]]] = {}
        """What is on its way, by group."""

    @property
    def scope_uid(self) -> str:
        """What the partitions lie in: of another subscription nothing may be concluded."""
        config = self._config
        return f"{config.tenant_id.lower()}/{config.subscription_id.lower()}"

    def group_id(self, group: str) -> str:
        """The id of a group."""
        return bodies.group_id(self._config.subscription_id, group)

    @property
    def authority(self) -> str:
        """Where we log in."""
        return self._config.endpoints.authority

    @property
    def manager(self) -> str:
        """Where all else is asked for."""
        return self._config.endpoints.resource_manager

    async def log_in(self) -> None:
        """Be let in; at once where we are."""
        await self._sdk.log_in()

    # Groups.

    async def groups(self) -> list[Group]:
        """All groups with our tag, of whatever installation."""
        found = await self._sdk.all(
            "listing resource groups",
            lambda: self._sdk.resources.resource_groups.list(filter=f"tagName eq '{INSTALLATION}'"),
        )
        return [group_of(one.as_dict()) for one in found]

    async def group(self, name: str) -> Group | None:
        """One group; None if there is none: the only word for gone."""
        try:
            found = await self._sdk.call(
                f"looking for group {name}",
                lambda: self._sdk.resources.resource_groups.get(name),
            )
        except AzureProblem as problem:
            if problem.problem.code == "ResourceGroupNotFound":
                return None
            raise
        return group_of(found.as_dict())

    async def put_group(self, name: str, location: str, tags: Tags) -> Group:
        """Make a group with its tags, in one call."""
        body = {"location": location, "tags": tags.encode()}
        stop = asyncio.Event()
        made = self._sdk.call(
            f"making group {name}",
            lambda: self._sdk.resources.resource_groups.create_or_update(name, body),
            stop=stop,
        )
        return group_of((await self._whole(name, made, stop)).as_dict())

    async def tag_group(self, name: str, tags: Tags) -> None:
        """Replace the tags of a group that is there."""
        body = {"tags": tags.encode()}
        await self._sdk.call(
            f"writing tags of group {name}",
            lambda: self._sdk.resources.resource_groups.update(name, body),
        )

    async def delete_group(self, name: str) -> bool:
        """Begin to delete a group with all that is in it; False if there is none."""
        await self.written(name)
        try:
            await self._sdk.start(
                f"deleting group {name}",
                self._sdk.resources.resource_groups.begin_delete,
                name,
                force_deletion_types=_FORCED,
            )
        except AzureProblem as problem:
            if problem.problem.code == "ResourceGroupNotFound":
                return False
            raise
        return True

    async def written(self, group: str) -> None:
        """Wait until nothing is on its way to a group any more.

        Who looks, or deletes, before that does not see what arrives later: nobody would delete it.
        """
        if writes := self._writes.get(group):
            await asyncio.wait(set(writes))

    # What is in them.

    async def contents(self) -> dict[str, Content]:
        """What all groups of the subscription hold, by their names in lower case."""
        sdk = self._sdk
        machines, interfaces, addresses = await asyncio.gather(
            sdk.all(
                "listing machines",
                lambda: sdk.compute.virtual_machines.list_all(status_only="true"),
            ),
            sdk.all("listing interfaces", lambda: sdk.network.network_interfaces.list_all()),
            sdk.all("listing addresses", lambda: sdk.network.public_ip_addresses.list_all()),
        )
        return contents_of(
            [one.as_dict() for one in machines],
            [one.as_dict() for one in interfaces],
            [one.as_dict() for one in addresses],
        )

    async def machine(self, group: str, node: str) -> Machine | None:
        """One machine; None if there is none: the only word for gone."""
        try:
            found = await self._sdk.call(
                f"looking for {node}",
                lambda: self._sdk.compute.virtual_machines.get(group, node, expand="instanceView"),
            )
        except AzureProblem as problem:
            if problem.kind is Kind.GONE:
                return None
            raise
        return machine_of(found.as_dict())

    async def put_nsg(self, group: str, location: str, sources: Sequence[str]) -> None:
        """Let SSH in from `sources`, and from nowhere else."""
        body = bodies.nsg_body(location, sources)
        await self._make(
            group,
            "making the rules of the network",
            self._sdk.network.network_security_groups.begin_create_or_update,
            bodies.NSG,
            body,
        )

    async def nsg_sources(self, group: str) -> tuple[str, ...]:
        """Who is let in now; nobody where there are no rules yet."""
        try:
            found = await self._sdk.call(
                "reading the rules of the network",
                lambda: self._sdk.network.network_security_groups.get(group, bodies.NSG),
            )
        except AzureProblem as problem:
            if problem.kind is Kind.GONE:
                return ()
            raise
        return bodies.nsg_sources(found.as_dict())

    async def put_vnet(self, group: str, location: str) -> None:
        """Make the network."""
        body = bodies.vnet_body(location)
        await self._make(
            group,
            "making the network",
            self._sdk.network.virtual_networks.begin_create_or_update,
            bodies.VNET,
            body,
        )

    async def begin_machine(
        self, group: str, node: str, body: bodies.Body, within_s: float, hurry: asyncio.Event
    ) -> Operation[Any]:
        """Have Azure take in a machine that is to be made: from then on it is there, and costs.

        Args:
            group: Where.
            node: Its name.
            body: What it is.
            within_s: When to give up.
            hurry: Set when it is up: Azure is asked at once whether it has noticed.
        """
        return await self._begin(
            group,
            f"making {node}",
            self._sdk.compute.virtual_machines.begin_create_or_update,
            node,
            body,
            within_s=within_s,
            hurry=hurry,
        )

    async def finish_machine(self, node: str, operation: Operation[Any]) -> None:
        """Wait until Azure says that a machine has booted."""
        await self._sdk.finish(f"making {node}", operation)

    async def start_machine(self, group: str, node: str) -> None:
        """Start a machine that was deallocated."""
        await self._sdk.complete(
            f"starting {node}", self._sdk.compute.virtual_machines.begin_start, group, node
        )

    async def put_schedule(self, group: str, location: str, node: str, fires_s: int) -> None:
        """Have Azure deallocate a machine at a time that is less than a day ahead."""
        base = f"{self.group_id(group)}/providers"
        machine = f"{base}/Microsoft.Compute/virtualMachines/{node}"
        body = bodies.schedule_body(location, machine, fires_s)
        await self._sdk.complete(
            f"setting the end of {node}",
            self._sdk.resources.resources.begin_create_or_update_by_id,
            f"{base}/Microsoft.DevTestLab/schedules/{bodies.schedule(node)}",
            body,
            api_version=bodies.SCHEDULES_VERSION,
        )

    async def empty_group(self, group: str, nodes: Sequence[str]) -> None:
        """Delete all that a group was meant to hold, whether or not lists tell of it."""
        await self.written(group)
        sdk = self._sdk
        compute, network = sdk.compute, sdk.network
        machines = compute.virtual_machines.begin_delete
        await _all(
            self._gone(f"deleting {n}", machines, group, n, force_deletion=True) for n in nodes
        )
        interfaces, disks = network.network_interfaces.begin_delete, compute.disks.begin_delete
        await _all(
            [
                *(
                    self._gone(f"deleting the interface of {n}", interfaces, group, bodies.nic(n))
                    for n in nodes
                ),
                *(
                    self._gone(f"deleting the disk of {n}", disks, group, bodies.disk(n))
                    for n in nodes
                ),
            ]
        )
        addresses = network.public_ip_addresses.begin_delete
        first = bodies.address(nodes[0])
        await self._gone("deleting the address", addresses, group, first)
        networks = network.virtual_networks.begin_delete
        rules = network.network_security_groups.begin_delete
        await _all(
            [
                self._gone("deleting the network", networks, group, bodies.VNET),
                self._gone("deleting the rules", rules, group, bodies.NSG),
                *(self._drop_schedule(group, node) for node in nodes),
            ]
        )

    async def _drop_schedule(self, group: str, node: str) -> None:
        base = f"{self.group_id(group)}/providers/Microsoft.DevTestLab/schedules"
        await self._gone(
            f"deleting the schedule of {node}",
            self._sdk.resources.resources.begin_delete_by_id,
            f"{base}/{bodies.schedule(node)}",
            api_version=bodies.SCHEDULES_VERSION,
        )

    async def _gone(self, doing: str, begin: Any, *arguments: str, **keywords: Any) -> None:
        """Delete something, and wait until it is gone; that it never was is fine."""
        try:
            await self._sdk.complete(doing, begin, *arguments, **keywords)
        except AzureProblem as problem:
            if problem.kind is not Kind.GONE:
                raise

    async def _make(self, group: str, doing: str, begin: Any, *arguments: Any) -> None:
        """Have something made in a group, and wait until it is."""
        await self._sdk.finish(doing, await self._begin(group, doing, begin, *arguments))

    async def _begin(
        self,
        group: str,
        doing: str,
        begin: Any,
        *arguments: Any,
        within_s: float = OPERATION_S,
        hurry: asyncio.Event | None = None,
    ) -> Operation[Any]:
        """Have Azure begin to make something in a group."""
        stop = asyncio.Event()
        begun = self._sdk.begin(
            doing, begin, group, *arguments, within_s=within_s, stop=stop, hurry=hurry
        )
        return await self._whole(group, begun, stop)

    async def _whole(self, group: str, write: Coroutine[Any, Any, T], stop: asyncio.Event) -> T:
        """The result of a write, which runs to its end also if nobody waits for it any more.

        What is cut off half-way may still arrive, after the group was looked for and not found.
        """
        task = asyncio.create_task(write)
        writes = self._writes.setdefault(group, set())
        writes.add(task)
        task.add_done_callback(lambda done: self._wrote(group, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _wrote(self, group: str, task: asyncio.Task[Any]) -> None:
        writes = self._writes[group]
        writes.discard(task)
        if not writes:
            del self._writes[group]
        if not task.cancelled():
            task.exception()  # who waits is told; nobody else wants to know


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it side by side, to the end of each; raises the first error."""
    for error in await asyncio.gather(*works, return_exceptions=True):
        if error is not None:
            raise error
