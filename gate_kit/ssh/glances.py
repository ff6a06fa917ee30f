"""Looks at attempts on a host, many at a time.

Each look costs a process on the host, and many jobs that begin and end together are looked at again
and again. So while one look is under way, all others wait, and go together in the next: nobody gets
an answer that is older than the question.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator, Sequence

from gate_kit import Refusal
from gate_kit.ssh.answers import HostRefused, refused
from gate_kit.ssh.host import Host

_MOST = 100
"""Attempts in one request."""

_Asked = tuple[str, str]
"""The path of an attempt's key, and the root that is expected there."""


class Glance:
    """Looks at attempts on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: dict[_Asked, asyncio.Future[list[str]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def look(self, path: str, root_uid: str) -> list[str]:
        """What changes of an attempt, as the lines of `status`.

        Args:
            path: Of its key.
            root_uid: What the caller knows as the root; empty at a first contact.

        Raises:
            HostRefused: SITE_CHANGED.
            Refusal: As `Host.ask`.
        """
        asked = (path, root_uid)
        future = self._waiting.get(asked)
        if future is None:
            future = self._waiting[asked] = asyncio.get_running_loop().create_future()
            # Who asked may be gone when the answer comes.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"glances at {self._host.node}")
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                chosen = list(self._waiting)[:_MOST]
                batch = {asked: self._waiting.pop(asked) for asked in chosen}
                try:
                    words = [word for asked in batch for word in asked]
                    told = self._sections((await self._host.ask("glance", *words)).lines)
                    for future, lines in zip(batch.values(), told, strict=True):
                        self._tell(future, lines)
                except (Refusal, HostRefused, ValueError) as error:
                    for future in batch.values():
                        if not future.done():
                            future.set_exception(error)
                finally:
                    for future in batch.values():
                        future.cancel()
        finally:
            self._task = None

    @staticmethod
    def _sections(lines: Sequence[str]) -> Iterator[list[str]]:
        """The lines of each attempt; the times of all come last."""
        found: list[tuple[str, list[str]]] = []
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "of":
                found.append((value, []))
            elif name == "at":
                file, _, stamp = value.rpartition(" ")
                path, _, name = file.rpartition("/")
                for of, told in found:
                    if of == path:
                        told.append(f"at {name} {stamp}")
            else:
                found[-1][1].append(line)
        return (told for _, told in found)

    def _tell(self, future: asyncio.Future[list[str]], lines: list[str]) -> None:
        if lines and lines[0].startswith("refused "):
            future.set_exception(refused(self._host.node, lines[0].removeprefix("refused ")))
        else:
            future.set_result(lines)


class Glances:
    """That of each host."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[Host, Glance] = weakref.WeakKeyDictionary()

    def of(self, host: Host) -> Glance:
        """The one of `host`."""
        found = self._of.get(host)
        if found is None:
            found = self._of[host] = Glance(host)
        return found
