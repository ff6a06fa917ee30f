"""Brings contents to the core: asks what lacks, sends that in one stream, resumes after a break."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import grpc

from skyport.terminal.v1 import file_pb2
from terminals.client.errors import CallFailed, ClientError, InputChanged
from terminals.client.manifest import Content, Manifest, changed, open_input
from terminals.client.patience import DEFAULT_S, Patience
from terminals.client.progress import Progress, Report, silent

if TYPE_CHECKING:
    from terminals.client.connection import Client

MESSAGE_BYTES = 1 << 20
"""Of data in one message; the receive limit is 4 MiB, and larger is not faster."""
ASKED_AT_ONCE = 10_000
"""Contents in one FindMissing, by contract."""

_PIECE_BYTES = 64  # what a piece takes beside its data: many tiny files must not pass the limit
_TRIES_WITHOUT_PROGRESS = 8

_Missing = tuple[Content, int]
"""A content, and the offset from which on the core lacks it."""


def upload(
    client: Client,
    manifest: Manifest,
    report: Report = silent,
    *,
    patience_s: float = DEFAULT_S,
) -> None:
    """Bring a manifest and all that it names, as far as the core lacks it.

    When it returns, all of it is on the core's disk, and pinned until a submit or for an hour.

    Args:
        client: The connection.
        manifest: What to bring.
        report: Told how far it is.
        patience_s: Seconds without an answer of the core after which it gives up.

    Raises:
        InputChanged: A file is not what it was when it was read.
        CallFailed: The core refused (SPOOL_FULL, QUOTA), or stayed away.
    """
    itself = Content(manifest.sha256, len(manifest.data), data=manifest.data)
    contents = {content.sha256: content for content in (*manifest.contents, itself)}
    missing = [(content, 0) for content in contents.values()]
    patience = Patience(client, patience_s)
    tries, least = 0, None
    while missing:  # ends by _TRIES_WITHOUT_PROGRESS
        try:
            missing = _find_missing(client, [content for content, _ in missing])
            patience.answered()
            left = sum(content.size - offset + 1 for content, offset in missing)
            tries = tries + 1 if least is not None and left >= least else 0
            least = left
            if missing:
                _send(client, missing, report)
        except CallFailed as error:
            # OFFSET: another upload of the same user brings the same content.
            if error.reason == "OFFSET" and tries < _TRIES_WITHOUT_PROGRESS:
                continue
            if tries >= _TRIES_WITHOUT_PROGRESS:
                raise
            patience.pause(error)
        else:
            return


def _find_missing(client: Client, contents: Sequence[Content]) -> list[_Missing]:
    missing = []
    for start in range(0, len(contents), ASKED_AT_ONCE):
        page = contents[start : start + ASKED_AT_ONCE]
        request = file_pb2.FindMissingRequest(
            contents=[file_pb2.Content(sha256=one.sha256, size=one.size) for one in page]
        )
        for lacking in client.call(client.files.FindMissing, request).missing:
            if lacking.index >= len(page) or lacking.offset > page[lacking.index].size:
                raise ClientError("the core asks for a content that it was not told of")
            missing.append((page[lacking.index], lacking.offset))
    return missing


def _send(client: Client, missing: Sequence[_Missing], report: Report) -> None:
    sending = _Sending(missing, report)
    # As a future, so that a Ctrl-C ends the call and the thread that feeds it.
    call = client.files.Upload.future(iter(sending))
    try:
        call.result()
    except grpc.RpcError as error:
        if sending.failed is None:
            failed = client.failure(error)
            if failed.reason == "DIGEST_MISMATCH":
                raise InputChanged(
                    f"what arrived is not what was read: {failed}; submit again when nothing "
                    "writes to the input files"
                ) from None
            raise failed from None
    except BaseException:
        call.cancel()
        raise
    if sending.failed is not None:
        raise sending.failed


class _Sending:
    """The messages of one stream: many small contents in one, a large one in many.

    grpc takes them in a thread of its own and would print what is raised there, so an error is kept
    in `failed`, and the stream ends without the rest.
    """

    def __init__(self, missing: Sequence[_Missing], report: Report) -> None:
        self.failed: ClientError | None = None
        self._missing = missing
        self._report = report
        self._sent_bytes = 0
        self._sent_files = 0
        self._total_bytes = sum(content.size - offset for content, offset in missing)

    def __iter__(self) -> Iterator[file_pb2.UploadRequest]:
        self._begin()
        try:
            for content, offset in self._missing:
                yield from self._content(content, offset)
                self._sent_files += 1
        except ClientError as error:
            self.failed = error
            return
        except OSError as error:
            self.failed = InputChanged(
                f"{error.filename}: can't be read any more: {error.strerror}"
            )
            return
        if self._request.pieces:
            yield self._flushed()

    def _begin(self) -> None:
        self._request = file_pb2.UploadRequest()
        self._room = MESSAGE_BYTES

    def _flushed(self) -> file_pb2.UploadRequest:
        request = self._request
        self._begin()
        self._report(
            Progress(
                "uploading",
                self._sent_bytes,
                self._total_bytes,
                self._sent_files,
                len(self._missing),
            )
        )
        return request

    def _content(self, content: Content, offset: int) -> Iterator[file_pb2.UploadRequest]:
        if not content.path:
            while True:  # ends with the data
                piece = content.data[offset : offset + self._take(content.size - offset)]
                self._add(content, offset, piece)
                offset += len(piece)
                if self._room <= 0:
                    yield self._flushed()
                if offset == content.size:
                    return
        with open_input(content.path) as file:
            told = os.fstat(file.fileno())
            if told.st_size != content.size or told.st_mtime_ns != content.modified_ns:
                raise changed(content.path)
            file.seek(offset)
            while True:  # ends with the file
                piece = file.read(self._take(content.size - offset))
                self._add(content, offset, piece)
                offset += len(piece)
                if not piece and offset != content.size:
                    raise changed(content.path)
                if self._room <= 0:
                    yield self._flushed()
                if offset == content.size:
                    return

    def _take(self, left: int) -> int:
        return min(left, max(self._room - _PIECE_BYTES, 1))

    def _add(self, content: Content, offset: int, data: bytes) -> None:
        self._request.pieces.add(
            sha256=content.sha256,
            offset=offset,
            data=data,
            last=offset + len(data) == content.size,
        )
        self._room -= len(data) + _PIECE_BYTES
        self._sent_bytes += len(data)
