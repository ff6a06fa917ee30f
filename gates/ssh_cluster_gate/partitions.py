"""Partitions, nodes and flavors as they are now: the configuration, and what was found on hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from gate_kit import WatchHub, errors
from gate_kit.job_checks import Place
from gates.ssh_cluster_gate.discovery import Discovery, Sight
from gates.ssh_cluster_gate.hosts import Hosts
from gates.ssh_cluster_gate.plan import NodePlan, SitePlan
from skyport.gate.v1 import inventory_pb2, partition_pb2, types_pb2

_STATIC = types_pb2.PARTITION_KIND_STATIC


class Partitions:
    """What the site has. Each call tells it as it was last seen; nothing is asked of hosts.

    Args:
        plan: What is configured.
        hosts: Where they were reached.
        discovery: What is found.
        hub: Told of nodes that change.
    """

    def __init__(
        self,
        plan: SitePlan,
        hosts: Hosts,
        discovery: Discovery,
        hub: WatchHub[partition_pb2.PartitionEvent],
    ) -> None:
        self._plan = plan
        self._hosts = hosts
        self._discovery = discovery
        self._hub = hub
        discovery.on_change.append(self._changed)

    def has(self, partition_id: str) -> bool:
        """Whether there is such a partition."""
        return partition_id in self._plan.partitions

    def place(self, partition_id: str) -> Place:
        """Where jobs of the partition run.

        Raises:
            Refusal: PARTITION_NOT_FOUND.
        """
        nodes = self._plan.partitions.get(partition_id)
        if nodes is None:
            raise errors.partition_not_found(partition_id)
        sights = self._discovery.sights
        return Place(
            _STATIC,
            {name: gpu_ids(node, sights[name]) for name, node in nodes.items()},
            is_ready=True,
            text="",
        )

    def get(self, partition_id: str) -> partition_pb2.Partition:
        """A partition with its nodes.

        Raises:
            Refusal: PARTITION_NOT_FOUND.
        """
        plans = self._plan.partitions.get(partition_id)
        if plans is None:
            raise errors.partition_not_found(partition_id)
        nodes = sorted((self._node(plan) for plan in plans.values()), key=lambda node: node.name)
        up = sum(node.state == inventory_pb2.NODE_STATE_UP for node in nodes)
        text = f"{len(nodes)} hosts" if up == len(nodes) else f"{up} of {len(nodes)} hosts are up"
        return partition_pb2.Partition(
            partition_id=partition_id,
            kind=_STATIC,
            state=partition_pb2.PARTITION_STATE_READY,
            nodes=nodes,
            text="1 host" if len(nodes) == up == 1 else text,
        )

    def all(self) -> Iterator[partition_pb2.Partition]:
        """All of them, in order of their ids."""
        return map(self.get, sorted(self._plan.partitions))

    async def snapshot(self) -> AsyncIterator[partition_pb2.PartitionEvent]:
        """All of them, for a watch."""
        for partition in self.all():
            yield partition_pb2.PartitionEvent(partition=partition)

    def flavors(self) -> list[inventory_pb2.Flavor]:
        """The classes of hosts. Hosts of a class may differ: told is what each of them has."""
        flavors: dict[str, inventory_pb2.Flavor] = {}
        for partition in self.all():
            for node in partition.nodes:
                if not node.flavor or not node.cpus:
                    continue
                found = self._discovery.sights[node.name].found
                told = inventory_pb2.Flavor(
                    name=node.flavor,
                    cpus=node.cpus,
                    memory_bytes=node.memory_bytes,
                    gpus=len(node.gpu_ids),
                    gpu_model=_gpu_model(self._plan.nodes[node.name], self._sight(node.name)),
                    disk_bytes=node.disk_bytes,
                    architecture=found.architecture if found else "",
                )
                known = flavors.setdefault(node.flavor, told)
                known.cpus = min(known.cpus, told.cpus)
                known.memory_bytes = min(known.memory_bytes, told.memory_bytes)
                known.gpus = min(known.gpus, told.gpus)
                known.disk_bytes = min(known.disk_bytes, told.disk_bytes)
                if partition.partition_id not in known.partition_ids:
                    known.partition_ids.append(partition.partition_id)
        return list(flavors.values())

    def _sight(self, node: str) -> Sight:
        return self._discovery.sights[node]

    def _node(self, plan: NodePlan) -> inventory_pb2.Node:
        sight = self._sight(plan.name)
        found = sight.found
        address = self._hosts.addresses(plan.partition_id).get(plan.name)
        state = inventory_pb2.NODE_STATE_UP if sight.is_up else inventory_pb2.NODE_STATE_DOWN
        text = sight.text
        # Looked at as one account; where there are several, others may do well.
        if sight.is_up and found and found.unwritable and len(self._plan.logins) == 1:
            state = inventory_pb2.NODE_STATE_DRAINED
            text = f"{plan.name}: {found.unwritable} can't be written, so it takes no jobs"
        return inventory_pb2.Node(
            name=plan.name,
            partition_id=plan.partition_id,
            state=inventory_pb2.NODE_STATE_STARTING if sight.is_new else state,
            message=text,
            flavor=plan.flavor,
            cpus=plan.cpus or (found.cpus if found else 0),
            memory_bytes=plan.memory_bytes or (found.memory_bytes if found else 0),
            gpu_ids=gpu_ids(plan, sight) or (),
            disk_bytes=found.disk_bytes if found else 0,
            ports=inventory_pb2.PortRange(first=plan.first_port, last=plan.last_port),
            addresses=[address] if address else [],
            labels=dict(plan.labels),
        )

    def _changed(self, node: str) -> None:
        event = partition_pb2.PartitionEvent(node=self._node(self._plan.nodes[node]))
        self._hub.publish(node, event)


def gpu_ids(plan: NodePlan, sight: Sight) -> list[str] | None:
    """The ids of a host's GPUs; None while nobody knows."""
    if plan.gpus is not None:
        return [str(index) for index in range(plan.gpus)]
    return [gpu.id for gpu in sight.found.gpus] if sight.found else None


def _gpu_model(plan: NodePlan, sight: Sight) -> str:
    if plan.gpu_model or not sight.found:
        return plan.gpu_model
    return next((gpu.model for gpu in sight.found.gpus), "")
