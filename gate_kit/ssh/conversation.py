"""Requests to a script that runs in a channel of its own, and its answers, in the same order.

A request is a line, for some followed by bytes. An answer is lines that begin with `=`, and then a
line `.` or `!REASON text`. What is sent waits for room, so a slow host costs no memory.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.answers import refused
from gate_kit.ssh.host import Host
from gate_kit.ssh.transport import Process

T = TypeVar("T")

_ANSWER_BYTES = 128 << 20
"""Of one answer: others use this gate too."""
_UNANSWERED = 16
"""Requests that may be on their way."""


class Conversation:
    """One script that answers. Close it; a script that still works then is told to end.

    Args:
        host: Where it runs.
        process: The script.
    """

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process
        self._waiting: collections.deque[asyncio.Future[list[str]]] = collections.deque()
        self._room = asyncio.Semaphore(_UNANSWERED)
        self._why: Exception | None = None
        """The first thing that went wrong: nothing after it counts."""
        self._reader = asyncio.create_task(self._read(), name=f"answers of {host.node}")

    @classmethod
    async def begin(cls, host: Host, script: str, *words: str) -> Conversation:
        """Start `script` on `host`.

        Raises:
            Refusal: As `Host.run`.
        """
        return cls(host, await host.run(script, *words))

    async def post(self, line: str, *data: bytes) -> asyncio.Future[list[str]]:
        """Send a request; returns where its answer will be, once there is room for the next one.

        Raises:
            Refusal, HostRefused: An earlier request was refused, or the link is lost.
        """
        await self._room.acquire()
        if why := self._why:
            self._room.release()
            raise why
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        self._waiting.append(future)
        stdin = self._process.stdin
        try:
            stdin.write(line.encode() + b"\n")
            for part in data:
                stdin.write(part)
                await stdin.drain()
        except OSError as error:
            # What it has said before it went says more than that it has gone.
            await self._reader
            raise self._why or self._lost(str(error)) from error
        return future

    async def ask(self, line: str, *data: bytes) -> list[str]:
        """The lines that answer a request.

        Raises:
            Refusal, HostRefused: As `post`; and what this request is refused with.
        """
        return await (await self.post(line, *data))

    async def close(self) -> None:
        """Let go of it."""
        self._process.close()
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self) -> None:
        lines: list[str] = []
        size = 0
        try:
            while line := await self._process.stdout.readline():
                text = line.rstrip(b"\n").decode(errors="surrogateescape")
                if text.startswith("="):
                    lines.append(text[1:])
                    size += len(line)
                    if size > _ANSWER_BYTES:
                        raise EOFError("it answers without end")
                    continue
                size = 0
                self._room.release()
                future = self._waiting.popleft()
                if text == ".":
                    if not future.done():
                        future.set_result(lines)
                    lines = []
                    continue
                self._end(refused(self._host.node, text.removeprefix("!")), future)
                return
            self._end(self._lost(""))
        except (OSError, EOFError, IndexError) as error:
            self._end(self._lost(str(error)))
        finally:
            self._end(self._lost("it was let go"))

    def _end(self, refusal: Exception, *futures: asyncio.Future[list[str]]) -> None:
        if self._why is None:
            self._why = refusal
        for future in (*futures, *self._waiting):
            if not future.done():
                future.set_exception(self._why)
        for _ in self._waiting:
            self._room.release()
        self._waiting.clear()

    def _lost(self, why: str) -> Refusal:
        node = self._host.node
        why = self._process.stderr.decode(errors="replace").strip()[-500:] or why
        text = f"the link to {node} was lost{f': {why}' if why else ''}"
        return errors.node_unreachable(node, text)


def _retrieved(future: asyncio.Future[list[str]]) -> None:
    """Who asked may be gone: the error is told to who asks next."""
    if not future.cancelled():
        future.exception()


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all; the first failure ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
