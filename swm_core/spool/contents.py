"""Contents by digest, one tree an owner. The file system is the truth: no rows stand beside it.

    blobs/ab/<sha256>       whole; one whose size is wrong (the machine crashed) counts as absent
    partial/<sha256>        an upload under way: its size is how far it is
    partial/<name>          private to one transfer; dropped at the next start

A file's time of change is its pin: the collector leaves alone what was asked for or written lately.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from swm_core.spool.errors import ContentMissing, DigestMismatch, OffsetRefused, SpoolFull
from swm_core.spool.syncing import sync_file_system

CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Room:
    """How much the spool holds, and how much it may. Safe from any thread."""

    def __init__(self, max_bytes: int, used_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = used_bytes
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count `size` bytes more.

        Raises:
            SpoolFull: They would be too many.
        """
        with self._lock:
            if self.used_bytes + size > self.max_bytes:
                raise SpoolFull(
                    f"the spool holds {self.used_bytes} of {self.max_bytes} bytes; delete jobs, or "
                    "raise spool.max_size"
                )
            self.used_bytes += size

    def add(self, size: int) -> None:
        """Count `size` bytes more, whatever there is room for."""
        with self._lock:
            self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Count `size` bytes less."""
        with self._lock:
            self.used_bytes = max(0, self.used_bytes - size)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a content, as it travels. `sha256` is the hex digest of the whole."""

    sha256: str
    offset: int
    data: bytes
    last: bool


