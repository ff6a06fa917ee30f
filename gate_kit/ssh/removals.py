"""Removes what was made for attempts on a host, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from gate_kit.ssh.answers import HostRefused, refused
from gate_kit.ssh.batches import Batch, PerHost
from gate_kit.ssh.host import Host
from gate_kit.ssh.layout import AttemptKey

_LOOK_S = (0.02, 0.5)
"""How long to wait before looking again whether it has gone: at first, and at most."""
_WITHIN_S = 600.0


class _Asked(NamedTuple):
    key: AttemptKey
    root_uid: str
    """The root that is expected there."""
    bury: bool


class Removal:
    """Removes attempts from one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._batches: dict[str, Batch[_Asked, None]] = {}

    async def remove(self, key: AttemptKey, root_uid: str, *, bury: bool) -> None:
        """Remove what is there of an attempt that does not run; returns when it has gone.

        Args:
            key: Which.
            root_uid: What the caller knows as the root; empty at a first contact.
            bury: Whether to make its tombstone first.

        Raises:
            HostRefused: SITE_CHANGED, BUSY.
            Refusal: As `Host.ask`.
        """
        # Names of folders differ within an installation, and all go into one.
        batch = self._batches.get(key.installation)
        if batch is None:
            batch = Batch(self._ask, f"removals from {self._host.node}")
            self._batches[key.installation] = batch
        await batch.answer(_Asked(key, root_uid, bury))

    async def _ask(self, asked: Sequence[_Asked]) -> dict[_Asked, Exception | None]:
        words: list[str] = []
        for each in asked:
            words += (each.key.path, each.root_uid, each.key.name, "bury" if each.bury else "")
        told: dict[_Asked, Exception | None] = dict.fromkeys(asked)
        by_path = {each.key.path: each for each in asked}
        trash = ""
        for line in (await self._host.ask("remove", *words)).lines:
            name, _, value = line.partition(" ")
            if name == "trash":
                trash = value
            elif name == "refused":
                path, _, why = value.partition(" ")
                told[by_path[path]] = refused(self._host.node, why)
            elif name == "left":
                path, _, folder = value.partition(" ")
                text = f"{folder} can't be moved"
                told[by_path[path]] = HostRefused(self._host.node, "BUSY", text)
        if trash:
            await self._gone(trash)
        return told

    async def _gone(self, trash: str) -> None:
        pause_s = _LOOK_S[0]
        try:
            async with asyncio.timeout(_WITHIN_S):
                while not (await self._host.ask("removed", trash)).lines:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, _LOOK_S[1])
        except TimeoutError as error:
            raise HostRefused(self._host.node, "BUSY", f"{trash} can't be emptied") from error


class Removals(PerHost[Removal]):
    """That of each host."""

    def __init__(self) -> None:
        super().__init__(Removal)
