"""A shell on a host that answers requests: they go out as they come, answers come in that order.

A request is a line "VERB WORDS BYTES", its words, a line each, and that many bytes. An answer is
lines that begin with `=`, or with `#` and a number of bytes that follow, and then a line `.` or
`!REASON text`. What answers is scripts/agent.sh.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Sequence

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.answers import refused
from gate_kit.ssh.transport import Process, Reader

_ANSWER_BYTES = 128 << 20
"""Of one answer. A list of 100,000 attempts has less."""
_ANSWER_S = 30.0
"""A host that answers nothing for so long is as good as not there."""


@dataclasses.dataclass(slots=True)
class Reply:
    """What a request was answered with."""

    lines: list[str] = dataclasses.field(default_factory=list)
    blobs: list[bytes] = dataclasses.field(default_factory=list)


class ShellLost(Refusal):
    """NODE_UNREACHABLE: a shell that was there is not any more."""

    def __init__(self, node: str, why: str = "") -> None:
        text = f"the link to {node} was lost{why and ': '}{why}"
        told = errors.node_unreachable(node, text)
        super().__init__(told.code, told.reason, told.message, metadata=told.metadata)


class Shell:
    """The long-lived shell: requests go out as they come, answers come in the same order."""

    def __init__(self, node: str, process: Process) -> None:
        self.is_lost = False
        self._node = node
        self._process = process
        self._waiting: collections.deque[asyncio.Future[Reply]] = collections.deque()
        self._reading = asyncio.create_task(self._read())
        self._answered = 0
        """How many requests have been answered."""
        self._looking: asyncio.TimerHandle | None = None

    async def ask(self, verb: str, words: Sequence[str], data: bytes) -> Reply:
        if self.is_lost:
            raise self._gone("")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        # Who asked may be gone when the answer comes; it is read all the same.
        future.add_done_callback(_retrieved)
        self._waiting.append(future)
        head = b"%s %d %d\n" % (verb.encode(), len(words), len(data))
        try:
            self._process.stdin.write(head + b"".join(map(encoded, words)) + data)
        except OSError as error:
            self._lose(str(error))
        if self._looking is None and not self.is_lost:
            self._look_later()
        return await future

    async def close(self) -> None:
        self._lose("it was let go")
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _look_later(self) -> None:
        """Give the shell up if nothing is answered until then, though somebody waits."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(_ANSWER_S, self._look, self._answered)

    def _look(self, answered: int) -> None:
        self._looking = None
        if not self._waiting:
            return
        if self._answered == answered:
            self._lose(f"it did not answer for {_ANSWER_S:g} s")
        else:
            self._look_later()

    async def _read(self) -> None:
        try:
            while True:
                reply, failed = await self._answer()
                self._answered += 1
                future = self._waiting.popleft()
                if future.done():
                    continue
                if failed:
                    future.set_exception(refused(self._node, failed))
                else:
                    future.set_result(reply)
        except (OSError, EOFError, ValueError, IndexError) as error:
            told = self._process.stderr.decode(errors="replace").strip()
            self._lose(told or str(error) or "the link was lost")

    async def _answer(self) -> tuple[Reply, str]:
        reply = Reply()
        reader = self._process.stdout
        size = 0
        while True:
            line = await read_line(reader)
            size += len(line) + (int(line[1:]) if line.startswith(b"#") else 0)
            if size > _ANSWER_BYTES:
                # Others use this gate too: what an account says is not held without bounds.
                raise ValueError("the shell answers without end")
            if line == b".":
                return reply, ""
            if line.startswith(b"="):
                reply.lines.append(line[1:].decode(errors="surrogateescape"))
            elif line.startswith(b"#"):
                reply.blobs.append(await reader.readexactly(int(line[1:])))
            elif line.startswith(b"!"):
                return reply, line[1:].decode(errors="replace")
            else:
                raise ValueError(f"the shell said {line[:200]!r}")

    def _lose(self, why: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._looking is not None:
            self._looking.cancel()
        self._process.close()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(self._gone(why))

    def _gone(self, why: str) -> Refusal:
        return ShellLost(self._node, why)


def _retrieved(future: asyncio.Future[Reply]) -> None:
    if not future.cancelled():
        future.exception()


async def read_line(reader: Reader) -> bytes:
    """A line without its newline.

    Raises:
        EOFError: The end came first.
    """
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line[:-1]


def encoded(word: str) -> bytes:
    """A word as `read_word` takes it."""
    raw = word.encode(errors="surrogateescape")
    return raw.replace(b"\\", b"\\0134").replace(b"\n", b"\\0012") + b"\n"
