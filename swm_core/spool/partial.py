"""Contents that arrive in pieces, over several streams or restarts if need be.

A partial file holds as much of a content as has come, so its size is the offset to go on from. It
is opened for each piece, not kept open: a stream may have begun a thousand contents.
"""

from __future__ import annotations

import hashlib
import os
import threading

from swm_core.spool.errors import DigestMismatch, OffsetRefused
from swm_core.spool.room import Room, full_disk_refuses
from swm_core.spool.syncing import start_writing

_READ_BYTES = 1 << 20
_WRITTEN_EARLY_BYTES = 256 * 1024


class Partial:
    """One such file. Methods block and are safe from any thread.

    Args:
        path: The file, which may be there already.
        expected: The digest in hex, when it is known; then two streams may bring it together.
        room: What its owner has in the spool.
    """

    def __init__(self, path: str, expected: str, room: Room) -> None:
        self.path = path
        self.size = size_of(path) or 0
        self.users = 0
        self._expected = expected
        self._room = room
        self._lock = threading.Lock()
        # None: what is there already has to be read first.
        self._hash = hashlib.sha256() if self.size == 0 else None
        self._digest = ""

    def write(self, offset: int, data: bytes) -> None:
        """Append a piece.

        What of a known content is there already is skipped. An unknown one that begins anew is
        another one: what is there is dropped.

        Raises:
            OffsetRefused: It is not where this ends.
            SpoolFull: There is no room; nothing of the piece was kept.
        """
        with self._lock:
            if self._digest:
                return
            if offset == 0 and not self._expected:
                self._drop()
            if offset > self.size or (offset < self.size and not self._expected):
                raise OffsetRefused(
                    f"a piece begins at byte {offset}, and {self.size} are there; go on from there",
                    offset=str(self.size),
                )
            fresh = memoryview(data)[self.size - offset :]
            if self.size and not fresh:
                return
            self._room.take(len(fresh))
            try:
                with full_disk_refuses():
                    append_at(self.path, self.size, fresh)
            except BaseException:
                self._room.give_back(len(fresh))
                raise
            if self._hash is not None:
                self._hash.update(fresh)
            self.size += len(fresh)

    def finish(self) -> str:
        """All of it is there; returns its digest in hex.

        Raises:
            DigestMismatch: It is not what was announced; it is dropped.
        """
        with self._lock:
            if not self._digest:
                digest = self._read_digest()
                if self._expected and digest != self._expected:
                    self._drop()
                    raise DigestMismatch(
                        f"a content came with digest {digest}, announced was {self._expected}; "
                        "send it anew",
                        sha256=self._expected,
                    )
                self._digest = digest
            return self._digest

    def discard(self) -> None:
        """Drop what is there."""
        with self._lock:
            self._drop()

    def _read_digest(self) -> str:
        if self._hash is None:
            self._hash = hashlib.sha256()
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while chunk := os.read(descriptor, _READ_BYTES):
                    self._hash.update(chunk)
            finally:
                os.close(descriptor)
        return self._hash.hexdigest()

    def _drop(self) -> None:
        remove(self.path, self._room)
        self.size = 0
        self._hash = hashlib.sha256()
        self._digest = ""


def append_at(path: str, offset: int, data: memoryview | bytes) -> None:
    """Write all of `data` at `offset`, the end of the file; after an error it ends there still."""
    # Only a file that begins is made: one that was taken away must not come back with a hole.
    make = os.O_CREAT if offset == 0 else 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | make, 0o600)
    try:
        view = memoryview(data)
        at = offset
        try:
            while view:
                # A disk that runs full takes a part first, and refuses the next.
                written = os.pwrite(descriptor, view, at)
                at += written
                view = view[written:]
        except BaseException:
            os.ftruncate(descriptor, offset)
            raise
        if len(data) >= _WRITTEN_EARLY_BYTES:
            start_writing(descriptor, offset, len(data))
    finally:
        os.close(descriptor)


def size_of(path: str) -> int | None:
    """The size of a file; None: there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called for thousands of files in a row
    except FileNotFoundError:
        return None


def remove(path: str, room: Room) -> int:
    """Remove a file and give its room back; returns its size, 0 when it is not there."""
    size = size_of(path)
    if size is None:
        return 0
    try:
        os.unlink(path)  # noqa: PTH108 - called for thousands of files in a row
    except FileNotFoundError:
        return 0
    room.give_back(size)
    return size
