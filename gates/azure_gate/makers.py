"""What is under way to make partitions, and to end what can't be made."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from gate_kit import Operations, Refusal
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.making import Making, Unmade
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import DELETING, Known, Partitions
from gates.azure_gate.sdk import AzureProblem
from skyport.gate.v1 import types_pb2

log = logging.getLogger(__name__)

_AGAIN_S = (1.0, 30.0)
"""Before what Azure refused is asked for again: at first, and at most."""
_NO_GROUP = frozenset({"ResourceGroupNotFound", "ResourceGroupBeingDeleted"})


class Makers:
    """At most one task makes, starts or empties a partition at a time.

    Args:
        cloud: Where they are.
        partitions: How they were last seen.
        observer: Sees them.
        making: Makes what is in their groups.
        operations: Owns the tasks.
    """

    def __init__(
        self,
        cloud: Cloud,
        partitions: Partitions,
        observer: Observer,
        making: Making,
        operations: Operations,
    ) -> None:
        self._cloud = cloud
        self._partitions = partitions
        self._observer = observer
        self._making = making
        self._operations = operations
        self._makers: dict[str, asyncio.Task[None]] = {}

    async def stop(self, group: str) -> None:
        """End what is under way for a group; returns when it has."""
        maker = self._makers.pop(group.lower(), None)
        if maker is not None:
            maker.cancel()
            await asyncio.wait((maker,))

    def fail(self, known: Known, failure: types_pb2.Failure) -> None:
        """End a partition that was ready; everything that costs money is deleted."""
        self._spawn(known, self._fail(known, failure), f"end of {known.id}")

    def begin(self, known: Known, *, is_new: bool) -> None:
        """Have it made, or started again, unless it is, or can't be."""
        is_over = known.tags.failure is not None or known.state == DELETING
        if is_over:
            self.clean_up(known)
        elif known.is_making or (known.tags.is_ready and not known.is_stopped):
            pass
        else:
            known.is_making = True
            known.began = time.monotonic()
            work = self._made(known) if not known.tags.is_ready else self._started(known)
            self._spawn(known, work, f"making of {known.id}")
        if is_new:
            self._observer.hurry()
        self._partitions.changed(known)

    async def _made(self, known: Known) -> None:
        try:
            await self._making.make(known)
            await self._note_ready(known)
        except Unmade as unmade:
            await self._fail(known, unmade.failure)
        finally:
            known.is_making, known.is_resumed = False, True
            self._partitions.changed(known)

    async def _note_ready(self, known: Known) -> None:
        """Write down that it has been ready, however long that takes."""
        pause_s = _AGAIN_S[0]
        while True:
            try:
                async with self._operations.exclusive(("partition", known.id)):
                    await write_tags(self._cloud, known, is_ready=True)
                known.trouble = ""
                return
            except AzureProblem as problem:
                if problem.problem.code in _NO_GROUP:
                    return
                known.trouble = problem.problem.text
                self._partitions.changed(known)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
            pause_s = min(pause_s * 2, _AGAIN_S[1])

    async def _started(self, known: Known) -> None:
        try:
            await self._making.start(known)
            known.trouble = ""
        except Unmade as unmade:
            # What was on its disks may still be wanted: nothing is deleted.
            known.trouble = unmade.failure.message
            log.warning("%s could not be started again: %s", known.id, unmade)
        finally:
            known.is_making = False
            self._partitions.changed(known)
            self._observer.hurry()

    async def _fail(self, known: Known, failure: types_pb2.Failure) -> None:
        """Write down why, then delete everything that costs money."""
        log.warning("partition %s failed: %s: %s", known.id, failure.reason, failure.message)
        known.tags = dataclasses.replace(known.tags, failure=failure)
        self._partitions.changed(known)
        await self._emptied(known)

    async def _emptied(self, known: Known) -> None:
        """Until nothing is left but the group, with the reason in its tags."""
        pause_s = _AGAIN_S[0]
        while True:
            try:
                async with self._operations.exclusive(("partition", known.id)):
                    # First, so that a gate that comes after a crash goes on with it.
                    await write_tags(self._cloud, known, is_empty=False)
                # It takes minutes; with its failure told nobody makes anything of it meanwhile.
                await self._cloud.empty_group(known.group.name, known.tags.nodes)
                async with self._operations.exclusive(("partition", known.id)):
                    await write_tags(self._cloud, known, is_empty=True, lost=self._all_lost(known))
                known.trouble = ""
                self._partitions.lost(known)
                self._partitions.changed(known)
                return
            except (AzureProblem, Refusal) as problem:
                if isinstance(problem, AzureProblem) and problem.problem.code in _NO_GROUP:
                    return
                known.trouble = str(problem)
                self._partitions.changed(known)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
            pause_s = min(pause_s * 2, _AGAIN_S[1])

    @staticmethod
    def _all_lost(known: Known) -> Mapping[str, str]:
        """The nodes of a partition that was, and is no more: what ran there has ended."""
        tags = known.tags
        if not tags.is_ready or tags.failure is None:
            return tags.lost
        return {**dict.fromkeys(tags.nodes, tags.failure.reason), **tags.lost}

    def clean_up(self, known: Known) -> None:
        """Go on with the removal that an earlier gate began."""
        if known.tags.failure is None or known.tags.is_empty or known.state == DELETING:
            return
        if known.group.name.lower() not in self._makers:
            self._spawn(known, self._emptied(known), f"clean-up of {known.id}")

    def _spawn(self, known: Known, work: Coroutine[Any, Any, None], what: str) -> None:
        name = known.group.name.lower()
        task = self._makers[name] = self._operations.spawn(work, what)

        def ended(done: asyncio.Task[None]) -> None:
            if self._makers.get(name) is done:
                del self._makers[name]

        task.add_done_callback(ended)


async def write_tags(cloud: Cloud, known: Known, **changes: object) -> None:
    """Write tags with `changes`. Whoever calls holds the partition."""
    tags = dataclasses.replace(known.tags, **changes)  # type: ignore[arg-type]
    await cloud.tag_group(known.group.name, tags)
    # Why it ended may have come meanwhile; it is written by who waits for us.
    known.tags = dataclasses.replace(known.tags, **changes)  # type: ignore[arg-type]
