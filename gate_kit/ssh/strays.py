"""Removes containers that were left behind: their runners were killed, or their folders deleted."""

from __future__ import annotations

import asyncio
import logging
import random

from gate_kit import Operations, Refusal
from gate_kit.ssh.containers import Containers
from gate_kit.ssh.host import Host
from gate_kit.ssh.sites import Sites

log = logging.getLogger(__name__)

_EVERY_S = 300.0


class Strays:
    """Looks for containers without an attempt: when a host comes back, and every few minutes.

    Args:
        containers: Removes them.
        sites: Where to look.
        operations: Owns the looking.
    """

    def __init__(self, containers: Containers, sites: Sites, operations: Operations) -> None:
        self._containers = containers
        self._sites = sites
        self._operations = operations
        self._following: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def node_reachable(self, node: str, partition_id: str = "") -> None:
        """Begin to look there, at once and again and again."""
        await self.node_unreachable(node, "", partition_id)
        self._following[partition_id, node] = self._operations.spawn(
            self._follow(node, partition_id), f"stray containers on {node}"
        )

    async def node_unreachable(self, node: str, text: str, partition_id: str = "") -> None:
        """Look there no more."""
        following = self._following.pop((partition_id, node), None)
        if following is not None:
            following.cancel()

    async def _follow(self, node: str, partition_id: str) -> None:
        while True:
            for host in self._sites.everywhere(partition_id):
                # What was never asked for has had no container since we began.
                if host.node == node and host.facts is not None:
                    await self._sweep(host)
            # Hosts of a large site are not all looked at together.
            await asyncio.sleep(_EVERY_S * random.uniform(0.7, 1.3))  # noqa: S311 - no secret  # nosec B311

    async def _sweep(self, host: Host) -> None:
        try:
            for name in await self._containers.sweep(host):
                log.info("container %s on %s had no attempt any more; removed", name, host.node)
        except Refusal as refusal:
            log.info("%s: %s", host.node, refusal.message)
