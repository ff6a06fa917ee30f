"""Keeps the rules of networks with the address that we come from, which changes with the place."""

from __future__ import annotations

import asyncio
import logging

from gate_kit import Operations, Refusal
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.egress import Egress
from gates.azure_gate.partitions import CREATING, READY, Known, Partitions
from gates.azure_gate.sdk import AzureProblem

log = logging.getLogger(__name__)

_EVERY_S = 60.0
_SOON_S = 1.0
"""Links of many nodes are lost together."""


class Rules:
    """Rewrites rules when the address has changed.

    Args:
        egress: Tells the address.
        cloud: Where the rules are.
        partitions: Whose rules.
        operations: Owns the looking.
    """

    def __init__(
        self, egress: Egress, cloud: Cloud, partitions: Partitions, operations: Operations
    ) -> None:
        self._egress = egress
        self._cloud = cloud
        self._partitions = partitions
        self._operations = operations
        self._suspected = asyncio.Event()
        self._written: dict[str, tuple[str, ...]] = {}
        """What each partition lets in, by its group, as far as this gate knows."""

    def open(self) -> None:
        """Begin to look at the address now and then."""
        if self._egress.may_change:
            self._operations.spawn(self._follow(), "address that we come from")

    def suspect(self, known: Known, node: str) -> None:
        """A link was lost: the address may have changed."""
        self._suspected.set()

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._suspected.wait()
                    await asyncio.sleep(_SOON_S)
            except TimeoutError:
                pass
            self._suspected.clear()
            there = [
                one
                for one in self._partitions.known.values()
                if one.state == READY or (one.state == CREATING and one.is_making)
            ]
            # Of the others it is not known any more: they are let in anew when they are started.
            names = {one.group.name for one in there}
            self._written = {name: it for name, it in self._written.items() if name in names}
            if not there:
                continue
            try:
                sources = tuple(await self._egress.sources(fresh=True))
            except Refusal as refusal:
                log.info("%s", refusal.message)
                continue
            await asyncio.gather(*(self._write(one, sources) for one in there))

    async def _write(self, known: Known, sources: tuple[str, ...]) -> None:
        name = known.group.name
        if self._written.get(name) == sources:
            return
        try:
            # The first time it is not known what an earlier gate wrote.
            written = await self._cloud.nsg_sources(name)
            if not written:
                return  # whoever makes the partition is about to: of two writers Azure ends one
            if written != sources:
                log.info("%s lets in %s now", name, ", ".join(sources))
                await self._cloud.put_nsg(name, known.location, sources)
            self._written[name] = sources
        except AzureProblem as problem:
            log.info("%s: %s", name, problem)
