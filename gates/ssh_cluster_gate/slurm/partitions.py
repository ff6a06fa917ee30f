"""Partitions, nodes and flavors as sinfo tells them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from gate_kit import Health, Refusal, WatchHub, errors
from gate_kit.job_checks import Place
from gates.ssh_cluster_gate.discovery import Discovery
from gates.ssh_cluster_gate.slurm import inventory
from gates.ssh_cluster_gate.slurm.inventory import Partition
from gates.ssh_cluster_gate.slurm.sites import SlurmSites
from skyport.gate.v1 import inventory_pb2, partition_pb2, types_pb2

log = logging.getLogger(__name__)

_QUEUE = types_pb2.PARTITION_KIND_QUEUE
_EVERY_S = 30.0
_AGAIN_S = (0.5, 15.0)


class SlurmPartitions:
    """What the site has, as it was last told.

    Args:
        sites: Whom to ask.
        discovery: Follows the login node.
        hub: Told of what changes.
        wanted: The partitions that jobs may go to; empty: all.
    """

    def __init__(
        self,
        sites: SlurmSites,
        discovery: Discovery,
        hub: WatchHub[partition_pb2.PartitionEvent],
        wanted: Sequence[str],
    ) -> None:
        self._sites = sites
        self._discovery = discovery
        self._hub = hub
        self._wanted = tuple(wanted)
        self._found: dict[str, Partition] = {}
        self._refusal: Refusal | None = None
        self._asked = 0.0
        self._look = asyncio.Event()
        discovery.on_change.append(lambda node: self._look.set())

    # What is told.

    def has(self, partition_id: str) -> bool:
        """Whether there is such a partition."""
        return partition_id in self._found or partition_id in self._wanted

    def one(self, partition_id: str) -> Partition:
        """One as sinfo told it.

        Raises:
            Refusal: PARTITION_NOT_FOUND; SITE_UNREACHABLE while nobody knows.
        """
        found = self._found.get(partition_id)
        if found is not None:
            return found
        if not self._asked:
            raise self._refusal or errors.site_unreachable("Slurm was not asked yet")
        raise errors.partition_not_found(partition_id)

    def place(self, partition_id: str) -> Place:
        """Where jobs of the partition run.

        While nobody knows what there is, what runs there already can be asked for all the same.

        Raises:
            Refusal: PARTITION_NOT_FOUND.
        """
        if not self._asked:
            text = self._refusal.message if self._refusal else "Slurm was not asked yet"
            return Place(_QUEUE, {}, is_ready=False, text=text)
        found = self.one(partition_id)
        gpus = {
            name: [str(index) for index in range(node.gpus)] for name, node in found.nodes.items()
        }
        return Place(_QUEUE, gpus, is_ready=True, text="")

    def get(self, partition_id: str) -> partition_pb2.Partition:
        """A partition with its nodes.

        Raises:
            Refusal: As for `one`.
        """
        found = self.one(partition_id)
        up = sum(node.state == inventory_pb2.NODE_STATE_UP for node in found.nodes.values())
        total = len(found.nodes)
        text = f"{total} node{'' if total == 1 else 's'}"
        if up != total:
            text = f"{up} of {text} are up"
        if not found.is_up:
            text = f"Slurm takes no jobs for it now; {text}"
        return partition_pb2.Partition(
            partition_id=partition_id,
            kind=_QUEUE,
            state=partition_pb2.PARTITION_STATE_READY,
            nodes=[self._node(found, name) for name in sorted(found.nodes)],
            text=text,
            longest_time_limit=Duration(seconds=int(found.longest_s)) if found.longest_s else None,
        )

    def all(self) -> Iterator[partition_pb2.Partition]:
        """All of them, in order of their ids."""
        return map(self.get, sorted(self._found))

    async def snapshot(self) -> AsyncIterator[partition_pb2.PartitionEvent]:
        """All of them, for a watch."""
        for partition in self.all():
            yield partition_pb2.PartitionEvent(partition=partition)

    def flavors(self) -> list[inventory_pb2.Flavor]:
        """The classes of nodes."""
        flavors: dict[str, inventory_pb2.Flavor] = {}
        for name in sorted(self._found):
            for node in self._found[name].nodes.values():
                known = flavors.setdefault(
                    node.flavor,
                    inventory_pb2.Flavor(
                        name=node.flavor,
                        cpus=node.cpus,
                        memory_bytes=node.memory_bytes,
                        gpus=node.gpus,
                        gpu_model=node.gpu_model,
                        disk_bytes=node.disk_bytes,
                    ),
                )
                known.disk_bytes = min(known.disk_bytes, node.disk_bytes)
                if name not in known.partition_ids:
                    known.partition_ids.append(name)
        return list(flavors.values())

    def unreachable(self) -> list[types_pb2.UnreachableNode]:
        """Whose attempts can't be seen: those of all partitions, while the login node is away."""
        return [
            types_pb2.UnreachableNode(
                name=told.name, message=told.message, partition_id=partition_id
            )
            for told in self._discovery.unreachable()
            for partition_id in sorted(self._found)
        ]

    def health(self) -> Health:
        """How the site does, from memory.

        Raises:
            Refusal: The login node does not answer, or Slurm never has.
        """
        health = self._discovery.health()
        if not health.ready:
            return health
        if not self._asked:
            if self._refusal is not None:
                raise self._refusal
            return Health(ready=False, message="asks Slurm what there is")
        if self._refusal is not None:
            ago_s = time.monotonic() - self._asked
            return Health(message=f"{self._refusal.message}; Slurm last answered {ago_s:.0f} s ago")
        return health

    # How it is found.

    async def follow(self) -> None:
        """Ask again and again, for ever."""
        pause_s = _AGAIN_S[0]
        while True:
            self._look.clear()
            try:
                if any(sight.is_up for sight in self._discovery.sights.values()):
                    await self._ask()
                    pause_s = _AGAIN_S[0]
            except Refusal as refusal:
                if self._refusal is None:
                    log.warning("Slurm does not answer: %s", refusal.message)
                self._refusal = refusal
            except Exception as error:
                log.exception("partitions cannot be looked at")
                self._refusal = errors.site_unreachable(f"the gate cannot ask Slurm: {error}")
            wait_s = _EVERY_S if self._asked and self._refusal is None else pause_s
            if self._refusal is not None:
                pause_s = min(pause_s * 2, _AGAIN_S[1])
            try:
                async with asyncio.timeout(wait_s):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _ask(self) -> None:
        account = self._sites.accounts[0]
        lines = await account.ask("sinfo", "-h", "-N", "-o", inventory.SINFO_FORMAT)
        found = inventory.read_sinfo(lines)
        if self._wanted:
            found = {name: found[name] for name in self._wanted if name in found}
        self._refusal = None
        self._asked = time.monotonic()
        before, self._found = self._found, found
        self._tell(before)

    def _tell(self, before: Mapping[str, Partition]) -> None:
        for name, partition in self._found.items():
            if before.get(name) != partition:
                event = partition_pb2.PartitionEvent(partition=self.get(name))
                self._hub.publish(name, event)
        for name in before.keys() - self._found.keys():
            gone = partition_pb2.PartitionEvent(deleted_partition_id=name)
            self._hub.publish(name, gone)

    def _node(self, partition: Partition, name: str) -> inventory_pb2.Node:
        node = partition.nodes[name]
        return inventory_pb2.Node(
            name=name,
            partition_id=partition.name,
            state=node.state,
            message=node.message,
            flavor=node.flavor,
            cpus=node.cpus,
            memory_bytes=node.memory_bytes,
            gpu_ids=[str(index) for index in range(node.gpus)],
            disk_bytes=node.disk_bytes,
            labels={"slurm.features": node.features} if node.features else {},
        )
