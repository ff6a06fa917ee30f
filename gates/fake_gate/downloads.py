"""Lists and streams files of a work folder."""

from __future__ import annotations

import asyncio
import collections
import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

from gate_kit import Page, errors
from gate_kit.patterns import Matcher, compile_pattern
from gate_kit.site_files import check_cursors, end, failed, resume_at, site_file
from gates.fake_gate.walk import Found, Skipped, walk
from skyport.gate.v1 import file_pb2

_PAGE_BYTES = 1 << 20
_MESSAGE_BYTES = 1 << 20
_PIECE_BYTES = _MESSAGE_BYTES // 4
_MESSAGE_PIECES = 1_000
_TOKEN_PATH_BYTES = 350  # grows twice as long in UTF-8, and by a third in base64
_LONG_POSITIONS = 1_000
_REASONS = {
    errno.ENOENT: "FILE_NOT_FOUND",
    errno.ENOTDIR: "FILE_NOT_FOUND",
    errno.ELOOP: "PATH_INVALID",
    errno.ENXIO: "PATH_INVALID",
}


class Positions:
    """Paths as positions of page tokens, which have at most 1 KiB: longer paths are kept here.

    Tokens of a gate may end with its incarnation, and those of long paths do.
    """

    def __init__(self) -> None:
        self._long: collections.OrderedDict[str, str] = collections.OrderedDict()

    def name(self, path: str) -> str:
        """The position that stands for `path`."""
        text = os.fsencode(path).decode("latin-1")
        if len(text) <= _TOKEN_PATH_BYTES:
            return text
        key = "/" + secrets.token_hex(16)  # no path begins with a slash
        self._long[key] = path
        if len(self._long) > _LONG_POSITIONS:
            self._long.popitem(last=False)
        return key

    def path(self, position: str) -> str:
        """The path that a position stands for.

        Raises:
            Refusal: PAGE_TOKEN_INVALID for one that is not kept any more.
        """
        if not position.startswith("/"):
            return os.fsdecode(position.encode("latin-1"))
        try:
            return self._long[position]
        except KeyError:
            raise errors.invalid(
                "page_token is too old; list from the beginning",
                field="page_token",
                reason="PAGE_TOKEN_INVALID",
            ) from None


def list_files(
    root: Path, patterns: Sequence[str], page: Page, positions: Positions
) -> file_pb2.ListFilesResponse:
    """A page of what the patterns match. Blocks on the disk.

    The first page looks at everything, to tell what matched nothing.

    Raises:
        Refusal: PATH_INVALID.
    """
    compiled = [compile_pattern(pattern) for pattern in patterns]
    answer = file_pb2.ListFilesResponse()
    matched: set[int] = set()
    is_first = not page.after
    after = positions.path(page.after)
    room, last, is_full = _PAGE_BYTES, "", False
    for step in walk(str(root), Matcher(compiled), after=after, matched=matched):
        if is_full:
            answer.next_page_token = page.token(positions.name(last))
            if not is_first:
                break
            continue  # only to see which patterns match
        if isinstance(step, Skipped):
            answer.skipped.add(path=step.path, reason=step.reason)
            room -= len(step.path) + len(step.reason)
            last = step.position
        else:
            file = _site_file(step)
            answer.files.append(file)
            room -= file.ByteSize()
            last = step.path
        is_full = len(answer.files) + len(answer.skipped) >= page.size or room <= 0
    if is_first:
        unmatched = (text for index, text in enumerate(patterns) if index not in matched)
        answer.unmatched_patterns.extend(unmatched)
    return answer


def _site_file(found: Found) -> file_pb2.SiteFile:
    told = found.told
    return site_file(
        found.path,
        told.st_mode,
        size=told.st_size,
        modify_ns=told.st_mtime_ns,
        link_target=found.link_target,
    )


async def get_files(
    root: Path, request: file_pb2.GetFilesRequest
) -> AsyncGenerator[file_pb2.GetFilesResponse, None]:
    """The files of the request in their order, in messages of at most 1 MiB of data.

    Raises:
        Refusal: PATH_INVALID; OFFSET for one past the end of a file.
    """
    check_cursors(request)
    pieces = _pieces(root, request.files)
    while True:
        message = await asyncio.to_thread(_message, pieces)
        if not message.pieces:
            return
        yield message


def _message(pieces: Iterator[file_pb2.SiteFilePiece]) -> file_pb2.GetFilesResponse:
    """The next message: pieces of a large file, or as many small files as fit."""
    message = file_pb2.GetFilesResponse()
    size = 0
    for piece in pieces:
        message.pieces.append(piece)
        size += len(piece.data)
        if size > _MESSAGE_BYTES - _PIECE_BYTES or len(message.pieces) >= _MESSAGE_PIECES:
            break
    return message


def _pieces(root: Path, cursors: Sequence[file_pb2.FileCursor]) -> Iterator[file_pb2.SiteFilePiece]:
    for index, cursor in enumerate(cursors):
        try:
            descriptor = _open_below(root, cursor.path)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, "FILE_UNREADABLE")
            yield failed(index, reason, f"{cursor.path}: {error.strerror}")
            continue
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            yield failed(index, "PATH_INVALID", f"{cursor.path} is not a file")
            continue
        with io.FileIO(descriptor) as file:
            yield from _file_pieces(index, cursor, file)


def _file_pieces(
    index: int, cursor: file_pb2.FileCursor, file: io.FileIO
) -> Iterator[file_pb2.SiteFilePiece]:
    told = os.fstat(file.fileno())
    version = (told.st_size, told.st_mtime_ns)
    offset = resume_at(index, cursor, *version)
    digest = None if offset else hashlib.sha256()
    file.seek(offset)
    while offset < told.st_size:
        try:
            data = file.read(min(_PIECE_BYTES, told.st_size - offset))
        except OSError as error:
            yield failed(index, "FILE_UNREADABLE", f"{cursor.path}: {error.strerror}")
            return
        if not data:
            break
        if digest:
            digest.update(data)
        if offset + len(data) == told.st_size:
            ended = _end(file, cursor, version, digest.digest() if digest else b"")
            yield file_pb2.SiteFilePiece(index=index, offset=offset, data=data, end=ended)
            return
        yield file_pb2.SiteFilePiece(index=index, offset=offset, data=data)
        offset += len(data)
    # It was empty, or the caller had all of it, or it became shorter.
    ended = _end(file, cursor, version, digest.digest() if digest else b"")
    yield file_pb2.SiteFilePiece(index=index, offset=offset, end=ended)


def _end(
    file: io.FileIO, cursor: file_pb2.FileCursor, before: tuple[int, int], sha256: bytes
) -> file_pb2.SiteFileEnd:
    after = os.fstat(file.fileno())
    return end(cursor.path, sha256, before, (after.st_size, after.st_mtime_ns))


def _open_below(root: Path, path: str) -> int:
    """A descriptor of the file at `path`; no link on the way is followed."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *parents, name = path.split("/")
        for parent in parents:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(parent, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        # A pipe without a writer would hold us up.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)
