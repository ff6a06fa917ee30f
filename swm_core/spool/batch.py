"""Contents that arrive in one stream and become durable together.

Data first, then names, each with one flush for all: a content is under its digest only after its
bytes are on disk, so neither kill -9 nor a power cut shows one that is not what its digest says.
Small files that come whole skip what resumable ones need. What is whole when a stream breaks is
kept, and not asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

from swm_core.spool.contents import OwnerContents, Piece, Writer
from swm_core.spool.errors import DigestMismatch, SpoolRefusal
from swm_core.spool.partial import append_at, remove
from swm_core.spool.room import full_disk_refuses
from swm_core.spool.syncing import FileSystem

log = logging.getLogger(__name__)

_COMMIT_CONTENTS = 20_000
_COMMIT_BYTES = 1 << 30
"""So much is committed without being asked: it bounds what a long stream remembers or loses."""


class _Whole(NamedTuple):
    """A small content in a file of its own, without its name."""

    path: str
    sha256: str
    size: int


class Batch:
    """Contents that become durable together: written, synced, renamed, and synced.

    Methods block: call them in a thread, one at a time.
    """

    def __init__(self, owner: OwnerContents) -> None:
        self._owner = owner
        # Opened before anything is written, so that it hears of every write that fails.
        self._disk = FileSystem(owner.blobs)
        self._writers: dict[str, Writer] = {}
        self._finished: list[tuple[Writer, str]] = []
        self._small: dict[str, _Whole] = {}
        self._uncommitted_bytes = 0
        self.contents = 0
        self.received_bytes = 0

    @property
    def is_cut(self) -> bool:
        """Whether a content has begun, and its last piece has not come."""
        return bool(self._writers)

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
        count = len(self._small) + len(self._finished)
        if count >= _COMMIT_CONTENTS or self._uncommitted_bytes >= _COMMIT_BYTES:
            self.commit()

    def _write_whole(self, piece: Piece) -> None:
        digest = hashlib.sha256(piece.data).hexdigest()
        if digest != piece.sha256:
            raise DigestMismatch(
                f"a content came with digest {digest}, announced was {piece.sha256}; send it anew",
                sha256=piece.sha256,
            )
        self.contents += 1
        if digest in self._small:
            return
        size = len(piece.data)
        path = self._owner.private_path()
        self._owner.room.take(size)
        try:
            with full_disk_refuses():
                append_at(path, 0, piece.data)
        except BaseException:
            self._owner.room.give_back(size - remove(path, self._owner.room))
            raise
        self._small[digest] = _Whole(path, digest, size)
        self._uncommitted_bytes += size

    def _write_piece(self, piece: Piece) -> None:
        writer = self._writers.get(piece.sha256)
        if writer is None:
            writer = self._writers[piece.sha256] = Writer(self._owner, piece.sha256)
        writer.write(piece.offset, piece.data)
        if piece.last:
            digest = writer.finish()
            del self._writers[piece.sha256]
            self._finished.append((writer, digest))
            self._uncommitted_bytes += writer.size
            self.contents += 1

    def commit(self) -> None:
        """Return when all whole contents are on disk under their names.

        Raises:
            SpoolFull: The disk had no room after all; what was not committed before may be lost.
            OSError: The disk could not write it, or is away.
        """
        self._owner.check()
        with full_disk_refuses():
            self._disk.sync()
            for whole in self._small.values():
                self._owner.place(whole.path, whole.sha256, whole.size)
            self._small.clear()
            while self._finished:
                writer, digest = self._finished[-1]
                writer.place(digest)
                self._finished.pop()
            self._uncommitted_bytes = 0
            self._disk.sync()

    def close(self) -> None:
        """Keep what is whole, and let go of the rest; large contents stay to be resumed."""
        try:
            if self._small or self._finished:
                self.commit()
        except (SpoolRefusal, OSError) as error:
            log.warning("what a broken upload had brought could not be kept: %s", error)
        for whole in self._small.values():
            remove(whole.path, self._owner.room)
        self._small.clear()
        for writer in (*self._writers.values(), *(writer for writer, _ in self._finished)):
            writer.close()
        self._writers.clear()
        self._finished.clear()
        self._disk.close()


class AsyncBatch:
    """A `Batch` for the event loop: its work is done in threads.

    One message is written while the next is received, so what `write` raises may be about the
    message before.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._writing: asyncio.Future[None] | None = None

    @property
    def contents(self) -> int:
        """Contents that are whole so far."""
        return self._batch.contents

    @property
    def received_bytes(self) -> int:
        """Bytes that came so far."""
        return self._batch.received_bytes

    @property
    def is_cut(self) -> bool:
        """Whether a content has begun, and its last piece has not come. Ask after `commit`."""
        return self._batch.is_cut

    async def write(self, pieces: Sequence[Piece]) -> None:
        """As `Batch.write`, for these pieces or those before."""
        await self._written()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._batch.write, pieces))

    async def commit(self) -> None:
        """As `Batch.commit`."""
        await self._written()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._batch.commit))
        await self._written()

    async def close(self) -> None:
        """As `Batch.close`, after the work that is under way."""
        if self._writing is not None:
            # Whether it failed was told to the caller, or does not matter any more.
            await asyncio.wait([self._writing])
            if not self._writing.cancelled():
                self._writing.exception()
        await asyncio.to_thread(self._batch.close)

    async def _written(self) -> None:
        if self._writing is not None:
            # A thread cannot be stopped: who is cancelled leaves it to `close` to wait for it.
            await asyncio.shield(self._writing)
            self._writing = None
