"""What jobs write, kept while they run and afterwards: bounded, and the end is always kept.

    jobs/<job>/<attempt>/<node>.<kind>/<offset>.seg     segments, named by where they begin
    jobs/<job>/<attempt>/<node>.<kind>/end              "<size> <sha256>" once it is complete

Nothing else is kept about them: how far a stream has come is where its last segment ends.
"""

from __future__ import annotations

import asyncio
import bisect
import enum
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from swm_core.spool.errors import SpoolFull
from swm_core.spool.partial import append_at, remove, size_of
from swm_core.spool.room import Room, full_disk_refuses
from swm_core.spool.segments import SUFFIX, JobSegments, segment_path

log = logging.getLogger(__name__)

_END = "end"
"""The file that tells how a stream ended."""


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
    """One stream of one node of one attempt. For the event loop; writes are made in threads.

    Args:
        folder: Where it is kept.
        job: All segments of its job, which bounds them.
        room: What its owner has in the spool. A log is written also when that is full: what a job
            said is the last thing to be lost, and each is bounded.
        check: Raises OSError unless the spool is where it was.
    """

    def __init__(
        self, folder: Path, job: JobSegments, room: Room, check: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._check = check
        self._job = job
        self._room = room
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            names = []  # a log begins with its first bytes, or with its end
        found = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        self._starts = sorted(map(int, found))
        self.size = 0
        """Bytes from the stream's beginning that have come."""
        if self._starts:
            last = self._starts[-1]
            self.size = last + (size_of(segment_path(folder, last)) or 0)
        self.end = self._read_end() if _END in names else None
        """How it ended; None while it has not."""
        if self.end is not None:
            self.size = self.end.size
        # Behind it bytes may have come for which there was no room.
        self._last_end = self.size
        self.closed = False
        """Whether nothing more will come, complete or not."""
        self._grown = asyncio.Event()
        # A thread goes on when its caller is cancelled, and the next must not overtake it.
        self._writing = threading.Lock()
        # Apart from that, because a stream that writes may have another one's segment dropped.
        self._listing = threading.Lock()
        self._lossy = False

    async def append(self, offset: int, data: bytes) -> None:
        """Add bytes. What is there already is skipped; what lies between is told as dropped.

        Where the disk has no room, older output of the job gives way, or else these bytes do.
        """
        if self.end is not None or offset + len(data) <= self.size:
            return
        try:
            await asyncio.to_thread(self._write, offset, data)
        finally:
            self._tell()

    def _write(self, offset: int, data: bytes) -> None:
        with self._writing:
            view = memoryview(data)[max(0, self.size - offset) :]
            offset = max(offset, self.size)
            limit = self._job.segment_bytes(str(self._folder))
            while view:
                start = self._starts[-1] if self._starts else None
                if start is None or offset != self._last_end or offset - start >= limit:
                    start = offset
                    self._check()
                    self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    self._job.make_room(limit)
                part = view[: start + limit - offset]
                self._write_part(start, offset, part)
                offset += len(part)
                self.size = offset
                view = view[len(part) :]

    def _write_part(self, start: int, offset: int, part: memoryview) -> None:
        path = segment_path(self._folder, start)
        try:
            _until_room(lambda: append_at(path, offset - start, part), self._job)
        except SpoolFull as error:
            if not self._lossy:
                self._lossy = True
                log.warning("output of the job is lost: %s", error)
            if offset == start:
                remove(path, self._room)  # made, and empty
            return
        if offset == start:
            with self._listing:
                self._starts = [*self._starts, start]
        self._job.grew(str(self._folder), start, len(part))
        self._room.add(len(part))
        self._last_end = offset + len(part)

    async def finish(self, size: int, sha256: bytes) -> None:
        """The stream is complete. Durable after the spool's next `sync`, which serves many.

        Raises:
            SpoolFull: The disk has no room even for that.
        """
        await finish_together([(self, LogEnd(size, sha256))])

    def note_end(self, end: LogEnd) -> None:
        """Tell readers of the end that was written."""
        self.end = end
        self.size = end.size
        self._tell()

    def write_end(self, end: LogEnd) -> None:
        """The part of `finish` that blocks."""
        with self._writing:
            self._check()
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._folder / "end.new"
            text = f"{end.size} {end.sha256.hex()}\n"
            _until_room(lambda: fresh.write_text(text), self._job)
            fresh.replace(self._folder / _END)

    def read(self, offset: int, limit: int) -> LogPiece | None:
        """Up to `limit` bytes from `offset` on, or from where more is kept; None: there is none."""
        starts = self._starts
        for start in starts[max(0, bisect.bisect_right(starts, offset) - 1) :]:
            begin = max(offset, start)
            try:
                with Path(segment_path(self._folder, start)).open("rb", buffering=0) as file:
                    file.seek(begin - start)
                    data = file.read(limit)
            except FileNotFoundError:
                continue  # dropped in this moment
            if data:
                return LogPiece(begin, data)
        return None

    @property
    def kept_bytes(self) -> int:
        """How much of it can be read."""
        return sum(size_of(segment_path(self._folder, start)) or 0 for start in self._starts)

    async def grown(self, beyond: int) -> None:
        """Wait until more than `beyond` bytes have come, or no more will."""
        while self.size <= beyond and self.end is None and not self.closed:
            await self._grown.wait()

    def close(self) -> None:
        """Nothing more will come, complete or not."""
        self.closed = True
        self._tell()

    def dropped(self, start: int) -> None:
        """For the job's segments: one is gone. From any thread."""
        # A new list, because the loop may be reading the old one.
        with self._listing:
            self._starts = [each for each in self._starts if each != start]

    def _tell(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    def _read_end(self) -> LogEnd | None:
        try:
            size, _, digest = (self._folder / _END).read_text().strip().partition(" ")
        except OSError:
            return None
        return LogEnd(int(size), bytes.fromhex(digest))


async def finish_together(ends: Sequence[tuple[LogMirror, LogEnd]]) -> None:
    """As `LogMirror.finish` of each, by one thread for all: most jobs write little, if anything.

    Raises:
        SpoolFull: The disk has no room even for that; those before the first one are complete.
    """
    fresh = [(mirror, end) for mirror, end in ends if mirror.end is None]
    written: list[tuple[LogMirror, LogEnd]] = []

    def write() -> None:
        for mirror, end in fresh:
            mirror.write_end(end)
            written.append((mirror, end))

    try:
        if fresh:
            await asyncio.to_thread(write)
    finally:
        for mirror, end in written:
            mirror.note_end(end)


class Logs:
    """The logs of all jobs.

    Args:
        root: The spool.
        max_bytes_per_job: Shared by the streams of a job.
        room: What an owner has in the spool.
        check: Raises OSError unless the spool is where it was.
    """

    def __init__(
        self,
        root: Path,
        max_bytes_per_job: int,
        room: Callable[[str], Room],
        check: Callable[[], None],
    ) -> None:
        self._root = root
        self._check = check
        self._max_bytes = max_bytes_per_job
        self._room = room
        # Who writes and who reads a log share one object, which tells the readers of growth.
        self._open: weakref.WeakValueDictionary[Path, LogMirror] = weakref.WeakValueDictionary()
        self._jobs: weakref.WeakValueDictionary[Path, JobSegments] = weakref.WeakValueDictionary()

    def log(self, owner: str, job_id: str, attempt: int, node: str, kind: LogKind) -> LogMirror:
        """One stream. The node is empty for the first."""
        job_folder = self._job(owner, job_id)
        folder = job_folder / str(attempt) / f"{quote(node, safe='')}.{kind}"
        found = self._open.get(folder)
        if found is None:
            room = self._room(owner)
            job = self._jobs.get(job_folder)
            if job is None:
                job = JobSegments(job_folder, self._max_bytes, room, self._dropped)
                self._jobs[job_folder] = job
            found = self._open[folder] = LogMirror(folder, job, room, self._check)
        return found

    def close_attempt(self, owner: str, job_id: str, attempt: int) -> None:
        """Nobody writes to the attempt's logs any more."""
        folder = self._job(owner, job_id) / str(attempt)
        for path, mirror in list(self._open.items()):
            if path.parent == folder:
                del self._open[path]
                mirror.close()

    def forget(self, owner: str, job_id: str) -> None:
        """Delete all logs of a job. Blocks."""
        self._remove(owner, self._job(owner, job_id))

    def collect(self, owner_folder: Path, jobs: Collection[str], before: float) -> None:
        """Delete the logs of jobs that are not among `jobs` and were not touched since. Blocks."""
        try:
            folders = list((owner_folder / "jobs").iterdir())
        except FileNotFoundError:
            return
        for folder in folders:
            if folder.name not in jobs and folder.stat().st_mtime < before:
                self._remove(owner_of(owner_folder), folder)

    def _remove(self, owner: str, folder: Path) -> None:
        size = 0
        for path, _, names in os.walk(folder):
            size += sum(size_of(f"{path}/{name}") or 0 for name in names if name.endswith(SUFFIX))
        shutil.rmtree(folder, ignore_errors=True)
        self._room(owner).give_back(size)

    def _dropped(self, folder: str, start: int) -> None:
        mirror = self._open.get(Path(folder))
        if mirror is not None:
            mirror.dropped(start)

    def _job(self, owner: str, job_id: str) -> Path:
        return owner_folder(self._root, owner) / "jobs" / job_id


def owner_folder(root: Path, owner: str) -> Path:
    """The tree of an owner."""
    return root / ("u-" + quote(owner, safe=""))


def owner_of(folder: Path) -> str:
    """Whose tree it is."""
    return unquote(folder.name.removeprefix("u-"))


def _until_room(write: Callable[[], object], job: JobSegments) -> None:
    """Write; where the disk is full, drop the oldest output of the job for it.

    Raises:
        SpoolFull: There is nothing more to drop.
    """
    while True:
        try:
            with full_disk_refuses():
                write()
        except SpoolFull:
            if not job.drop_oldest():
                raise
        else:
            return
