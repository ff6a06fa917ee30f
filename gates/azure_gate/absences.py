"""Machines and groups that a list lacks, or that do not answer: each is asked for by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gate_kit import Operations
from gate_kit.job_status import NODE_FAIL
from gate_kit.job_status import failure as failure_of
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.makers import Makers, write_tags
from gates.azure_gate.partitions import READY, Known, Partitions
from gates.azure_gate.sdk import AzureProblem

log = logging.getLogger(__name__)

_PREEMPTED = "PREEMPTED"
_AGAIN_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses between looks for a node that does not answer: Azure tells of an end after it has come."""


class Absences:
    """Finds out what is gone, and what that means for its partition.

    Args:
        cloud: Where it may be.
        partitions: How they were last seen.
        makers: End a partition that has lost its nodes.
        operations: Owns the looks.
    """

    def __init__(
        self, cloud: Cloud, partitions: Partitions, makers: Makers, operations: Operations
    ) -> None:
        self._cloud = cloud
        self._partitions = partitions
        self._makers = makers
        self._operations = operations
        self._looking: set[tuple[str, str]] = set()

    def check_nodes(self, known: Known) -> None:
        """Ask for machines that a list lacks: it may only lag behind."""
        if not known.tags.is_ready or known.is_making or known.tags.failure is not None:
            return
        for node in known.nodes:
            if node not in known.content.machines:
                self._check(known, node)

    def missed(self, known: Known, node: str) -> None:
        """A node does not answer any more: find out whether it is still there."""
        if known.state == READY and node in known.nodes:
            self._check(known, node, _AGAIN_S)

    def check_group(self, known: Known) -> None:
        """A list lacks the group: find out whether it is still there."""
        self.once((known.id, ""), lambda: self._checked_group(known), f"look for {known.id}")

    def _check(self, known: Known, node: str, again_s: Sequence[float] = ()) -> None:
        what = f"look for {node} of {known.id}"
        self.once((known.id, node), lambda: self._checked_node(known, node, again_s), what)

    def once(
        self, key: tuple[str, str], look: Callable[[], Coroutine[Any, Any, None]], what: str
    ) -> None:
        """Have somebody look, unless that is under way.

        Args:
            key: For what: a partition, and a node of it or nothing.
            look: Looks.
            what: The task's name, for people.
        """
        if key not in self._looking:
            self._looking.add(key)
            task = self._operations.spawn(look(), what)
            task.add_done_callback(lambda done: self._looking.discard(key))

    async def _checked_group(self, known: Known) -> None:
        try:
            if await self._cloud.group(known.group.name) is None:
                self._partitions.gone(known)
        except AzureProblem as problem:
            log.info("%s: %s", known.id, problem)

    async def _checked_node(self, known: Known, node: str, again_s: Sequence[float]) -> None:
        await self._look_for(known, node)
        for pause_s in again_s:
            await asyncio.sleep(pause_s)
            if known.state != READY or node not in known.nodes:
                return
            await self._look_for(known, node)

    async def _look_for(self, known: Known, node: str) -> None:
        try:
            machine = await self._cloud.machine(known.group.name, node)
        except AzureProblem as problem:
            log.info("%s of %s: %s", node, known.id, problem)
            return
        if machine is None or machine.provisioning == "Deleting":
            await self._lose(known, node)
        elif machine != known.content.machines.get(node):
            machines = {**known.content.machines, node: machine}
            known.content = dataclasses.replace(known.content, machines=machines)
            self._partitions.changed(known)

    async def _lose(self, known: Known, node: str) -> None:
        """A node is gone for good; with the first, all are, since it is the way to the others."""
        reason = _PREEMPTED if known.tags.spec.spot else NODE_FAIL
        async with self._operations.exclusive(("partition", known.id)):
            if node not in known.nodes or known.state != READY or known.tags.failure is not None:
                return
            log.warning("%s of %s is gone: %s", node, known.id, reason)
            is_way = node == known.tags.nodes[0]
            text = ""
            if is_way and len(known.nodes) > 1:
                text = f"{failure_of(reason).message}: {node}, by which the others are reached"
            gone = known.nodes if is_way else [node]
            lost = {**known.tags.lost, **dict.fromkeys(gone, reason)}
            known.tags = dataclasses.replace(known.tags, lost=lost)
            for one in gone:
                known.sight(one).is_up = False
                self._partitions.node_changed(known, one)
            self._partitions.lost(known)
            if known.nodes:
                try:
                    await write_tags(self._cloud, known)
                except AzureProblem as problem:
                    log.info("%s: %s", known.id, problem)  # whoever looks next sees it as well
                return
            self._makers.fail(known, failure_of(reason, text))
