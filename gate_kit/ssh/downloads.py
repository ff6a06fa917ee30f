"""ListFiles and GetFiles on hosts: small files many at a time, large ones one by one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from gate_kit import Page, errors
from gate_kit.site_files import check_cursors, end, failed, resume_at
from gate_kit.ssh.answers import HostRefused, as_refusals
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.listing import Listings, Matches, matches
from gate_kit.ssh.remote_files import Record, RemoteFiles
from gate_kit.ssh.sites import Sites
from skyport.gate.v1 import file_pb2, types_pb2

_MESSAGE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 18
_MESSAGE_PIECES = 1_000
_SMALL_BYTES = 1 << 18
_BATCH_BYTES = 2 << 20
_LIST_BYTES = 24_000
"""Bytes of paths that fit on a command line anywhere."""
_LIST_PATHS = 1_000
_FAILURES = {
    "m": ("FILE_NOT_FOUND", "is not there"),
    "l": ("PATH_INVALID", "is no file, or lies behind a link"),
    "u": ("FILE_UNREADABLE", "can't be read"),
}

Pieces = AsyncIterator[file_pb2.SiteFilePiece]


class Downloads:
    """What ListFiles and GetFiles do, for all attempts. Call `close` at the end.

    Args:
        sites: The hosts.
    """

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        self._listings = Listings()

    def close(self) -> None:
        """Forget what is kept."""
        self._listings.close()

    async def list(
        self, request: file_pb2.ListFilesRequest, page: Page
    ) -> file_pb2.ListFilesResponse:
        """A page of what the patterns match, as the folder was when the first page was asked for.

        Raises:
            Refusal: PATH_INVALID, PAGE_TOKEN_INVALID, JOB_NOT_FOUND, SITE_CHANGED…
        """
        if page.after:
            return await asyncio.to_thread(self._listings.next, page)
        Matches(request.patterns)  # what is malformed is told before a host is asked
        async with self._files(request.ref, request.node) as files:
            found = await matches(files, request.patterns)
        return await asyncio.to_thread(self._listings.first, found, page)

    async def get(
        self, request: file_pb2.GetFilesRequest
    ) -> AsyncGenerator[file_pb2.GetFilesResponse, None]:
        """The files of the request in their order, in messages of at most 1 MiB of data.

        Raises:
            Refusal: PATH_INVALID; OFFSET for one past the end of a file; JOB_NOT_FOUND…
        """
        check_cursors(request)
        async with self._files(request.ref, request.node) as files:
            message, size = file_pb2.GetFilesResponse(), 0
            pieces = _Download(files, request.files).pieces()
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    message.pieces.append(piece)
                    size += len(piece.data)
                    is_long = len(message.pieces) >= _MESSAGE_PIECES
                    if size > _MESSAGE_BYTES - _PIECE_BYTES or is_long:
                        yield message
                        message, size = file_pb2.GetFilesResponse(), 0
            if message.pieces:
                yield message

    @contextlib.asynccontextmanager
    async def _files(self, ref: types_pb2.JobRef, node: str) -> AsyncIterator[RemoteFiles]:
        """The work folder on a node; on the first one if none is named."""
        hosts = self._sites.hosts(ref)
        host: Host = next((host for host in hosts if host.node == node), hosts[0])
        with as_refusals(ref):
            try:
                files = await RemoteFiles.open(
                    host, AttemptKey.of(ref).path, root_of(ref, host.node)
                )
            except HostRefused as error:
                if error.reason == "JOB_NOT_FOUND":
                    raise errors.job_not_found(ref) from error
                raise
            try:
                yield files
            finally:
                files.close()


class _Download:
    """One call of GetFiles."""

    def __init__(self, files: RemoteFiles, cursors: Sequence[file_pb2.FileCursor]) -> None:
        self._files = files
        self._cursors = cursors

    async def pieces(self) -> AsyncGenerator[file_pb2.SiteFilePiece, None]:
        """All pieces."""
        start = 0
        while start < len(self._cursors):
            indices = self._fitting(start)
            start = indices.stop
            letters, records = await self._files.look([self._path(i) for i in indices])
            batch: list[int] = []
            size = 0
            for index, letter in zip(indices, letters, strict=True):
                record = records.get(self._path(index))
                is_small = record is not None and record.size <= _SMALL_BYTES
                if letter == "f" and is_small and not self._cursors[index].offset:
                    batch.append(index)
                    size += record.size if record else 0
                    if size < _BATCH_BYTES:
                        continue
                    async for piece in self._small(batch):
                        yield piece
                    batch, size = [], 0
                    continue
                async for piece in self._small(batch):
                    yield piece
                batch, size = [], 0
                async for piece in self._one(index, letter):
                    yield piece
            async for piece in self._small(batch):
                yield piece

    def _path(self, index: int) -> str:
        return self._cursors[index].path

    def _fitting(self, start: int) -> range:
        """As many files as scripts take at a time, at least one."""
        size = 0
        for index in range(start, len(self._cursors)):
            size += len(self._path(index).encode()) + 3
            if index > start and (size > _LIST_BYTES or index - start >= _LIST_PATHS):
                return range(start, index)
        return range(start, len(self._cursors))

    async def _small(self, batch: Sequence[int]) -> Pieces:
        """Files that were small and there a moment ago, from their beginning."""
        if not batch:
            return
        before, contents, after = await self._files.small([self._path(i) for i in batch])
        for index in batch:
            path = self._path(index)
            data = contents.get(path)
            if data is None or path not in before:
                # It has gone, or is another name of one before it.
                async for piece in self._one(index, "f"):
                    yield piece
                continue
            version = (len(data), before[path].modify_ns)
            if len(data) < before[path].size:
                version = before[path].version
            now = after[path].version if path in after else (0, 0)
            told = end(path, hashlib.sha256(data).digest(), version, now)
            for offset in range(0, max(len(data), 1), _PIECE_BYTES):
                part = data[offset : offset + _PIECE_BYTES]
                is_last = offset + len(part) == len(data)
                yield file_pb2.SiteFilePiece(
                    index=index, offset=offset, data=part, end=told if is_last else None
                )

    async def _one(self, index: int, letter: str) -> Pieces:
        """A file by itself, from where its cursor is."""
        path = self._path(index)
        if letter == "f":
            record = await self._files.large(path)
            if record is not None:
                async for piece in self._sent(index, record):
                    yield piece
                return
            # The script waits for what to send.
            async for _ in self._files.send(0, 0):
                pass
            await self._files.sent(path)
            letter = "m"
        reason, why = _FAILURES[letter]
        yield failed(index, reason, f"{path} {why}")

    async def _sent(self, index: int, record: Record) -> Pieces:
        path, size = record.path, record.size
        offset = resume_at(index, self._cursors[index], size, record.modify_ns)
        digest = None if offset else hashlib.sha256()
        waiting = bytearray()
        # The last piece waits for the end.
        async for part in self._files.send(offset, size - offset):
            waiting += part
            while len(waiting) > _PIECE_BYTES:
                data = bytes(waiting[:_PIECE_BYTES])
                del waiting[:_PIECE_BYTES]
                if digest is not None:
                    digest.update(data)
                yield file_pb2.SiteFilePiece(index=index, offset=offset, data=data)
                offset += len(data)
        is_read, now = await self._files.sent(path)
        if digest is not None:
            digest.update(waiting)
        sha256 = digest.digest() if digest is not None else b""
        told = end(path, sha256, record.version, now.version if now else (0, 0))
        if not is_read and not told.HasField("failure"):
            told = failed(index, "FILE_UNREADABLE", f"{path} can't be read to its end").end
        yield file_pb2.SiteFilePiece(index=index, offset=offset, data=bytes(waiting), end=told)
