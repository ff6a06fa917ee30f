"""Nodes that the control file says do not answer, or are lost, and what watchers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from gate_kit import Operations, WatchHub
from gates.fake_gate.dynamic import DynamicPartitions
from gates.fake_gate.faults import FaultScript
from gates.fake_gate.inotify import FolderEvents
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.partitions import Partitions
from skyport.gate.v1 import inventory_pb2, job_pb2, partition_pb2, types_pb2

_MESSAGE = "it does not answer"


class Outages:
    """Tells which nodes are away, when they go and when they come back.

    Args:
        faults: Reads the control file.
        partitions: Whose nodes they are.
        dynamic: Told of nodes that are lost.
        jobs: What runs there.
        job_hub: Told of nodes that go and come.
        partition_hub: The same.
    """

    def __init__(
        self,
        faults: FaultScript,
        partitions: Partitions,
        dynamic: DynamicPartitions,
        jobs: Jobs,
        job_hub: WatchHub[job_pb2.JobEvent],
        partition_hub: WatchHub[partition_pb2.PartitionEvent],
    ) -> None:
        self._faults = faults
        self._partitions = partitions
        self._dynamic = dynamic
        self._jobs = jobs
        self._job_hub = job_hub
        self._partition_hub = partition_hub
        self._told: frozenset[str] = frozenset()

    def open(self, control: Path | None, events: FolderEvents, operations: Operations) -> None:
        """Watch the control file, if there is one."""
        self._told = frozenset(self._faults.unreachable)
        if control is not None and control.parent.is_dir():
            operations.spawn(self._follow(control.parent, events), "control file")

    def unreachable(self) -> list[types_pb2.UnreachableNode]:
        """The nodes that a list or a snapshot can't see."""
        down = self._faults.unreachable
        return [away for away, _ in self._affected(frozenset(down))] if down else []

    def hides(self, status: job_pb2.JobStatus) -> bool:
        """Whether the attempt is on a node that can't be seen."""
        down = self._faults.unreachable
        return bool(down) and any(node in down for node in status.ref.nodes)

    async def _follow(self, folder: Path, events: FolderEvents) -> None:
        with events.watch(folder) as changed:
            while True:
                changed.clear()
                await self._tell(frozenset(self._faults.unreachable))
                await self._lose(self._faults.lost)
                await changed.wait()

    async def _lose(self, lost: Mapping[str, str]) -> None:
        for partition in list(self._partitions.all()) if lost else ():
            for node in partition.nodes:
                is_dynamic = partition.kind == types_pb2.PARTITION_KIND_DYNAMIC
                if is_dynamic and (reason := lost.get(node.name)):
                    await self._dynamic.lose(partition.partition_id, node.name, reason)

    async def _tell(self, down: frozenset[str]) -> None:
        before, self._told = self._told, down
        for partition in self._partitions.all():
            for node in partition.nodes:
                if (node.name in before) != (node.name in down):
                    self._tell_node(node)
        for away, name in self._affected(down - before):
            event = job_pb2.JobEvent(unreachable=away)
            self._job_hub.publish(("node", away.partition_id, name), event)
        for away, name in self._affected(before - down):
            # Its attempts first: who hears that it answers again knows them already.
            for key in self._jobs.evidence.keys("*", away.partition_id):
                await asyncio.sleep(0)
                self._jobs.publish_if_on(key, name)
            back = types_pb2.NodeRef(partition_id=away.partition_id, node=name)
            event = job_pb2.JobEvent(reachable_node=back)
            self._job_hub.publish(("node", away.partition_id, name), event)

    def _affected(self, names: frozenset[str]) -> Iterator[tuple[types_pb2.UnreachableNode, str]]:
        """The nodes with one of `names`, in whichever partition."""
        for partition in self._partitions.all() if names else ():
            for node in partition.nodes:
                if node.name in names:
                    away = types_pb2.UnreachableNode(
                        name=node.name, message=_MESSAGE, partition_id=partition.partition_id
                    )
                    yield away, node.name

    def _tell_node(self, node: inventory_pb2.Node) -> None:
        event = partition_pb2.PartitionEvent(node=node)
        self._partition_hub.publish((node.partition_id, node.name), event)
