"""The segments of all logs of one job, so that together they stay within what a job may keep."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from swm_core.spool.partial import remove
from swm_core.spool.room import Room

SUFFIX = ".seg"

_MAX_SEGMENT_BYTES = 4 << 20
_MIN_SEGMENT_BYTES = 64 << 10
_SEGMENTS = 16
"""For each stream: what is dropped at once is so small a part of a job's share."""
_MOST_SEGMENTS = 4_000
"""Of a job, beside those that are kept: a site may tell of a gap behind every byte."""
_KEPT = 2
"""Segments at the end of each stream that are never dropped: a new one may be all but empty."""


class JobSegments:
    """Safe from any thread. What is on disk is looked at with the first change.

    Args:
        folder: The job's.
        max_bytes: What its logs may have together. Streams so many that the ends of all of them
            are more than that have more.
        room: What the whole spool holds.
        dropped: Called with folder and start of each segment that is dropped.
    """

    def __init__(
        self, folder: Path, max_bytes: int, room: Room, dropped: Callable[[str, int], None]
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._room = room
        self._dropped = dropped
        self._lock = threading.Lock()
        self._looked = False
        # By folder and start, the oldest first.
        self._sizes: dict[tuple[str, int], int] = {}
        self._counts: dict[str, int] = {}
        self._total = 0

    def segment_bytes(self, folder: str) -> int:
        """How large the segments of the stream in `folder` may become."""
        with self._lock:
            self._look()
            streams = len(self._counts) + (folder not in self._counts)
        share = self._max_bytes // (streams * _SEGMENTS)
        return max(_MIN_SEGMENT_BYTES, min(_MAX_SEGMENT_BYTES, share))

    def make_room(self, size: int) -> None:
        """Drop the oldest segments until `size` bytes more are within what the job may keep."""
        while self._is_too_much(size) and self.drop_oldest():
            pass

    def _is_too_much(self, size: int) -> bool:
        with self._lock:
            self._look()
            most = _MOST_SEGMENTS + _KEPT * len(self._counts)
            return self._total + size > self._max_bytes or len(self._sizes) >= most

    def drop_oldest(self) -> bool:
        """Drop the oldest segment that is not the end of its stream; False: there is none."""
        with self._lock:
            self._look()
            for key in self._sizes:
                folder, start = key
                if self._counts[folder] > _KEPT:
                    self._total -= self._sizes.pop(key)
                    self._counts[folder] -= 1
                    remove(segment_path(folder, start), self._room)
                    break
            else:
                return False
        self._dropped(folder, start)
        return True

    def grew(self, folder: str, start: int, size: int) -> None:
        """A segment has `size` bytes more."""
        with self._lock:
            self._look()
            key = (folder, start)
            if key not in self._sizes:
                self._sizes[key] = 0
                self._counts[folder] = self._counts.get(folder, 0) + 1
            self._sizes[key] += size
            self._total += size

    def _look(self) -> None:
        if self._looked:
            return
        self._looked = True
        found: list[tuple[int, str, int, int]] = []
        for path, _, names in os.walk(self._folder):
            for name in names:
                if name.endswith(SUFFIX):
                    status = os.stat(f"{path}/{name}")  # noqa: PTH116
                    start = int(name.removesuffix(SUFFIX))
                    found.append((status.st_mtime_ns, path, start, status.st_size))
        for _, folder, start, size in sorted(found):
            self._sizes[folder, start] = size
            self._counts[folder] = self._counts.get(folder, 0) + 1
            self._total += size


def segment_path(folder: Path | str, start: int) -> str:
    """The segment of a stream that begins at `start`."""
    return f"{folder}/{start:020d}{SUFFIX}"
