"""Groups that are being deleted, each followed until it is gone."""

from __future__ import annotations

import asyncio
import random

from gate_kit import Operations
from gates.azure_gate.answers import Group
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import Partitions
from gates.azure_gate.sdk import AzureProblem

_AGAIN_S = (1.0, 30.0)
"""Before a deletion that Azure gave up is asked for again: at first, and at most."""
_GONE_S = (0.3, 5.0)
"""Between two looks at a group that is being deleted."""


class Deletions:
    """Follows deletions.

    Args:
        cloud: Where groups are.
        partitions: How they were last seen.
        observer: Sees them.
        operations: Owns the tasks.
    """

    def __init__(
        self, cloud: Cloud, partitions: Partitions, observer: Observer, operations: Operations
    ) -> None:
        self._cloud = cloud
        self._partitions = partitions
        self._observer = observer
        self._operations = operations
        self._deleters: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the group is followed now; `name` in lower case."""
        return name in self._deleters

    def follow(self, group: Group) -> None:
        """See to it that a group that is being deleted ends."""
        known = self._partitions.saw(group)
        name = group.name.lower()
        if known is not None:
            known.is_deleting, known.is_making = True, False
            known.trouble = ""
            self._partitions.changed(known)
        if name not in self._deleters:
            task = self._operations.spawn(self._until_gone(group.name), f"deletion of {group.name}")
            self._deleters[name] = task
            task.add_done_callback(lambda done: self._deleters.pop(name))
        self._observer.hurry()

    async def _until_gone(self, name: str) -> None:
        """Follow a deletion to the end; what Azure gave up is asked for again."""
        pause_s, again_s = _GONE_S[0], _AGAIN_S[0]
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
            pause_s = min(pause_s * 1.3, _GONE_S[1])
            known = self._partitions.known.get(name.lower())
            try:
                group = await self._cloud.group(name)
                if group is None:
                    break
                if not group.is_deleting:
                    await asyncio.sleep(again_s)
                    again_s = min(again_s * 2, _AGAIN_S[1])
                    await self._cloud.delete_group(name)
                trouble = ""
            except AzureProblem as problem:
                trouble = problem.problem.text
            if known is not None and known.trouble != trouble:
                known.trouble = trouble
                self._partitions.changed(known)
        if known is not None:
            self._partitions.gone(known)
