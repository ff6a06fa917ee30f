"""PutFiles as every gate serves it: the manifest in pages, what is needed, pieces, a result.

What lies behind it is each gate's own: a `Store` knows what the site has, takes what comes, and
puts all into place.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any, Protocol

from gate_kit import errors
from gate_kit.manifest import ManifestCheck, read_delimited
from gate_kit.validation import Fields
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2, types_pb2

_NEEDED_A_PAGE = 10_000
_PAGE_ENTRIES = 10_000
_PIECES_BYTES = 1 << 20
_PROGRESS_S = 5.0
_PROGRESS_BYTES = 8 << 20
_READ_BYTES = 1 << 18

Requests = AsyncIterator[file_pb2.PutFilesRequest]


@dataclasses.dataclass(slots=True)
class Lack:
    """A content that has to come: how large it is, and how much of it is at the site."""

    size: int
    offset: int = 0


class Arrived:
    """What is safe at the site of what has come: a store counts here, for the progress."""

    def __init__(self) -> None:
        self.bytes = 0
        self.files = 0
        self.is_more = asyncio.Event()
        """Set when there is so much more that the caller should hear of it."""
        self._told = 0

    def add(self, count: int, files: int = 0) -> None:
        """Note `count` bytes more, and `files` that are whole now."""
        self.bytes += count
        self.files += files
        if self.bytes - self._told >= _PROGRESS_BYTES:
            self.is_more.set()

    def told(self) -> None:
        """Note that the caller has been told."""
        self._told = self.bytes
        self.is_more.clear()


class Store(Protocol):
    """What one call brings its files to.

    Its methods are called in this order, `take` as often as something comes. Each may be cancelled,
    and leaves then what a repeated call goes on with.
    """

    @property
    def manifest(self) -> Path:
        """Where the manifest is written while it comes: a file of the gate's."""
        ...

    async def open(self) -> None:
        """Make the attempt, unless it is there.

        Raises:
            Refusal: JOB_STARTED, JOB_CANCELLED, JOB_DIFFERS, SITE_CHANGED…
        """
        ...

    async def lacking(self) -> Mapping[bytes, Lack]:
        """The contents that have to come, by digest, in the order in which they are wanted.

        The manifest is checked and whole by now: that it belongs to the attempt is noted here.
        """
        ...

    async def take(self, pieces: Sequence[file_pb2.FilePiece], arrived: Arrived) -> None:
        """Take pieces of what is lacking, which fit to each other and to the sizes.

        Raises:
            Refusal: DIGEST_MISMATCH where a content ends and is another one.
        """
        ...

    async def place(self) -> Sequence[types_pb2.SiteRoot]:
        """Put everything where it belongs, durably; returns the roots that have it.

        Raises:
            Refusal: FILE_DIFFERS, DIGEST_MISMATCH, DISK_FULL…
        """
        ...


