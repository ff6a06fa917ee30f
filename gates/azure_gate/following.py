"""Follows each node by a link of its own, which says by its end that the node is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Protocol

from gate_kit import Refusal, errors
from gate_kit.ssh import capacity
from gate_kit.ssh.capacity import Capacity
from gates.azure_gate.hosts import Hosts
from gates.azure_gate.partitions import CREATING, READY, Known, Partitions

log = logging.getLogger(__name__)

_EVERY_S = 300.0
"""Free space and the like may be so old."""
_PAUSE_S = (0.2, 15.0)
"""Before a node that is away is tried again: at first, and at most."""
_BLINK_S = 3.0
"""A link that was lost and is back within so long was no outage."""


class NodeObserver(Protocol):
    """Who is told of nodes that go and come."""

    async def node_unreachable(self, node: str, text: str, partition_id: str = "") -> None:
        """The node does not answer any more: nothing is known of what runs there."""
        ...

    async def node_reachable(self, node: str, partition_id: str = "") -> None:
        """The node answers, for the first time or again."""
        ...


class Following:
    """Keeps what is known of nodes current.

    Args:
        partitions: Which there are; told what is found.
        hosts: The ways to them.
    """

    def __init__(self, partitions: Partitions, hosts: Hosts) -> None:
        self.observers: list[NodeObserver] = []
        self.on_lost_link: list[Callable[[Known, str], None]] = []
        """Called with a node whose link has just been lost."""
        self._partitions = partitions
        self._hosts = hosts
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        partitions.on_change.append(self._changed)
        partitions.on_gone.append(self._gone)

    async def close(self) -> None:
        """Follow no more."""
        tasks = [*self._tasks.values(), *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, known: Known) -> None:
        for node in known.tags.nodes:
            key = (known.id, node)
            if self._is_followed(known, node):
                if key not in self._tasks:
                    work = self._follow(known, node)
                    self._tasks[key] = asyncio.create_task(work, name=f"{node} of {known.id}")
            elif key in self._tasks:
                self._end(known, node, "it is not there any more")

    def _gone(self, known: Known) -> None:
        for node in known.tags.nodes:
            if (known.id, node) in self._tasks:
                self._end(known, node, "its partition was deleted")

    def _is_followed(self, known: Known, node: str) -> bool:
        if node in known.tags.lost or not self._hosts.address(known, node):
            return False
        is_there = known.state == READY and not known.is_stopped
        return is_there or (known.state == CREATING and known.sight(node).is_booted)

    def _end(self, known: Known, node: str, text: str) -> None:
        task = self._tasks.pop((known.id, node))
        task.cancel()
        ending = asyncio.create_task(self._ended(known, node, text))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _ended(self, known: Known, node: str, text: str) -> None:
        sight = known.sight(node)
        if sight.is_up:
            sight.is_up, sight.text = False, text
            for observer in self.observers:
                await observer.node_unreachable(node, text, known.id)

    async def _follow(self, known: Known, node: str) -> None:
        while True:
            try:
                await self._keep_up(known, node)
            except Exception:
                # A mistake of ours must not leave the node as it was last seen.
                log.exception("%s of %s can't be followed", node, known.id)
                await self._missed(known, node, "the gate cannot follow it")
            await asyncio.sleep(_PAUSE_S[1])

    async def _keep_up(self, known: Known, node: str) -> None:
        pause_s = _PAUSE_S[0]
        late: asyncio.Task[None] | None = None
        try:
            while True:
                try:
                    watched = capacity.reports(self._hosts.host(known, node), every_s=_EVERY_S)
                    async with contextlib.aclosing(watched):
                        async for found in watched:
                            if late is not None:
                                late.cancel()
                                late = None
                            pause_s = _PAUSE_S[0]
                            await self._saw(known, node, found)
                except Refusal as refusal:
                    for told in self.on_lost_link:
                        told(known, node)
                    if late is None:
                        late = asyncio.create_task(self._late(known, node, refusal.message))
                await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))  # noqa: S311  # nosec B311
                pause_s = min(pause_s * 2, _PAUSE_S[1])
        finally:
            if late is not None:
                late.cancel()

    async def _late(self, known: Known, node: str, text: str) -> None:
        await asyncio.sleep(_BLINK_S)
        await self._missed(known, node, text)

    async def _saw(self, known: Known, node: str, found: Capacity) -> None:
        host = self._hosts.host(known, node)
        if host.facts is not None and host.facts.lacks:
            lacks = ", ".join(host.facts.lacks)
            await host.begin_anew()  # it may be there the next time
            raise errors.node_unreachable(node, f"{node} lacks {lacks}, which jobs need there")
        sight = known.sight(node)
        was_up, before = sight.is_up, sight.found
        sight.is_up, sight.found, sight.text = True, found, found.trouble
        if not was_up or before != found:
            self._partitions.node_changed(known, node)
        if not was_up:
            log.info("%s of %s answers", node, known.id)
            for observer in self.observers:
                await observer.node_reachable(node, known.id)

    async def _missed(self, known: Known, node: str, text: str) -> None:
        sight = known.sight(node)
        was_up = sight.is_up
        if not was_up and sight.text == text:
            return
        sight.is_up, sight.text = False, text
        self._partitions.node_changed(known, node)
        if was_up:
            log.warning("%s of %s does not answer: %s", node, known.id, text)
            for observer in self.observers:
                await observer.node_unreachable(node, text, known.id)
