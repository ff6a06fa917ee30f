"""FileService: contents up by digest, outputs down by path."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Iterator, Sequence

from rpc_kit.errors import invalid, not_found, out_of_range
from rpc_kit.interceptor import Context as CallContext
from rpc_kit.paging import Page, page_of
from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import file_pb2, file_pb2_grpc
from swm_core.domain.job import Job
from swm_core.domain.paths import PathRefused, check_path
from swm_core.lifecycle.context import Context
from swm_core.security.identity import current_caller
from swm_core.spool import CHUNK_BYTES, OwnerContents, Piece
from swm_core.terminal.access import Access
from swm_core.terminal.submit import spool_refuses
from swm_core.terminal.work_folders import WorkFolders

MOST_CONTENTS = 10_000
_SHA256_BYTES = 32
_PAGE_BYTES = 1 << 20


class FileService(file_pb2_grpc.FileServiceServicer):
    """Files of the callers."""

    def __init__(self, context: Context, access: Access) -> None:
        self._context = context
        self._access = access
        self._work_folders = WorkFolders(context)

    async def FindMissing(
        self, request: file_pb2.FindMissingRequest, context: CallContext
    ) -> file_pb2.FindMissingResponse:
        if len(request.contents) > MOST_CONTENTS:
            raise invalid(
                f"{len(request.contents)} contents in one call; ask for at most {MOST_CONTENTS}",
                field="contents",
                reason="FIELD_OUT_OF_RANGE",
            )
        asked = []
        for index, content in enumerate(request.contents):
            _check_digest(content.sha256, f"contents[{index}].sha256")
            asked.append((content.sha256.hex(), content.size))
        with spool_refuses():
            missing = await self._context.spool.missing(current_caller().user, asked)
        return file_pb2.FindMissingResponse(
            missing=[
                file_pb2.MissingContent(index=index, offset=offset) for index, offset in missing
            ]
        )

    async def Upload(
        self, request_iterator: AsyncIterator[file_pb2.UploadRequest], context: CallContext
    ) -> file_pb2.UploadResponse:
        with spool_refuses():
            async with self._context.spool.batch(current_caller().user) as batch:
                async for request in request_iterator:
                    await batch.write([_piece(piece) for piece in request.pieces])
                await batch.commit()
                if batch.is_cut:
                    raise invalid(
                        "the upload ended in the middle of a content; FindMissing tells where to "
                        "go on",
                        field="pieces",
                    )
                return file_pb2.UploadResponse(
                    contents=batch.contents, received_bytes=batch.received_bytes
                )

    async def ListOutputs(
        self, request: file_pb2.ListOutputsRequest, context: CallContext
    ) -> file_pb2.ListOutputsResponse:
        job = self._access.job(request.job_id)
        # A list that was begun while the job ran does not go on with what was collected.
        page = page_of(
            request,
            current_caller().user,
            job.state.terminal,
            default_size=1_000,
            max_size=10_000,
        )
        for index, pattern in enumerate(request.patterns):
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise invalid(
                    f"pattern {pattern[:200]!r} leads out of the work folder; give one below it",
                    field=f"patterns[{index}]",
                    reason="PATH_INVALID",
                )
        if not job.state.terminal:
            return await self._work_folders.list(job, request.patterns, page)
        return await asyncio.to_thread(self._list, job, request.patterns, page)

    def _list(self, job: Job, patterns: Sequence[str], page: Page) -> file_pb2.ListOutputsResponse:
        answer = file_pb2.ListOutputsResponse(collected=True)
        size = 0
        found = False
        matched: set[str] = set()
        for entry in self._outputs(job):
            hits = [pattern for pattern in patterns if matches(entry.path, pattern)]
            matched.update(hits)
            if patterns and not hits:
                continue
            if page.after and entry.path.encode() <= page.after.encode():
                continue
            if len(answer.files) >= page.size or size > _PAGE_BYTES:
                found = True
                break
            answer.files.add(entry=entry)
            size += entry.ByteSize()
        if found:
            answer.next_page_token = page.token(answer.files[-1].entry.path)
        if not page.after:
            for path, reason in job.skipped_outputs:
                answer.skipped.add(path=path, reason=reason)
            answer.unmatched_patterns.extend(
                [each for each in patterns if each not in matched] if patterns and not found else []
            )
            if not patterns:
                answer.unmatched_patterns.extend(job.unmatched_outputs)
        return answer

    async def Download(
        self, request: file_pb2.DownloadRequest, context: CallContext
    ) -> AsyncIterator[file_pb2.DownloadResponse]:
        job = self._access.job(request.job_id)
        if len(request.files) > MOST_CONTENTS:
            raise invalid(
                f"{len(request.files)} files in one call; ask for at most {MOST_CONTENTS}",
                field="files",
                reason="FIELD_OUT_OF_RANGE",
            )
        for index, file in enumerate(request.files):
            try:
                check_path(file.path)
            except PathRefused as refused:
                raise invalid(
                    str(refused), field=f"files[{index}].path", reason=refused.reason
                ) from None
        if not job.state.terminal:
            async for answer in self._work_folders.download(job, request.files):
                yield answer
            return
        entries = await asyncio.to_thread(self._find, job, [file.path for file in request.files])
        for entry, file in zip(entries, request.files, strict=True):
            if file.offset > entry.size and file.sha256 == entry.sha256:
                raise out_of_range(
                    "OFFSET",
                    f"offset {file.offset} is past the end of {file.path[:200]!r} at {entry.size} "
                    "bytes; ask from 0",
                    offset=str(entry.size),
                )
        contents = self._context.spool.owner(job.owner)
        answers = _downloads(contents, entries, request.files)
        with spool_refuses():
            while (piece := await asyncio.to_thread(next, answers, None)) is not None:
                yield piece

    def _find(self, job: Job, paths: Sequence[str]) -> list[manifest_pb2.ManifestEntry]:
        wanted = set(paths)
        known = {
            entry.path: entry
            for entry in self._outputs(job)
            if entry.path in wanted and entry.type == manifest_pb2.FILE_TYPE_FILE
        }
        for path in paths:
            if path not in known:
                raise not_found(
                    "OUTPUT_NOT_FOUND",
                    f"job {job.job_id} has no output file {path[:200]!r}; `swm fetch "
                    f"{job.job_id}` brings what it has",
                )
        return [known[path] for path in paths]

    def _outputs(self, job: Job) -> Iterator[manifest_pb2.ManifestEntry]:
        if job.output_manifest_sha256:
            yield from self._context.spool.manifest(job.owner, job.output_manifest_sha256)


def matches(path: str, pattern: str) -> bool:
    """Whether an output is meant by a pattern: by name, by glob, or as part of a folder."""
    pattern = pattern.rstrip("/")
    return path == pattern or path.startswith(f"{pattern}/") or fnmatch.fnmatchcase(path, pattern)


def _check_digest(digest: bytes, field: str) -> None:
    if len(digest) != _SHA256_BYTES:
        raise invalid(
            f"{field} has {len(digest)} bytes; a SHA-256 has {_SHA256_BYTES}", field=field
        )


def _piece(piece: file_pb2.UploadPiece) -> Piece:
    _check_digest(piece.sha256, "pieces.sha256")
    return Piece(piece.sha256.hex(), piece.offset, piece.data, piece.last)


def _downloads(
    contents: OwnerContents,
    entries: Sequence[manifest_pb2.ManifestEntry],
    cursors: Sequence[file_pb2.DownloadCursor],
) -> Iterator[file_pb2.DownloadResponse]:
    """The files in messages of up to 1 MiB. Blocks."""
    answer, room = file_pb2.DownloadResponse(), CHUNK_BYTES
    for index, (entry, cursor) in enumerate(zip(entries, cursors, strict=True)):
        resumed = cursor.offset <= entry.size and cursor.sha256 == entry.sha256
        offset = cursor.offset if resumed else 0
        with contents.open(entry.sha256.hex()) as file:
            file.seek(offset)
            while True:
                data = file.read(room)
                piece = answer.pieces.add(index=index, offset=offset, data=data)
                offset += len(data)
                room -= len(data) + 64
                ended = offset >= entry.size or not data
                if ended:
                    piece.end.size, piece.end.sha256 = entry.size, entry.sha256
                if room <= 4096:
                    yield answer
                    answer, room = file_pb2.DownloadResponse(), CHUNK_BYTES
                if ended:
                    break
    if answer.pieces:
        yield answer
