"""Brings inputs in: the manifest in pages, then what the cache lacks, then all into its place."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import errno
import threading
import time
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Sequence,
)
from pathlib import Path
from typing import Any, TypeVar

from gate_kit import LatestWins, Operations, errors
from gate_kit.manifest import ManifestCheck, read_delimited
from gates.fake_gate import placing
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.bells import Bells
from gates.fake_gate.cache import Cache, Part
from gates.fake_gate.faults import FaultScript, Subject
from gates.fake_gate.libc import sync_file_system
from gates.fake_gate.site import AttemptKey, Site
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2

_NEEDED_A_PAGE = 10_000
_PAGE_ENTRIES = 10_000
_PIECES_BYTES = 1 << 20
_PROGRESS_S = 5.0
_PROGRESS_BYTES = 8 << 20
_READ_BYTES = 1 << 18

T = TypeVar("T")

Requests = AsyncIterator[file_pb2.PutFilesRequest]


@dataclasses.dataclass(slots=True)
class _Lack:
    """A content that has to come: how large it is, and how much of it is here."""

    size: int
    offset: int


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
        self._site = site
        self._operations = operations
        self._faults = faults
        self._cache_bytes = cache_bytes
        self._bells = bells
        self._streams = LatestWins()
        self._stops: weakref.WeakValueDictionary[AttemptKey, threading.Event] = (
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
        cache = Cache(self._site.cache(account), self._cache_bytes)

        async with self._streams.hold(attempt.key, lambda: errors.replaced("PutFiles")):
            # A placing that an earlier call began may still go on; one event stops both.
            stop = self._stops.setdefault(attempt.key, threading.Event())
            with _disk_errors(attempt.folder):
                await asyncio.to_thread(cache.open)
                async with self._operations.exclusive(attempt.key):
                    self._check_open(attempt, begin)
                    attempt.make(begin.ref, begin.origin, begin.workdir)
                self._bells.ring(attempt.key)
                manifest = attempt.folder / "manifest.part"
                await _take_manifest(manifest, begin, requests)
                attempt.write_digest("manifest", begin.manifest_sha256)
                received = _Received(cache, begin.entry_count)
                if attempt.inputs() != begin.manifest_sha256:
                    looking = asyncio.to_thread(_lacking, manifest, cache)
                    async for progress in received.meanwhile(looking, received.expect):
                        yield progress
                with self._pin(received.digests):
                    for page in received.needed():
                        yield page
                    async for progress in received.take_all(requests):
                        yield progress
                    placing_it = self._place(attempt, begin, manifest, cache, folders, stop)
                    async for progress in received.meanwhile(placing_it):
                        yield progress
                result = file_pb2.PutFilesResult(received_bytes=received.received_bytes)
                result.roots.add(root_uid=self._site.root_uid())
                yield file_pb2.PutFilesResponse(result=result)
            pinned = set(self._pinned)
            self._operations.spawn(asyncio.to_thread(cache.trim, pinned), "cache trim")

    async def end(self, key: AttemptKey, refusal: errors.Refusal) -> None:
        """End the PutFiles of an attempt, if one is under way."""
        if stop := self._stops.get(key):
            stop.set()
        await self._streams.end(key, refusal)

    async def _place(
        self,
        attempt: Attempt,
        begin: file_pb2.PutFilesBegin,
        manifest: Path,
        cache: Cache,
        folders: Sequence[Path],
        stop: threading.Event,
    ) -> None:
        def work() -> None:
            if attempt.inputs() != begin.manifest_sha256:
                entries = _entries(manifest)
                own = not begin.workdir
                placing.place(attempt, entries, cache, folders, own=own, stop=stop)
                for folder in folders:
                    sync_file_system(folder)
                cache.sync()
                attempt.write_digest("inputs", begin.manifest_sha256)
            manifest.unlink(missing_ok=True)

        async def placed() -> None:
            self._check_open(attempt, begin)
            key = attempt.key
            await self._faults.inside(Subject("PutFiles", key.partition_id, key.job_id))
            try:
                await asyncio.to_thread(work)
            except placing.Stopped:
                raise errors.job_cancelled(begin.ref) from None

        key = ("place", attempt.key, begin.manifest_sha256)
        await self._operations.run(key, placed, on=attempt.key)

    def _check_open(self, attempt: Attempt, begin: file_pb2.PutFilesBegin) -> None:
        """Raise unless the attempt still takes these inputs."""
        if self._site.is_buried(attempt.key):
            raise errors.job_cancelled(begin.ref)
        if attempt.spec() is not None:
            raise errors.job_started(begin.ref)
        if attempt.manifest() not in {b"", begin.manifest_sha256}:
            raise errors.job_differs(begin.ref)

    @contextlib.contextmanager
    def _pin(self, digests: Collection[bytes]) -> Iterator[None]:
        """Keep contents in the cache."""
        self._pinned.update(digests)
        try:
            yield
        finally:
            self._pinned.subtract(digests)
            self._pinned = +self._pinned


class _Received:
    """What one call has to bring, and what has come: pieces of contents, one after the other."""

    def __init__(self, cache: Cache, entries: int) -> None:
        self.received_bytes = 0
        self.digests: Collection[bytes] = ()
        """All contents of the manifest."""
        self._cache = cache
        self._lacking: dict[bytes, _Lack] = {}
        self._complete = entries
        self._part: Part | None = None

    def expect(self, found: tuple[dict[bytes, _Lack], set[bytes]]) -> None:
        """Take what `_lacking` has found."""
        self._lacking, here = found
        self._complete -= len(self._lacking)
        self.digests = here | set(self._lacking)

    def needed(self) -> Iterator[file_pb2.PutFilesResponse]:
        """What the gate needs, in the order in which it wants it."""
        files = [
            file_pb2.NeededFile(sha256=digest, offset=lack.offset)
            for digest, lack in self._lacking.items()
        ]
        for start in range(0, max(len(files), 1), _NEEDED_A_PAGE):
            page = files[start : start + _NEEDED_A_PAGE]
            is_last = start + _NEEDED_A_PAGE >= len(files)
            needed = file_pb2.NeededFiles(files=page, last=is_last)
            yield file_pb2.PutFilesResponse(needed=needed)

    async def meanwhile(
        self, work: Coroutine[Any, Any, T], then: Callable[[T], None] | None = None
    ) -> AsyncIterator[file_pb2.PutFilesResponse]:
        """Progress while `work` goes on; its result is given to `then`."""
        working = asyncio.create_task(work)
        try:
            while not (await asyncio.wait((working,), timeout=_PROGRESS_S))[0]:
                yield self._progress()
        except BaseException:
            working.cancel()
            raise
        result = working.result()
        if then is not None:
            then(result)

    async def take_all(self, requests: Requests) -> AsyncIterator[file_pb2.PutFilesResponse]:
        """Read until nothing is lacking; yields progress now and then."""
        told_at, told_bytes = time.monotonic(), 0
        try:
            while self._lacking:
                request = await anext(requests, None)
                if request is None:
                    raise errors.invalid(
                        f"the call ended while {len(self._lacking)} files were needed",
                        field="pieces",
                        reason="FIELD_REQUIRED",
                    )
                pieces = _pieces(request)
                await asyncio.to_thread(self._take, pieces)
                now = time.monotonic()
                if (
                    now - told_at >= _PROGRESS_S
                    or self.received_bytes - told_bytes >= _PROGRESS_BYTES
                ):
                    told_at, told_bytes = now, self.received_bytes
                    yield self._progress()
        finally:
            if self._part is not None:
                self._part.close()

    def _progress(self) -> file_pb2.PutFilesResponse:
        return file_pb2.PutFilesResponse(
            progress=file_pb2.PutFilesProgress(
                received_bytes=self.received_bytes, complete_files=self._complete
            )
        )

    def _take(self, pieces: file_pb2.FilePieces) -> None:
        for piece in pieces.pieces:
            lack = self._lacking.get(piece.sha256)
            if lack is None:
                raise errors.invalid(
                    f"content {piece.sha256.hex()} is not needed", field="pieces.sha256"
                )
            if piece.offset != lack.offset:
                raise errors.offset_out_of_range(
                    f"content {piece.sha256.hex()} goes on at {lack.offset}, not {piece.offset}",
                    expected=lack.offset,
                )
            self._take_piece(piece, lack)
            self.received_bytes += len(piece.data)

    def _take_piece(self, piece: file_pb2.FilePiece, lack: _Lack) -> None:
        end = piece.offset + len(piece.data)
        if end > lack.size or (piece.last and end != lack.size):
            raise errors.digest_mismatch(
                f"content {piece.sha256.hex()} has {lack.size} bytes, and {end} came", piece.sha256
            )
        if piece.last and not piece.offset:
            # The whole in one piece, as most files are: nothing to resume, so fewer steps.
            self._cache.add_whole(piece.sha256, piece.data)
        else:
            part = self._open(piece.sha256, piece.offset)
            part.write(piece.data)
            lack.offset = part.offset
            if not piece.last:
                return
            self._part = None
            part.finish()
        del self._lacking[piece.sha256]
        self._complete += 1

    def _open(self, sha256: bytes, offset: int) -> Part:
        if self._part is not None and self._part.sha256 == sha256:
            return self._part
        if self._part is not None:
            self._part.close()
        self._part = self._cache.begin(sha256, offset)
        return self._part


async def _take_manifest(path: Path, begin: file_pb2.PutFilesBegin, requests: Requests) -> None:
    """Write the manifest to `path` while it arrives, and check it."""
    check = ManifestCheck()
    with path.open("wb") as file:
        while True:
            request = await anext(requests, None)
            if request is None or request.WhichOneof("message") != "page":
                raise errors.invalid(
                    "the manifest has to come next, in pages", field="page", reason="FIELD_REQUIRED"
                )
            page = request.page
            if len(page.entries) > _PAGE_ENTRIES:
                raise errors.invalid(
                    f"a page has {len(page.entries)} entries; {_PAGE_ENTRIES:,} are the most",
                    field="page.entries",
                    reason="FIELD_OUT_OF_RANGE",
                )
            file.write(await asyncio.to_thread(_checked, check, page))
            if page.last:
                break
    check.finish(begin.manifest_sha256, begin.entry_count, begin.total_bytes)


def _checked(check: ManifestCheck, page: file_pb2.ManifestPage) -> bytes:
    return b"".join(check.add(entry) for entry in page.entries)


def _entries(manifest: Path) -> Iterator[manifest_pb2.ManifestEntry]:
    with manifest.open("rb") as file:
        yield from read_delimited(iter(lambda: file.read(_READ_BYTES), b""))


def _lacking(manifest: Path, cache: Cache) -> tuple[dict[bytes, _Lack], set[bytes]]:
    """The contents that the cache lacks, in the order in which they are wanted; and the others."""
    lacking: dict[bytes, _Lack] = {}
    here: set[bytes] = set()
    for entry in _entries(manifest):
        digest = entry.sha256
        if not digest or digest in here or digest in lacking:
            continue
        if cache.has(digest, entry.size):
            here.add(digest)
        elif not entry.size:
            cache.add_whole(digest, b"")
            here.add(digest)
        else:
            lacking[digest] = _Lack(entry.size, cache.arrived_bytes(digest, entry.size))
    return lacking, here


def _pieces(request: file_pb2.PutFilesRequest) -> file_pb2.FilePieces:
    if request.WhichOneof("message") != "pieces":
        raise errors.invalid("data has to come next", field="pieces", reason="FIELD_REQUIRED")
    if sum(len(piece.data) for piece in request.pieces.pieces) > _PIECES_BYTES:
        raise errors.invalid(
            "a message has more than 1 MiB of data", field="pieces", reason="FIELD_OUT_OF_RANGE"
        )
    return request.pieces


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Tell what the disk refused as the contract has it."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise errors.disk_full(str(folder)) from error
        raise
