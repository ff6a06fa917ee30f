"""Tells when files on a host grow, for any number of readers with one question for all.

The sizes are asked for: often while something happens, and ever less often while nothing does. What
has been quiet for a moment is watched by the host itself besides, where its tools can do that; a
first line after a pause is then told at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Iterator, Sequence

from gate_kit import Refusal
from gate_kit.ssh.answers import HostRefused
from gate_kit.ssh.host import Host
from gate_kit.ssh.transport import Process

_PAUSE_S = (0.02, 0.5)
_SLOWER = 1.25
_QUIET_S = 0.045
"""With a pause of so much, files are quiet: it is reached after a tenth of a second."""
_MOST_WATCHED = 1_000


class Growth:
    """The files of one host that somebody waits for."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: dict[asyncio.Event, dict[str, int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._pause_s = _PAUSE_S[0]

    @contextlib.contextmanager
    def watch(self, sizes: dict[str, int]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of some files has another size than is known.

        Args:
            sizes: The files, below `jobs`, with the sizes that are known; may be changed.
        """
        event = asyncio.Event()
        self._waiting[event] = sizes
        self._pause_s = _PAUSE_S[0]
        if self._task is None:
            self._task = asyncio.create_task(self._look(), name=f"growth at {self._host.node}")
        try:
            yield event
        finally:
            del self._waiting[event]
            if not self._waiting and self._task is not None:
                self._task.cancel()
                self._ending.add(self._task)
                self._task.add_done_callback(self._ending.discard)
                self._task = None

    async def close(self) -> None:
        """Look no more."""
        tasks = [*self._ending, *([self._task] if self._task else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        watcher = _Watcher(self._host)
        try:
            while True:
                if await watcher.grown(self._pause_s):
                    self._pause_s = _PAUSE_S[0]
                else:
                    self._pause_s = min(self._pause_s * _SLOWER, _PAUSE_S[1])
                await self._ask(watcher)
        finally:
            await watcher.close()

    async def _ask(self, watcher: _Watcher) -> None:
        waiting = [(e, sizes) for e, sizes in self._waiting.items() if not e.is_set()]
        files = sorted({file for _, sizes in waiting for file in sizes})
        if not files:
            return
        if self._pause_s >= _QUIET_S:
            # Before they are asked for: what comes between is told by one or the other.
            watcher.watch(files)
        try:
            found = await self._sizes(files)
        except (Refusal, HostRefused):
            # Whoever reads is told why.
            for event, _ in waiting:
                event.set()
            return
        for event, sizes in waiting:
            if any(found.get(file, size) != size for file, size in sizes.items()):
                event.set()
                self._pause_s = _PAUSE_S[0]

    async def _sizes(self, files: Sequence[str]) -> dict[str, int]:
        reply = await self._host.ask("sizes", *files)
        found = {}
        for line in reply.lines:
            size, _, name = line.partition(" ")
            found[name] = int(size)
        return found


class _Watcher:
    """Has the host itself tell when files grow. Close it.

    It may tell nothing, or too late: it saves a pause, and nobody may rely on it.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._grown = asyncio.Event()
        self._files: Sequence[str] = ()
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def grown(self, within_s: float) -> bool:
        """Whether files have grown; waits for that, and no longer than `within_s` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._grown.wait()
        except TimeoutError:
            return False
        self._grown.clear()
        self._files = ()
        return True

    def watch(self, files: Sequence[str]) -> None:
        """Have these watched until one has grown, and no others."""
        watched = files[:_MOST_WATCHED]
        if watched == self._files:
            return
        self._files = watched
        if self._task is None:
            # Once: a host that can't do it is not asked again.
            self._task = asyncio.create_task(self._run(), name=f"watch at {self._host.node}")
        elif self._process is not None:
            self._send(self._process)

    def _send(self, process: Process) -> None:
        process.stdin.write(f"{' '.join(self._files)}\n".encode())

    async def _run(self) -> None:
        with contextlib.suppress(Refusal, OSError):
            process = self._process = await self._host.run("growth", lasting=True)
            try:
                self._send(process)
                while await process.stdout.readline():
                    self._grown.set()
            finally:
                self._process = None
                process.close()

    async def close(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Growths:
    """That of each host."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[Host, Growth] = weakref.WeakKeyDictionary()

    def of(self, host: Host) -> Growth:
        """The one of `host`."""
        found = self._of.get(host)
        if found is None:
            found = self._of[host] = Growth(host)
        return found

    async def close(self) -> None:
        """Look no more."""
        await asyncio.gather(*(growth.close() for growth in list(self._of.values())))