class OwnerContents:
    """The contents of one owner. Methods block: call them in a thread.

    Args:
        folder: The owner's tree.
        room: What the whole spool holds.
    """

    def __init__(self, folder: Path, room: Room) -> None:
        self.blobs = folder / "blobs"
        self.partial = folder / "partial"
        self.room = room
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self.blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.partial.mkdir(exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """Where a content is, or would be."""
        return self.blobs / sha256[:2] / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Whether a content is whole; pins it if so."""
        path = self.path(sha256)
        try:
            if path.stat().st_size != size:
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def missing(self, contents: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
        """Index and offset of each content that is not whole: what comes before the offset is."""
        found = []
        for index, (sha256, size) in enumerate(contents):
            if not self.has(sha256, size):
                found.append((index, self._partial_size(sha256, size)))
        return found

    def _partial_size(self, sha256: str, size: int) -> int:
        if sha256 in self._busy:
            return 0
        try:
            have = (self.partial / sha256).stat().st_size
        except OSError:
            return 0
        # A whole one that was never checked, or one that is too long, begins anew.
        return have if have < size else 0

    def open(self, sha256: str) -> BinaryIO:
        """A content, for reading.

        Raises:
            ContentMissing: It is not there.
        """
        try:
            return self.path(sha256).open("rb")
        except OSError as error:
            raise ContentMissing(f"content {sha256} is not in the spool") from error

    @contextlib.contextmanager
    def claimed(self, sha256: str) -> Iterator[Path | None]:
        """The partial file of a digest for one transfer alone; None when another one has it."""
        with self._lock:
            taken = sha256 in self._busy
            self._busy.add(sha256)
        try:
            yield None if taken else self.partial / sha256
        finally:
            if not taken:
                self._busy.discard(sha256)

    def private_path(self) -> Path:
        """A name for a file that belongs to one transfer."""
        return self.partial / f"tmp-{secrets.token_hex(8)}"


class Writer:
    """One content being written, from its beginning or from where an upload was cut.

    Args:
        owner: Whose.
        sha256: Its digest, when it is known before; else it is what comes out.
    """

    def __init__(self, owner: OwnerContents, sha256: str = "") -> None:
        self._owner = owner
        self._expected = sha256
        self._hash = hashlib.sha256()
        self._stack = contextlib.ExitStack()
        path = self._stack.enter_context(owner.claimed(sha256)) if sha256 else None
        self._resumable = path is not None
        self.path = path or owner.private_path()
        self._file = self.path.open("ab", buffering=0)
        self.size = self._file.seek(0, os.SEEK_END)
        self.closed = False
        if self.size:
            with self.path.open("rb") as before:
                while chunk := before.read(CHUNK_BYTES):
                    self._hash.update(chunk)

    def write(self, offset: int, data: bytes) -> None:
        """Append `data`.

        Raises:
            OffsetRefused: It is not where this ends.
            SpoolFull: There is no room.
        """
        if offset != self.size:
            if offset == 0:
                self._begin_anew()
            else:
                raise OffsetRefused(
                    f"a piece begins at byte {offset}, and {self.size} are there; go on from there"
                )
        self._owner.room.take(len(data))
        try:
            self._file.write(data)
        except OSError as error:
            self._owner.room.give_back(len(data))
            if error.errno in _FULL:
                raise SpoolFull(f"the disk of the spool is full: {error.strerror}") from error
            raise
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> str:
        """All of it is there; returns its digest.

        Raises:
            DigestMismatch: It is not what was announced; it is dropped.
        """
        self._file.close()
        digest = self._hash.hexdigest()
        if self._expected and digest != self._expected:
            self.discard()
            raise DigestMismatch(
                f"a content came with digest {digest}, announced was {self._expected}; send it anew"
            )
        return digest

    def _begin_anew(self) -> None:
        self._owner.room.give_back(self.size)
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    def discard(self) -> None:
        """Drop what was written."""
        self._file.close()
        self._owner.room.give_back(self.size)
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it: an upload that was cut stays where it is, to be resumed."""
        if self.closed:
            return
        self.closed = True
        self._file.close()
        if not self._resumable and self.path.exists():
            self._owner.room.give_back(self.size)
            self.path.unlink(missing_ok=True)
        self._stack.close()

    def place(self, digest: str) -> None:
        """Move the finished file to where contents are."""
        final = self._owner.path(digest)
        if self._owner.has(digest, self.size):
            self.discard()
            return
        move_into_place(self.path, final)
        self.closed = True
        self._stack.close()


def move_into_place(path: Path, final: Path) -> None:
    """Rename, and make the folder when it is not there yet."""
    try:
        path.rename(final)
    except FileNotFoundError:
        final.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(final)


class Batch:
    """Contents that become durable together: written, renamed, and synced once.

    Methods block: call them in a thread, one at a time.
    """

    def __init__(self, owner: OwnerContents) -> None:
        self._owner = owner
        self._writers: dict[str, Writer] = {}
        self._finished: list[tuple[Writer, str]] = []
        self._small: list[tuple[Path, Path, int]] = []
        self.contents = 0
        self.received_bytes = 0

    def write(self, pieces: Sequence[Piece]) -> None:
        """Write some pieces, of one or many contents.

        Raises:
            OffsetRefused, DigestMismatch, SpoolFull: Of one of them; earlier ones are kept.
        """
        for piece in pieces:
            self.received_bytes += len(piece.data)
            if piece.last and piece.offset == 0 and piece.sha256 not in self._writers:
                self._write_whole(piece)
            else:
                self._write_piece(piece)

    def _write_whole(self, piece: Piece) -> None:
        digest = hashlib.sha256(piece.data).hexdigest()
        if digest != piece.sha256:
            raise DigestMismatch(
                f"a content came with digest {digest}, announced was {piece.sha256}; send it anew"
            )
        size = len(piece.data)
        self._owner.room.take(size)
        path = self._owner.private_path()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                view = memoryview(piece.data)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            self._owner.room.give_back(size)
            path.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise SpoolFull(f"the disk of the spool is full: {error.strerror}") from error
            raise
        self._small.append((path, self._owner.path(digest), size))
        self.contents += 1

    def _write_piece(self, piece: Piece) -> None:
        writer = self._writers.get(piece.sha256)
        if writer is None:
            writer = self._writers[piece.sha256] = Writer(self._owner, piece.sha256)
        writer.write(piece.offset, piece.data)
        if piece.last:
            del self._writers[piece.sha256]
            self._finished.append((writer, writer.finish()))
            self.contents += 1

    def commit(self) -> None:
        """Return when all whole contents are on disk under their names."""
        for path, final, size in self._small:
            if final.exists():
                self._owner.room.give_back(size)
            move_into_place(path, final)
        self._small.clear()
        for writer, digest in self._finished:
            writer.place(digest)
        self._finished.clear()
        sync_file_system(self._owner.blobs)

    def close(self) -> None:
        """Let go of what was not committed; large contents stay to be resumed."""
        for writer in (*self._writers.values(), *(writer for writer, _ in self._finished)):
            writer.close()
        for path, _, size in self._small:
            self._owner.room.give_back(size)
            path.unlink(missing_ok=True)
        self._small.clear()


def check_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None
