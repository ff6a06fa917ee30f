"""What jobs write, kept while they run and afterwards: bounded, and the end is always kept.

jobs/<job>/<attempt>/<node>.<kind>/<offset>.seg     segments, named by where they begin
jobs/<job>/<attempt>/<node>.<kind>/end              "<size> <sha256>" once the stream is complete
"""

from __future__ import annotations

import asyncio
import enum
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from swm_core.spool.room import Room

SEGMENT_BYTES = 8 << 20


class LogKind(enum.StrEnum):
    """Which stream of a job."""

    STDOUT = "stdout"
    STDERR = "stderr"


class LogPiece(NamedTuple):
    """Some bytes of a log. More before `offset` than was read so far: the rest was dropped."""

    offset: int
    data: bytes


class LogEnd(NamedTuple):
    """A complete stream. `sha256` is empty when it is not known."""

    size: int
    sha256: bytes


class LogMirror:
    """One stream of one node of one attempt.

    Args:
        folder: Where it is kept.
        max_bytes: How much of it is kept, at least two segments.
        room: What the whole spool holds. A log is written also when that is full: what a job said
            is the last thing to be lost, and each is bounded.
    """

    def __init__(self, folder: Path, max_bytes: int, room: Room) -> None:
        self._folder = folder
        self._max_bytes = max(max_bytes, 2 * SEGMENT_BYTES)
        self._room = room
        self._starts = sorted(int(path.stem) for path in folder.glob("*.seg"))
        self.size = 0
        """Bytes from the stream's beginning that have come."""
        if self._starts:
            self.size = self._starts[-1] + self._segment(self._starts[-1]).stat().st_size
        self.end = self._read_end()
        """How it ended; None while it has not."""
        if self.end is not None:
            self.size = self.end.size
        self._closed = False
        self._grown = asyncio.Event()

    async def append(self, offset: int, data: bytes) -> None:
        """Add bytes. What is there already is skipped; what lies between is told as dropped."""
        if self.end is not None or offset + len(data) <= self.size:
            return
        if offset < self.size:
            data = data[self.size - offset :]
            offset = self.size
        self._write(offset, data)
        self._tell()

    def _write(self, offset: int, data: bytes) -> None:
        last = self._starts[-1] if self._starts else None
        fresh = last is None or offset != self.size or self.size - last >= SEGMENT_BYTES
        if fresh:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._starts.append(offset)
            last = offset
            self._drop_oldest(len(data))
        with self._segment(last or 0).open("ab", buffering=0) as file:
            file.write(data)
        self._room.add(len(data))
        self.size = offset + len(data)

    def _drop_oldest(self, coming: int) -> None:
        while len(self._starts) > 2 and self.size + coming - self._starts[1] >= self._max_bytes:
            path = self._segment(self._starts.pop(0))
            self._room.give_back(path.stat().st_size)
            path.unlink()

    async def finish(self, size: int, sha256: bytes) -> None:
        """The stream is complete. Durable after the spool's next `sync`, which serves many."""
        if self.end is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._folder / "end.new"
            fresh.write_text(f"{size} {sha256.hex()}\n")
            fresh.replace(self._folder / "end")
            self.end = LogEnd(size, sha256)
            self._tell()

    def read(self, offset: int, limit: int) -> LogPiece | None:
        """Up to `limit` bytes from `offset` on, or from where more is kept; None: there is none."""
        for index, start in enumerate(self._starts):
            following = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
            if offset >= following:
                continue
            begin = max(offset, start)
            with self._segment(start).open("rb") as file:
                file.seek(begin - start)
                if data := file.read(limit):
                    return LogPiece(begin, data)
        return None

    @property
    def kept_bytes(self) -> int:
        """How much of it can be read."""
        return self.size - self._starts[0] if self._starts else 0

    async def grown(self, beyond: int) -> None:
        """Wait until more than `beyond` bytes have come, or no more will."""
        while self.size <= beyond and self.end is None and not self._closed:
            await self._grown.wait()

    def close(self) -> None:
        """Nothing more will come, complete or not."""
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    def _segment(self, start: int) -> Path:
        return self._folder / f"{start:020d}.seg"

    def _read_end(self) -> LogEnd | None:
        try:
            size, _, digest = (self._folder / "end").read_text().strip().partition(" ")
        except OSError:
            return None
        return LogEnd(int(size), bytes.fromhex(digest))


class Logs:
    """The logs of all jobs.

    Args:
        root: The spool.
        max_bytes_per_job: Shared by the streams of a job.
        room: What the whole spool holds.
    """

    def __init__(self, root: Path, max_bytes_per_job: int, room: Room) -> None:
        self._root = root
        self._max_bytes = max_bytes_per_job
        self._room = room
        # Who writes and who reads a log share one object, which tells the readers of growth.
        self._open: dict[Path, LogMirror] = {}

    def log(self, owner: str, job_id: str, attempt: int, node: str, kind: LogKind) -> LogMirror:
        """One stream. The node is empty for the first."""
        folder = self._job(owner, job_id) / str(attempt) / f"{quote(node, safe='')}.{kind}"
        found = self._open.get(folder)
        if found is None:
            found = LogMirror(folder, self._max_bytes // 2, self._room)
            if found.end is None:
                self._open[folder] = found
        elif found.end is not None:
            del self._open[folder]
        return found

    def close_attempt(self, owner: str, job_id: str, attempt: int) -> None:
        """Nobody writes to the attempt's logs any more."""
        folder = self._job(owner, job_id) / str(attempt)
        for path in [path for path in self._open if path.parent == folder]:
            self._open.pop(path).close()

    def forget(self, owner: str, job_id: str) -> None:
        """Delete all logs of a job. Blocks."""
        folder = self._job(owner, job_id)
        size = sum(_file_size(path) for path in _files(folder))
        shutil.rmtree(folder, ignore_errors=True)
        self._room.give_back(size)

    def _job(self, owner: str, job_id: str) -> Path:
        return owner_folder(self._root, owner) / "jobs" / job_id


def owner_folder(root: Path, owner: str) -> Path:
    """The tree of an owner."""
    return root / ("u-" + quote(owner, safe=""))


def owner_of(folder: Path) -> str:
    """Whose tree it is."""
    return unquote(folder.name.removeprefix("u-"))


def _files(folder: Path) -> Iterator[Path]:
    for path, _, names in os.walk(folder):
        for name in names:
            yield Path(path, name)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
