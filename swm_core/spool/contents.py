"""Contents by digest, one tree an owner. The file system is the truth: no rows stand beside it.

    blobs/ab/<sha256>       whole; one whose size is wrong (the machine crashed) counts as absent
    partial/<sha256>        an upload under way: its size is how far it is
    partial/tmp-<name>      private to one transfer; dropped at the next start

A file's time of change is its pin: the collector leaves alone what was asked for or written lately.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from swm_core.spool.errors import ContentMissing
from swm_core.spool.partial import Partial, remove, size_of
from swm_core.spool.room import Room

CHUNK_BYTES = 1 << 20
PIN_S = 3_600.0
"""How long a content that nothing refers to is left alone after it was asked for or written."""
PRIVATE = "tmp-"
"""How the names of files begin that belong to one transfer."""

_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(1)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a content, as it travels. `sha256` is the hex digest of the whole."""

    sha256: str
    offset: int
    data: bytes
    last: bool


@dataclasses.dataclass(slots=True, eq=False)
class _Hold:
    """Something that brings contents."""

    since: float
    """What was touched from then on is held; seconds since the epoch."""
    ended: float | None = None
    """None: it is under way."""


class OwnerContents:
    """The contents of one owner. Methods block: call them in a thread.

    Args:
        folder: The owner's tree.
        room: What the owner has in the spool.
        check: Raises OSError unless the spool is where it was.
    """

    def __init__(self, folder: Path, room: Room, check: Callable[[], None]) -> None:
        check()
        self.check = check
        self.blobs = folder / "blobs"
        self.partial = folder / "partial"
        self.room = room
        self.blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.partial.mkdir(exist_ok=True, mode=0o700)
        # Thousands of paths are made in a row: strings take a tenth of the time of Path objects.
        self._blobs = str(self.blobs)
        self._partial = str(self.partial)
        self._in_use: dict[str, Partial] = {}
        self._holds: list[_Hold] = []
        # Keeps what is pinned or taken into use from being collected in the same moment.
        self._lock = threading.Lock()

    def path(self, sha256: str) -> Path:
        """Where a content is, or would be."""
        return Path(self._blob(sha256))

    def has(self, sha256: str, size: int) -> bool:
        """Whether a content is whole; pins it if so."""
        path = self._blob(sha256)
        with self._lock:
            if size_of(path) != size:
                return False
            os.utime(path)
            return True

    def missing(self, contents: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
        """Index and offset of each content that is not whole: what comes before the offset is."""
        found = []
        for index, (sha256, size) in enumerate(contents):
            if not self.has(sha256, size):
                found.append((index, self._partial_size(sha256, size)))
        return found

    def _partial_size(self, sha256: str, size: int) -> int:
        path = f"{self._partial}/{sha256}"
        with self._lock:
            have = size_of(path)
            if have is None:
                return 0
            if have > size and path not in self._in_use:
                remove(path, self.room)
                return 0
            os.utime(path)
        # Of one that is all there but was never ended, the last byte is asked for again: the piece
        # that brings it also ends it.
        return min(have, max(size - 1, 0))

    def open(self, sha256: str) -> BinaryIO:
        """A content, for reading.

        Raises:
            ContentMissing: It is not there.
        """
        try:
            return self.path(sha256).open("rb")
        except OSError as error:
            raise ContentMissing(f"content {sha256} is not in the spool") from error

    def begin(self, sha256: str = "") -> Partial:
        """The partial file of a content, or a private one when its digest is not known.

        Whoever brings the same content at the same time shares it. Give it back with `leave`.
        """
        path = f"{self._partial}/{sha256}" if sha256 else self.private_path()
        with self._lock:
            partial = self._in_use.get(path)
            if partial is None:
                partial = self._in_use[path] = Partial(path, sha256, self.room)
            partial.users += 1
            return partial

    def leave(self, partial: Partial) -> None:
        """Let go of what `begin` gave: a private one is dropped, any other is there to resume."""
        with self._lock:
            partial.users -= 1
            if partial.users == 0:
                del self._in_use[partial.path]
                if is_private(partial.path):
                    remove(partial.path, self.room)

    def private_path(self) -> str:
        """A name for a file that belongs to one transfer."""
        return f"{self._partial}/{PRIVATE}{_PROCESS}-{next(_numbers)}"

    def place(self, path: str, sha256: str, size: int) -> None:
        """Give a whole content its name, unless it has come otherwise: then it is dropped."""
        final = self._blob(sha256)
        with self._lock:
            there = size_of(final)
            if there == size:
                os.utime(final)
                remove(path, self.room)
                return
            try:
                move_into_place(path, final)
            except FileNotFoundError as error:
                # Only a hand in the folder can have taken it away.
                raise ContentMissing(f"content {sha256} is gone from the spool") from error
            if there is not None:
                self.room.give_back(there)

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Have nothing collected that is written or asked for from now on.

        For what brings contents that are named in the end: however long it takes, and for PIN_S
        more.
        """
        hold = _Hold(time.time() - PIN_S)
        with self._lock:
            self._holds.append(hold)
        try:
            yield
        finally:
            hold.ended = time.time()

    def _held_since(self, before: float) -> float:
        """What was touched from then on stays."""
        with self._lock:
            self._holds = [
                each for each in self._holds if each.ended is None or each.ended >= before
            ]
            return min([before, *(each.since for each in self._holds)])

    def collect(self, digests: Iterable[str], before: float) -> int:
        """Delete contents that were not touched since `before`; returns the bytes it gave."""
        before = self._held_since(before)
        return sum(self._drop(self._blob(sha256), before) for sha256 in digests)

    def collect_partial(self, before: float) -> int:
        """Delete what is half there, in nobody's use, and not touched since `before`."""
        with os.scandir(self._partial) as entries:
            return sum(self._drop(entry.path, before) for entry in entries)

    def _drop(self, path: str, before: float) -> int:
        with self._lock:
            try:
                if path in self._in_use or os.stat(path).st_mtime >= before:  # noqa: PTH116
                    return 0
            except FileNotFoundError:
                return 0
            return remove(path, self.room)

    def _blob(self, sha256: str) -> str:
        return f"{self._blobs}/{sha256[:2]}/{sha256}"


class Writer:
    """One content being written, from its beginning or from where an upload was cut.

    Args:
        owner: Whose.
        sha256: Its digest, when it is known before; else it is what comes out.
    """

    def __init__(self, owner: OwnerContents, sha256: str = "") -> None:
        self._owner = owner
        self._partial = owner.begin(sha256)
        self.closed = False

    @property
    def size(self) -> int:
        """Bytes that are there: where to go on."""
        return self._partial.size

    @property
    def path(self) -> str:
        """The file that holds them."""
        return self._partial.path

    def write(self, offset: int, data: bytes) -> None:
        """Append `data`.

        Raises:
            OffsetRefused: It is not where this ends.
            SpoolFull: There is no room.
        """
        self._partial.write(offset, data)

    def finish(self) -> str:
        """All of it is there; returns its digest.

        Raises:
            DigestMismatch: It is not what was announced; it is dropped.
        """
        return self._partial.finish()

    def discard(self) -> None:
        """Drop what was written."""
        if not self.closed:
            self._partial.discard()
            self.close()

    def close(self) -> None:
        """Let go of it: an upload that was cut stays where it is, to be resumed."""
        if not self.closed:
            self.closed = True
            self._owner.leave(self._partial)

    def place(self, digest: str) -> None:
        """Move the finished file to where contents are."""
        self._owner.place(self.path, digest, self.size)
        self.close()


def move_into_place(path: str, final: str) -> None:
    """Rename, and make the folder when it is not there yet."""
    try:
        os.rename(path, final)  # noqa: PTH104 - called for thousands of files in a row
    except FileNotFoundError:
        Path(final).parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(path, final)  # noqa: PTH104


def is_private(path: str) -> bool:
    """Whether a partial file belongs to one transfer."""
    return path.rpartition("/")[2].startswith(PRIVATE)


def check_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None
