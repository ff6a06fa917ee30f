"""Brings inputs in: what the cache lacks comes into it, then all goes into its place."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path

from gate_kit import LatestWins, Operations, errors
from gate_kit.bells import Bells
from gate_kit.put_files import Arrived, Lack, Requests, entries_of, put_files
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import placing
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.cache import Cache, Part
from gates.fake_gate.faults import FaultScript, Subject
from gates.fake_gate.libc import sync_file_system
from gates.fake_gate.site import Site
from skyport.gate.v1 import file_pb2, types_pb2


class Uploads:
    """What PutFiles does, for all attempts.

    Args:
        site: Where they are.
        operations: Whose lock on an attempt keeps a start and a placing apart.
        faults: May befall what is half done.
        bells: Rung when a folder is made.
        cache_bytes: Limit of each account's cache.
    """

    def __init__(
        self,
        site: Site,
        operations: Operations,
        faults: FaultScript,
        bells: Bells,
        cache_bytes: int,
    ) -> None:
        self.site = site
        self.operations = operations
        self.faults = faults
        self.bells = bells
        self._cache_bytes = cache_bytes
        self._streams = LatestWins()
        self._stops: weakref.WeakValueDictionary[AttemptPath, threading.Event] = (
            weakref.WeakValueDictionary()
        )
        self._pinned: collections.Counter[bytes] = collections.Counter()

    async def put(
        self,
        attempt: Attempt,
        begin: file_pb2.PutFilesBegin,
        requests: Requests,
        *,
        account: str,
        folders: Sequence[Path],
    ) -> AsyncGenerator[file_pb2.PutFilesResponse, None]:
        """The answers to one call, after its begin.

        Args:
            attempt: Whose inputs they are.
            begin: The first message, checked.
            requests: The others.
            account: Whose cache serves.
            folders: The work folders, one of each node.

        Raises:
            Refusal: As protos/README.md has them for PutFiles.
        """
        cache = Cache(self.site.cache(account), self._cache_bytes)
        async with self._streams.hold(attempt.key, lambda: errors.replaced("PutFiles")):
            # A placing that an earlier call began may still go on; one event stops both.
            stop = self._stops.setdefault(attempt.key, threading.Event())
            store = _Inputs(self, attempt, begin, cache, folders, stop)
            try:
                with _disk_errors(attempt.folder):
                    async with contextlib.aclosing(put_files(begin, requests, store)) as answers:
                        async for answer in answers:
                            yield answer
            finally:
                store.close()
            pinned = set(self._pinned)
            self.operations.spawn(asyncio.to_thread(cache.trim, pinned), "cache trim")

    async def end(self, key: AttemptPath, refusal: errors.Refusal) -> None:
        """End the PutFiles of an attempt, if one is under way."""
        if stop := self._stops.get(key):
            stop.set()
        await self._streams.end(key, refusal)

    def pin(self, digests: Collection[bytes]) -> None:
        """Keep contents in the cache until they are unpinned, as often as they were pinned."""
        self._pinned.update(digests)

    def unpin(self, digests: Collection[bytes]) -> None:
        """No longer keep them, as far as this caller is concerned."""
        self._pinned.subtract(digests)
        self._pinned = +self._pinned


class _Inputs:
    """The inputs of one attempt, as one call brings them."""

    def __init__(
        self,
        uploads: Uploads,
        attempt: Attempt,
        begin: file_pb2.PutFilesBegin,
        cache: Cache,
        folders: Sequence[Path],
        stop: threading.Event,
    ) -> None:
        self.manifest = attempt.folder / "manifest.part"
        self._uploads = uploads
        self._attempt = attempt
        self._begin = begin
        self._cache = cache
        self._folders = folders
        self._stop = stop
        self._digests: Collection[bytes] = ()
        """All contents of the manifest."""
        self._part: Part | None = None

    async def open(self) -> None:
        await asyncio.to_thread(self._cache.open)
        begin = self._begin
        async with self._uploads.operations.exclusive(self._attempt.key):
            self._check_open()
            self._attempt.make(begin.ref, begin.origin, begin.workdir)
        self._uploads.bells.ring(self._attempt.key)

    async def lacking(self) -> Mapping[bytes, Lack]:
        self._attempt.write_digest("manifest", self._begin.manifest_sha256)
        if self._attempt.inputs() == self._begin.manifest_sha256:
            return {}
        lacking, here = await asyncio.to_thread(_lacking, self.manifest, self._cache)
        self._digests = here | set(lacking)
        self._uploads.pin(self._digests)
        return lacking

    async def take(self, pieces: Sequence[file_pb2.FilePiece], arrived: Arrived) -> None:
        await asyncio.to_thread(self._take_now, pieces)
        arrived.add(sum(len(p.data) for p in pieces), sum(p.last for p in pieces))

    async def place(self) -> Sequence[types_pb2.SiteRoot]:
        self._close_part()
        key = ("place", self._attempt.key, self._begin.manifest_sha256)
        await self._uploads.operations.run(key, self._place, on=self._attempt.key)
        return [types_pb2.SiteRoot(root_uid=self._uploads.site.root_uid())]

    def close(self) -> None:
        """Let go of all that is held."""
        self._close_part()
        self._uploads.unpin(self._digests)

    def _take_now(self, pieces: Sequence[file_pb2.FilePiece]) -> None:
        for piece in pieces:
            self._take_piece(piece)

    def _take_piece(self, piece: file_pb2.FilePiece) -> None:
        if piece.last and not piece.offset:
            # The whole in one piece, as most files are: nothing to resume, so fewer steps.
            self._cache.add_whole(piece.sha256, piece.data)
            return
        if self._part is None or self._part.sha256 != piece.sha256:
            self._close_part()
            self._part = self._cache.begin(piece.sha256, piece.offset)
        self._part.write(piece.data)
        if piece.last:
            part, self._part = self._part, None
            part.finish()

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None

    async def _place(self) -> None:
        self._check_open()
        key = self._attempt.key
        await self._uploads.faults.inside(Subject("PutFiles", key.partition_id, key.job_id))
        try:
            await asyncio.to_thread(self._place_now)
        except placing.Stopped:
            raise errors.job_cancelled(self._begin.ref) from None

    def _place_now(self) -> None:
        if self._attempt.inputs() != self._begin.manifest_sha256:
            placing.place(
                self._attempt,
                entries_of(self.manifest),
                self._cache,
                self._folders,
                own=not self._begin.workdir,
                stop=self._stop,
            )
            for folder in self._folders:
                sync_file_system(folder)
            self._cache.sync()
            self._attempt.write_digest("inputs", self._begin.manifest_sha256)
        self.manifest.unlink(missing_ok=True)

    def _check_open(self) -> None:
        """Raise unless the attempt still takes these inputs."""
        ref = self._begin.ref
        if self._uploads.site.is_buried(self._attempt.key):
            raise errors.job_cancelled(ref)
        if self._attempt.spec() is not None:
            raise errors.job_started(ref)
        if self._attempt.manifest() not in {b"", self._begin.manifest_sha256}:
            raise errors.job_differs(ref)


def _lacking(manifest: Path, cache: Cache) -> tuple[dict[bytes, Lack], set[bytes]]:
    """The contents that the cache lacks, in the order in which they are wanted; and the others."""
    lacking: dict[bytes, Lack] = {}
    here: set[bytes] = set()
    for entry in entries_of(manifest):
        digest = entry.sha256
        if not digest or digest in here or digest in lacking:
            continue
        if cache.has(digest, entry.size):
            here.add(digest)
        elif not entry.size:
            cache.add_whole(digest, b"")
            here.add(digest)
        else:
            lacking[digest] = Lack(entry.size, cache.arrived_bytes(digest, entry.size))
    return lacking, here


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Tell what the disk refused as the contract has it."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise errors.disk_full(str(folder)) from error
        raise
