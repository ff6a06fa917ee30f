"""Outputs from a site to the spool."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc.aio

from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2, types_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job, Launch
from swm_core.domain.paths import Tree
from swm_core.domain.words import words
from swm_core.gateways.gate import Gate
from swm_core.gateways.inventory import Endless, pages
from swm_core.gateways.watching import heard
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.defects import GateDefect, sent_wrong
from swm_core.spool import ManifestRefused, SpoolFull, SpoolRefusal
from swm_core.spool.contents import Writer
from swm_core.spool.manifests import MAX_ENTRIES, check_entry
from swm_core.spool.syncing import sync_file_system

_FILES_A_CALL = 5_000
_LIST_S = 120.0
_MOST_REMARKS = 100
"""Of skipped files and unmatched patterns, so many are told with the job."""
_MOST_SKIPPED = 10_000
_GROWTH_BYTES = 64 << 20
"""A file may have grown by so much since it was listed; beyond that its gate sends without end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """The outputs of an attempt, in the spool."""

    manifest_sha256: str
    skipped: tuple[tuple[str, str], ...]
    unmatched: tuple[str, ...]
    failure: Failure | None
    """OUTPUT_MISSING, when a file that was asked for by name is not there."""


class Collection:
    """Brings the outputs of one attempt home. `run` again after a break goes on where it was.

    With `launch every`, files of nodes after the first land in a folder named after their node,
    unless all nodes share one file system.
    """

    def __init__(self, context: Context, gate: Gate, job: Job) -> None:
        self._context = context
        self._gate = gate
        self._job = job
        self._contents = context.spool.owner(job.owner)
        self._nodes = [""]
        if job.spec.launch is Launch.EVERY and not gate.can("SHARED_FILESYSTEM"):
            self._nodes += [allocation.node for allocation in job.allocations[1:]]
        self._done: dict[tuple[str, str], manifest_pb2.ManifestEntry] = {}
        self._writers: dict[tuple[str, str], _Download] = {}
        self._skipped: dict[str, str] = {}
        self._unmatched: list[str] = []
        self._size = 0
        """Bytes that one node has listed, at most."""
        self.refused: SpoolFull | None = None
        """Why the spool has not taken all."""
        # Until the job names what has come, and a while longer, nothing else keeps it.
        self._hold = contextlib.ExitStack()
        self._hold.enter_context(self._contents.holding())

    async def run(self, ref: types_pb2.JobRef) -> Collected:
        """All outputs, durable.

        Raises:
            GateError: It broke; run it again.
            SpoolFull: The spool has no room now.
            AttemptFailed: It never has so much room.
        """
        if not self._job.spec.output_files:
            return Collected("", (), (), None)
        try:
            for node in self._nodes:
                await self._from_node(ref, node)
            await asyncio.to_thread(sync_file_system, self._contents.blobs)
            digest = await self._context.spool.write_manifest(self._job.owner, self._manifest())
        except SpoolFull as error:
            spool = self._context.spool
            share = spool.room(self._job.owner).max_bytes or spool.max_bytes
            if self._size < min(share, spool.max_bytes):
                self.refused = error
                raise
            what, mend = "the spool may hold", "spool.max_size"
            if share < spool.max_bytes:
                what, mend = "a user may have in the spool", "limits.spool_bytes_per_user"
            text = f"its results, {self._size} bytes, are more than {what} at all; raise {mend}"
            raise AttemptFailed(Failure(FailureReason.SPOOL_FULL, text)) from None
        except (GateDefect, Endless, SpoolRefusal) as error:
            # Asked again, it would send the same.
            raise AttemptFailed(sent_wrong(self._gate, error)) from error
        missing = [name for name in self._unmatched if not _is_glob(name)]
        missed: Failure | None = None
        if missing:
            text = f"no such output: {', '.join(missing[:5])}"
            missed = Failure(FailureReason.OUTPUT_MISSING, text)
        return Collected(
            manifest_sha256=digest,
            skipped=tuple(sorted(self._skipped.items())[:_MOST_REMARKS]),
            unmatched=tuple(self._unmatched[:_MOST_REMARKS]),
            failure=missed,
        )

    def close(self) -> None:
        """Drop what is half there."""
        for download in self._writers.values():
            download.writer.close()
        self._writers.clear()
        self._hold.close()

    async def _from_node(self, ref: types_pb2.JobRef, node: str) -> None:
        wanted: dict[str, file_pb2.SiteFile] = {}
        request = file_pb2.ListFilesRequest(
            ref=ref, patterns=self._job.spec.output_files, node=node
        )
        unmatched: list[str] = []
        listed_bytes = 0
        async for page in pages(
            lambda asked: self._gate.call(self._gate.files.ListFiles, asked, timeout_s=_LIST_S),
            request,
            page_size=_FILES_A_CALL,
        ):
            unmatched += (each for each in page.unmatched_patterns if each in request.patterns)
            for skipped in page.skipped:
                self._skip(_landing(node, skipped.path), skipped.reason)
            if len(self._done) + len(wanted) + len(page.files) > MAX_ENTRIES:
                raise GateDefect(f"more than {MAX_ENTRIES} outputs")
            for file in page.files:
                listed_bytes += file.entry.size
                key = (node, file.entry.path)
                if key in self._done:
                    continue
                if file.entry.type == manifest_pb2.FILE_TYPE_FILE:
                    wanted[file.entry.path] = file
                else:
                    self._done[key] = file.entry
        self._size = max(self._size, listed_bytes)
        if not node:
            self._unmatched = list(dict.fromkeys(unmatched))
        files = list(wanted.values())
        for start in range(0, len(files), _FILES_A_CALL):
            await self._get(ref, node, files[start : start + _FILES_A_CALL])

    async def _get(
        self, ref: types_pb2.JobRef, node: str, files: Sequence[file_pb2.SiteFile]
    ) -> None:
        request = file_pb2.GetFilesRequest(
            ref=ref, node=node, files=[self._cursor(node, file) for file in files]
        )
        try:
            async for answer in heard(self._gate.files.GetFiles(request)):
                await _uncut(asyncio.to_thread(self._take, node, files, answer.pieces))
        except grpc.aio.AioRpcError as error:
            raise self._gate.problem(error, ref) from error
        except TimeoutError:
            # What has come is kept, and the next try goes on behind it.
            raise self._gate.problem(_silence(), ref) from None

    def _cursor(self, node: str, file: file_pb2.SiteFile) -> file_pb2.FileCursor:
        cursor = file_pb2.FileCursor(path=file.entry.path)
        half = self._writers.get((node, file.entry.path))
        if half is not None:
            cursor.offset = half.writer.size
            cursor.size = half.file.entry.size
            cursor.modify_time.CopyFrom(half.file.modify_time)
        return cursor

    def _take(
        self,
        node: str,
        files: Sequence[file_pb2.SiteFile],
        pieces: Sequence[file_pb2.SiteFilePiece],
    ) -> None:
        for piece in pieces:
            if piece.index >= len(files):
                raise GateDefect(f"a piece of file {piece.index} of {len(files)}")
            file = files[piece.index]
            key = (node, file.entry.path)
            if key in self._done:
                raise GateDefect(f"pieces behind the end of {words(file.entry.path)!r}")
            download = self._writers.get(key)
            if download is None:
                download = self._writers[key] = _Download(file, Writer(self._contents))
            if piece.offset + len(piece.data) > file.entry.size + _GROWTH_BYTES:
                raise GateDefect(f"more of {words(file.entry.path)!r} than the file has")
            download.writer.write(piece.offset, piece.data)
            if piece.HasField("end"):
                del self._writers[key]
                self._finish(key, download, piece.end)

    def _finish(self, key: tuple[str, str], download: _Download, end: file_pb2.SiteFileEnd) -> None:
        writer = download.writer
        problem = end.failure.message if end.HasField("failure") else ""
        if not problem and writer.size != end.size:
            problem = f"{writer.size} of {end.size} bytes came"
        if problem:
            writer.discard()
            self._skip(_landing(*key), problem)
            return
        digest = writer.finish()
        if end.sha256 and end.sha256.hex() != digest:
            writer.discard()
            self._skip(_landing(*key), "its content changed on the way")
            return
        entry = manifest_pb2.ManifestEntry()
        entry.CopyFrom(download.file.entry)
        entry.size, entry.sha256 = writer.size, bytes.fromhex(digest)
        writer.place(digest)
        self._done[key] = entry

    def _skip(self, path: str, reason: str) -> None:
        """Note what is not taken, in words that a site may have chosen."""
        if len(self._skipped) < _MOST_SKIPPED:
            self._skipped[words(path)] = words(reason)

    def _manifest(self) -> list[manifest_pb2.ManifestEntry]:
        """The entries under the names where they land, in order; a site's bad names are skipped."""
        landed = []
        for (node, path), entry in self._done.items():
            copy = manifest_pb2.ManifestEntry()
            copy.CopyFrom(entry)
            # What a newer gate knows of it would make a manifest that is not canonical.
            copy.DiscardUnknownFields()
            copy.path = _landing(node, path)
            copy.mode &= 0o777
            landed.append(copy)
        landed.sort(key=lambda entry: entry.path.encode(errors="surrogateescape"))
        tree, kept = Tree(), []
        for entry in landed:
            try:
                check_entry(entry, tree)
            except ManifestRefused as refused:
                self._skip(entry.path, str(refused))
            else:
                kept.append(entry)
        return kept


async def _uncut(thread: Coroutine[Any, Any, None]) -> None:
    """Wait for a thread, also when this is cancelled: it can't be stopped in the middle."""
    working = asyncio.create_task(thread)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise


def _silence() -> grpc.aio.AioRpcError:
    """A call on which nothing was heard for too long, as an error."""
    nothing = grpc.aio.Metadata()
    text = "its gate went silent in the middle of a transfer"
    return grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, text)


@dataclasses.dataclass(slots=True)
class _Download:
    file: file_pb2.SiteFile
    writer: Writer


def _landing(node: str, path: str) -> str:
    return f"{node}/{path}" if node else path


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")
