"""Readers of what scripts on hosts say, fed with whatever a host might say instead."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gate_kit.errors import Refusal
from gate_kit.ssh import capacity, evidence
from gate_kit.ssh.answers import HostRefused, refused
from gate_kit.ssh.conversation import Conversation
from gate_kit.ssh.remote_files import Reader, RemoteFiles
from gate_kit.ssh.shell import Reply
from skyport.gate.v1 import job_pb2, types_pb2

NODE = "n1"
PATHS = ["a", "b/c"]


class _Writer:
    """Takes all that is sent."""

    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Process:
    """A script that says `said`, whatever it is asked, and ends.

    Args:
        said: Its standard output.
    """

    def __init__(self, said: bytes) -> None:
        self.stdin = _Writer()
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(said)
        self.stdout.feed_eof()
        self.stderr = b""

    async def wait(self) -> int:
        return 0

    def close(self) -> None:
        pass


class _Host:
    """Where it runs, for texts."""

    node = NODE


def _told(read: Callable[[bytes], Awaitable[None]]) -> Callable[[bytes], None]:
    """A reader as a function: what a host says may be refused, and raises nothing else."""

    async def bounded(data: bytes) -> None:
        async with asyncio.timeout(20):
            with contextlib.suppress(Refusal, HostRefused):
                await read(data)

    def run(data: bytes) -> None:
        asyncio.run(bounded(data))

    return run


async def _files(data: bytes) -> None:
    """All that is asked of files; the first byte says which, and how records are written."""
    which = data[0] if data else 0
    process: Any = _Process(data[1:])
    files = RemoteFiles(NODE, process, Reader(1, frozenset({1})), by_find=bool(which & 8))
    match which & 7:
        case 0:
            async for records in files.walk(["*"]):
                assert records
        case 1:
            await files.look(PATHS)
        case 2:
            await files.small(PATHS)
        case 3:
            await files.large(PATHS[0])
            await _all(files.send(0, 100))
            await files.sent(PATHS[0])
        case _:
            await files.small(PATHS)


async def _all(pieces: AsyncIterator[bytes]) -> None:
    async for _ in pieces:
        pass


async def _conversation(data: bytes) -> None:
    """Three requests, answered with whatever comes."""
    host: Any = _Host()
    process: Any = _Process(data)
    talk = Conversation(host, process)
    try:
        for line in ("one", "two", "three"):
            await talk.ask(line, b"data")
    finally:
        await talk.close()


def _evidence(data: bytes) -> None:
    """What is told of attempts, with their labels and specifications."""
    text, _, blob = data.partition(b"\0")
    lines = text.decode(errors="surrogateescape").split("\n")
    reply = Reply(lines, [blob])
    evidence.read_list(NODE, reply)
    on_host = evidence.read_status(NODE, reply)
    evidence.judge([on_host], is_starting=False, is_shared=False, now_ns=1)
    capacity.parse(lines)
    refused(NODE, lines[0])


remote_files = _told(_files)
conversation = _told(_conversation)
evidence_lines = _evidence


def archive() -> bytes:
    """An archive of two files, as a host's tar makes it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in (*PATHS, "x" * 150):
            info = tarfile.TarInfo(f"./{path}")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    return made.getvalue()


FOUND = b"100644 3 1700000000.5 1 1 f ./a\0\0"
TOLD = b"81a4 3 1700000000.5 1 1 ./a//'./a'//\n"
_REF = types_pb2.JobRef(
    installation="abc", partition_id="lab", job_id="j", attempt=1, owner="ann", nodes=[NODE]
)
LABELS = base64.b64encode(job_pb2.JobStatus(ref=_REF).SerializeToString())
SPEC = base64.b64encode(job_pb2.StartJobRequest(ref=_REF).SerializeToString())
