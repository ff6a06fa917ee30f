"""Contents by digest, kept at the site for each account, so that the same bytes travel once.

    ACCOUNT/whole/HH/HEX   a content, verified; its time is that of its last use
    ACCOUNT/part/HEX       what has arrived of one: its size is the offset to go on from

A content is copied into work folders (sharing blocks where the file system can), never linked: a
job may write to its inputs. All methods block on the disk: call them in a thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from gate_kit import errors
from gates.fake_gate.libc import sync_file_system
from gates.fake_gate.site import write_all

_FICLONE = 0x40049409
_CHUNK_BYTES = 1 << 20


class Cache:
    """The contents of one account.

    Args:
        folder: Where they lie.
        limit_bytes: What `trim` leaves at most.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._whole = folder / "whole"
        self._parts = folder / "part"
        self._limit_bytes = limit_bytes

    def open(self) -> None:
        """Make the folders."""
        self._whole.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._parts.mkdir(mode=0o700, exist_ok=True)

    def path(self, sha256: bytes) -> Path:
        """Where a whole content lies or would lie."""
        name = sha256.hex()
        return self._whole / name[:2] / name

    def has(self, sha256: bytes, size: int) -> bool:
        """Whether the content is whole here; notes that it is used."""
        path = self.path(sha256)
        try:
            if path.stat().st_size != size:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def arrived_bytes(self, sha256: bytes, size: int) -> int:
        """How much of a content is here; what is longer than it should be is dropped."""
        path = self._parts / sha256.hex()
        try:
            arrived = path.stat().st_size
        except FileNotFoundError:
            return 0
        if arrived > size:
            path.unlink(missing_ok=True)
            return 0
        return arrived

    def add_whole(self, sha256: bytes, data: bytes) -> None:
        """Keep a content that arrived in one piece.

        Raises:
            Refusal: DIGEST_MISMATCH.
        """
        if hashlib.sha256(data).digest() != sha256:
            raise _mismatch(sha256)
        part = self._parts / sha256.hex()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        self._finish(part, sha256)

    def begin(self, sha256: bytes, offset: int) -> Part:
        """Go on with a content from `offset`, which must be what `arrived_bytes` told."""
        return Part(self, self._parts / sha256.hex(), sha256, offset)

    def _finish(self, part: Path, sha256: bytes) -> None:
        whole = self.path(sha256)
        try:
            part.rename(whole)
        except FileNotFoundError:
            whole.parent.mkdir(mode=0o700, exist_ok=True)
            part.rename(whole)

    def copy_to(self, sha256: bytes, target: Path, mode: int, *, draft: Path) -> None:
        """Put a content at `target`, whole and verified or not at all.

        Args:
            sha256: Which.
            target: The file.
            mode: Its permission bits.
            draft: Where it grows, on the same file system.

        Raises:
            Refusal: DIGEST_MISMATCH: it was not kept well, and is dropped.
        """
        digest = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with (
            self.path(sha256).open("rb", buffering=0) as source,
            os.fdopen(os.open(draft, flags, 0o600), "r+b", buffering=0) as copy,
        ):
            is_cloned = _clone(source.fileno(), copy.fileno())
            while data := source.read(_CHUNK_BYTES):
                digest.update(data)
                if not is_cloned:
                    write_all(copy.fileno(), data)
            os.fchmod(copy.fileno(), mode)
        if digest.digest() != sha256:
            draft.unlink()
            self.path(sha256).unlink()
            raise _mismatch(sha256)
        draft.rename(target)

    def sync(self) -> None:
        """Wait until all contents are on the disk."""
        sync_file_system(self._whole)

    def trim(self, pinned: Collection[bytes]) -> None:
        """Drop the contents that were not used for longest until the limit holds.

        Args:
            pinned: Digests that are in use now and stay.
        """
        found = []
        total = 0
        for folder in (self._whole, self._parts):
            for path in folder.rglob("*"):
                told = path.lstat()
                if path.is_file():
                    total += told.st_size
                    found.append((told.st_mtime_ns, told.st_size, path))
        kept = {digest.hex() for digest in pinned}
        for _, size, path in sorted(found):
            if total <= self._limit_bytes:
                break
            if path.name not in kept:
                path.unlink(missing_ok=True)
                total -= size


class Part:
    """A content that is arriving. Close it; what has arrived stays."""

    def __init__(self, cache: Cache, path: Path, sha256: bytes, offset: int) -> None:
        self.sha256 = sha256
        self.offset = offset
        self._cache = cache
        self._path = path
        self._digest = hashlib.sha256()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "r+b")
        # What came before counts for the digest: it is read again, from a disk that just had it.
        rest = offset
        while rest and (data := self._file.read(min(rest, _CHUNK_BYTES))):
            self._digest.update(data)
            rest -= len(data)
        self._file.truncate(offset - rest)
        self.offset = offset - rest

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._file.write(data)
        self._digest.update(data)
        self.offset += len(data)

    def finish(self) -> None:
        """Keep it as whole.

        Raises:
            Refusal: DIGEST_MISMATCH; nothing of it is kept then.
        """
        self.close()
        if self._digest.digest() != self.sha256:
            self._path.unlink(missing_ok=True)
            raise _mismatch(self.sha256)
        self._cache._finish(self._path, self.sha256)

    def close(self) -> None:
        """Write out what has arrived."""
        self._file.close()


def _mismatch(sha256: bytes) -> Exception:
    text = f"what there is of content {sha256.hex()} is another; send it again"
    return errors.digest_mismatch(text, sha256)


def _clone(source: int, target: int) -> bool:
    """Have both files share their blocks; returns whether the file system could."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
