"""Fetches outputs into a folder: lists them, skips what is there, resumes what was cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import file_pb2
from terminals.client.errors import CallFailed, DataDamaged
from terminals.client.folder import OutputFolder, Part, checked_name, stays_inside
from terminals.client.patience import DEFAULT_S, Patience
from terminals.client.progress import Progress, Report, silent

if TYPE_CHECKING:
    from terminals.client.connection import Client

_FILES_AT_ONCE = 10_000  # by contract
_REQUEST_BYTES = 1 << 20
_CURSOR_BYTES = 80  # beside the path
_TRIES_OF_A_FILE = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """The outputs of a job, as the core tells them; their names are checked."""

    files: tuple[file_pb2.OutputFile, ...]
    """Files, folders and links, in byte order of their paths."""
    skipped: tuple[manifest_pb2.SkippedFile, ...]
    """What matched and could not be taken from the site."""
    unmatched: tuple[str, ...]
    """Patterns that matched nothing."""
    collected: bool
    """Whether the job has ended; otherwise this is what its work folder held just now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What `fetch` brought."""

    names: tuple[str, ...]
    """Files that are in the folder now, also those that were there already."""
    received_bytes: int
    failed: tuple[str, ...]
    """One line for each file that could not be had."""
    listing: Listing


def list_outputs(client: Client, job_id: str, patterns: Iterable[str] = ()) -> Listing:
    """The outputs of a job.

    Raises:
        OutputRefused: The core names a path that is none below a folder.
        CallFailed: The core refused, or does not answer.
    """
    request = file_pb2.ListOutputsRequest(job_id=job_id, patterns=patterns)
    files: list[file_pb2.OutputFile] = []
    skipped: list[manifest_pb2.SkippedFile] = []
    unmatched: list[str] = []
    collected = False
    for page in client.pages(client.files.ListOutputs, request):
        files.extend(page.files)
        skipped.extend(page.skipped)
        unmatched.extend(page.unmatched_patterns)
        collected = page.collected
    for file in files:
        checked_name(file.entry.path)
    return Listing(tuple(files), tuple(skipped), tuple(unmatched), collected)


def fetch(
    client: Client,
    job_id: str,
    folder: Path,
    patterns: Iterable[str] = (),
    *,
    report: Report = silent,
    patience_s: float = DEFAULT_S,
) -> Fetched:
    """See `Client.fetch`."""
    listing = list_outputs(client, job_id, patterns)
    with OutputFolder(folder) as into:
        fetching = _Fetching(client, job_id, into, listing, report)
        return fetching.run(Patience(client, patience_s))


class _Fetching:
    """What is wanted, what has come, and how often each file was tried."""

    def __init__(
        self, client: Client, job_id: str, into: OutputFolder, listing: Listing, report: Report
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._into = into
        self._listing = listing
        self._report = report
        files = [file for file in listing.files if file.entry.type == manifest_pb2.FILE_TYPE_FILE]
        self._wanted = {file.entry.path: file for file in files}
        self._tries: dict[str, int] = {}
        self._names: list[str] = []
        self._failed: list[str] = []
        self._total_files = len(files)
        self._total_bytes = sum(file.entry.size for file in files)
        self._settled_bytes = 0
        self.received_bytes = 0

    def run(self, patience: Patience) -> Fetched:
        for file in self._listing.files:
            if file.entry.type == manifest_pb2.FILE_TYPE_DIRECTORY:
                self._into.make_folder(file.entry.path)
        for file in list(self._wanted.values()):
            entry = file.entry
            if entry.sha256 and self._into.has(entry.path, entry.size, entry.sha256):
                self._done(entry)
        while self._wanted:  # each turn brings something, or costs patience or a file's tries
            for batch in _batches(list(self._wanted.values())):
                try:
                    self._batch(batch, patience)
                except CallFailed as error:
                    patience.pause(error)
                    break
        # Last, so that no file is ever written through one of them.
        for file in self._listing.files:
            if file.entry.type == manifest_pb2.FILE_TYPE_SYMLINK:
                self._link(file.entry)
        return Fetched(tuple(self._names), self.received_bytes, tuple(self._failed), self._listing)

    def _link(self, entry: manifest_pb2.ManifestEntry) -> None:
        if stays_inside(entry.path, entry.link_target):
            self._into.link(entry.path, entry.link_target)
            self._names.append(entry.path)
        else:
            self._failed.append(f"{entry.path}: it is a link that may lead out of the folder")

    def _batch(self, files: Sequence[file_pb2.OutputFile], patience: Patience) -> None:
        """One Download: of what is wanted, from where parts of it end."""
        with _Receiving(self, self._into, files) as receiving:
            request = file_pb2.DownloadRequest(job_id=self._job_id, files=receiving.cursors())
            with self._client.stream(self._client.files.Download, request) as answers:
                for answer in answers:
                    if answer.pieces:
                        patience.answered()
                    for piece in answer.pieces:
                        receiving.take(piece)
                    self.tell(receiving.offset)
            receiving.complete()

    def finished(
        self, entry: manifest_pb2.ManifestEntry, part: Part, end: file_pb2.DownloadEnd
    ) -> None:
        """Check a file that was sent to its end, and give it its name."""
        expected = entry.sha256 or end.sha256
        if end.HasField("failure"):
            part.drop()
            self._give_up(entry, end.failure.message)
        elif part.offset == end.size and expected in (b"", part.sha256):
            part.finish(entry.mode or 0o644)
            self._done(entry)
        else:
            part.drop()
            self.try_again(entry, "it arrived damaged, or something writes to it; fetch it again")

    def try_again(self, entry: manifest_pb2.ManifestEntry, why: str) -> None:
        """Count a try that brought nothing of a file; the last one gives it up."""
        tries = self._tries.get(entry.path, 0) + 1
        self._tries[entry.path] = tries
        if tries >= _TRIES_OF_A_FILE:
            self._give_up(entry, why)

    def _give_up(self, entry: manifest_pb2.ManifestEntry, why: str) -> None:
        self._failed.append(f"{entry.path}: {why}")
        self._settle(entry)

    def _done(self, entry: manifest_pb2.ManifestEntry) -> None:
        self._names.append(entry.path)
        self._settle(entry)
        self.tell(0)

    def _settle(self, entry: manifest_pb2.ManifestEntry) -> None:
        if self._wanted.pop(entry.path, None) is not None:
            self._settled_bytes += entry.size

    def tell(self, offset: int) -> None:
        """Report, with `offset` bytes of a file that is under way."""
        self._report(
            Progress(
                "downloading",
                self._settled_bytes + offset,
                self._total_bytes,
                self._total_files - len(self._wanted),
                self._total_files,
            )
        )


class _Receiving:
    """The pieces of one Download: file after file, each in order."""

    def __init__(
        self,
        fetching: _Fetching,
        into: OutputFolder,
        files: Sequence[file_pb2.OutputFile],
    ) -> None:
        self._fetching = fetching
        self._into = into
        self._files = files
        self._index = -1
        self._part: Part | None = None
        self._began_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._part is None:
            return
        if self._part.offset <= self._began_at:
            entry = self._files[self._index].entry
            self._fetching.try_again(entry, "it was cut too often; fetch it again")
        self._part.close()

    @property
    def offset(self) -> int:
        """Bytes that there are of the file that is under way."""
        return self._part.offset if self._part else 0

    def cursors(self) -> Iterator[file_pb2.DownloadCursor]:
        for file in self._files:
            entry = file.entry
            cursor = file_pb2.DownloadCursor(path=entry.path)
            # Only the parts of large files are worth looking for.
            if entry.size > _REQUEST_BYTES:
                part = self._into.part(entry.path, _state(file))
                cursor.offset = part.offset if part.offset < entry.size else 0
                part.close()
            if cursor.offset and entry.sha256:
                cursor.sha256 = entry.sha256
            elif cursor.offset:
                cursor.size = entry.size
                cursor.modify_time.CopyFrom(file.modify_time)
            yield cursor

    def take(self, piece: file_pb2.DownloadPiece) -> None:
        part = self._part
        if part is None or piece.index != self._index:
            part = self._begin(piece)
        entry = self._files[self._index].entry
        if piece.offset != part.offset:
            raise DataDamaged(f"the core sends {part.name} with a gap; fetch it again")
        if entry.sha256 and part.offset + len(piece.data) > entry.size:
            part.drop()
            raise DataDamaged(f"the core sends more of {part.name} than it has; fetch it again")
        if piece.data:
            part.write(piece.data)
            self._fetching.received_bytes += len(piece.data)
        if piece.HasField("end"):
            self._part = None
            try:
                self._fetching.finished(entry, part, piece.end)
            finally:
                part.close()

    def _begin(self, piece: file_pb2.DownloadPiece) -> Part:
        if self._part is not None or not self._index < piece.index < len(self._files):
            raise DataDamaged("the core sends files that were not asked for, or not in order")
        self._left_out(piece.index)
        self._index = piece.index
        file = self._files[self._index]
        self._part = part = self._into.part(file.entry.path, _state(file))
        if piece.offset == 0:
            part.restart()
        self._began_at = part.offset
        return part

    def complete(self) -> None:
        """Count what the stream ended without."""
        self._left_out(len(self._files))

    def _left_out(self, before: int) -> None:
        for file in self._files[self._index + 1 : before]:
            self._fetching.try_again(file.entry, "the core does not send it; fetch it again")


def _state(file: file_pb2.OutputFile) -> bytes:
    """What tells whether a part belongs to the file as it is listed."""
    at = file.modify_time
    return file.entry.sha256 or b"%d %d.%09d" % (file.entry.size, at.seconds, at.nanos)


def _batches(files: Sequence[file_pb2.OutputFile]) -> Iterator[list[file_pb2.OutputFile]]:
    """As many files as one request can name."""
    batch: list[file_pb2.OutputFile] = []
    room = _REQUEST_BYTES
    for file in files:
        cost = len(file.entry.path.encode()) + _CURSOR_BYTES
        if batch and (cost > room or len(batch) == _FILES_AT_ONCE):
            yield batch
            batch, room = [], _REQUEST_BYTES
        batch.append(file)
        room -= cost
    if batch:
        yield batch