async def begin_of(requests: Requests) -> file_pb2.PutFilesBegin:
    """The first message, checked as far as every gate checks it; `ref` is not.

    Raises:
        Refusal: FIELD_*.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "begin":
        raise errors.invalid("begin has to come first", field="begin", reason="FIELD_REQUIRED")
    begin = first.begin
    fields = Fields()
    fields.digest("begin.manifest_sha256", begin.manifest_sha256)
    fields.origin(begin.origin, begin.ref.installation, "begin.origin")
    fields.done()
    return begin


async def put_files(
    begin: file_pb2.PutFilesBegin, requests: Requests, store: Store
) -> AsyncGenerator[file_pb2.PutFilesResponse, None]:
    """The answers to one call, after its begin.

    Raises:
        Refusal: As protos/README.md has them for PutFiles.
    """
    await store.open()
    await _take_manifest(store.manifest, begin, requests)
    call = _Call(begin, requests, store)
    async for progress in call.meanwhile(call.look()):
        yield progress
    for page in call.needed():
        yield page
    async for progress in call.meanwhile(call.take_all()):
        yield progress
    async for progress in call.meanwhile(call.place()):
        yield progress
    result = file_pb2.PutFilesResult(received_bytes=call.received_bytes, roots=call.roots)
    yield file_pb2.PutFilesResponse(result=result)


def entries_of(manifest: Path) -> Iterator[manifest_pb2.ManifestEntry]:
    """The entries of a manifest that was written down."""
    with manifest.open("rb") as file:
        yield from read_delimited(iter(lambda: file.read(_READ_BYTES), b""))


class _Call:
    """What one call has to bring, and what has come: pieces of contents, one after the other."""

    def __init__(self, begin: file_pb2.PutFilesBegin, requests: Requests, store: Store) -> None:
        self.received_bytes = 0
        self.roots: Sequence[types_pb2.SiteRoot] = ()
        self._requests = requests
        self._store = store
        self._arrived = Arrived()
        self._lacking: dict[bytes, Lack] = {}
        self._there = begin.entry_count
        """Files that do not have to come."""

    async def look(self) -> None:
        """Find out what is lacking."""
        self._lacking = dict(await self._store.lacking())
        self._there -= len(self._lacking)

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

    async def take_all(self) -> None:
        """Read until nothing is lacking."""
        while self._lacking:
            request = await anext(self._requests, None)
            if request is None:
                raise errors.invalid(
                    f"the call ended while {len(self._lacking)} files were needed",
                    field="pieces",
                    reason="FIELD_REQUIRED",
                )
            fitting, mistake = self._fitting(_pieces(request).pieces)
            await self._store.take(fitting, self._arrived)
            self.received_bytes += sum(len(piece.data) for piece in fitting)
            if mistake is not None:
                raise mistake

    async def place(self) -> None:
        """Have everything put into its place."""
        self.roots = await self._store.place()

    async def meanwhile(
        self, work: Coroutine[Any, Any, None]
    ) -> AsyncIterator[file_pb2.PutFilesResponse]:
        """Progress while `work` goes on, now and then."""
        working = asyncio.create_task(work)
        try:
            while not working.done():
                waking = asyncio.create_task(self._arrived.is_more.wait())
                try:
                    await asyncio.wait(
                        (working, waking), timeout=_PROGRESS_S, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waking.cancel()
                if not working.done():
                    self._arrived.told()
                    yield self._progress()
            working.result()
        finally:
            working.cancel()
            # It leaves nothing half done that nobody waits for.
            await asyncio.gather(working, return_exceptions=True)

    def _progress(self) -> file_pb2.PutFilesResponse:
        return file_pb2.PutFilesResponse(
            progress=file_pb2.PutFilesProgress(
                received_bytes=self._arrived.bytes,
                complete_files=self._there + self._arrived.files,
            )
        )

    def _fitting(
        self, pieces: Iterable[file_pb2.FilePiece]
    ) -> tuple[list[file_pb2.FilePiece], errors.Refusal | None]:
        """The pieces up to the first that does not fit, and what is wrong with that."""
        fitting: list[file_pb2.FilePiece] = []
        for piece in pieces:
            try:
                self._check(piece)
            except errors.Refusal as mistake:
                return fitting, mistake
            fitting.append(piece)
        return fitting, None

    def _check(self, piece: file_pb2.FilePiece) -> None:
        name = piece.sha256.hex()
        lack = self._lacking.get(piece.sha256)
        if lack is None:
            raise errors.invalid(f"content {name} is not needed", field="pieces.sha256")
        if piece.offset != lack.offset:
            raise errors.offset_out_of_range(
                f"content {name} goes on at {lack.offset}, not {piece.offset}",
                expected=lack.offset,
            )
        end = piece.offset + len(piece.data)
        if end > lack.size or (piece.last and end != lack.size):
            raise errors.digest_mismatch(
                f"content {name} has {lack.size} bytes, and {end} came", piece.sha256
            )
        lack.offset = end
        if piece.last:
            del self._lacking[piece.sha256]


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


def _pieces(request: file_pb2.PutFilesRequest) -> file_pb2.FilePieces:
    if request.WhichOneof("message") != "pieces":
        raise errors.invalid("data has to come next", field="pieces", reason="FIELD_REQUIRED")
    if sum(len(piece.data) for piece in request.pieces.pieces) > _PIECES_BYTES:
        raise errors.invalid(
            "a message has more than 1 MiB of data", field="pieces", reason="FIELD_OUT_OF_RANGE"
        )
    return request.pieces
