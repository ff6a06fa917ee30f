"""The fake core's FileService."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator

import grpc

from rpc_kit.errors import data_loss, not_found, out_of_range
from skyport.terminal.v1 import file_pb2, file_pb2_grpc
from tests.client.fake_call import CutError, handler
from tests.client.fake_core import State


class Files(file_pb2_grpc.FileServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    @handler
    def FindMissing(
        self, request: file_pb2.FindMissingRequest, context: grpc.ServicerContext
    ) -> file_pb2.FindMissingResponse:
        assert len(request.contents) <= 10_000
        return file_pb2.FindMissingResponse(
            missing=[
                file_pb2.MissingContent(
                    index=index, offset=len(self.state.partial.get(content.sha256, b""))
                )
                for index, content in enumerate(request.contents)
                if content.sha256 not in self.state.contents
            ]
        )

    @handler
    def Upload(
        self, request_iterator: Iterator[file_pb2.UploadRequest], context: grpc.ServicerContext
    ) -> file_pb2.UploadResponse:
        state = self.state
        breaks = state.faults.upload_breaks_after
        left = breaks.pop(0) if breaks else -1
        made = received = 0
        if state.faults.upload_refusal:
            raise state.faults.upload_refusal
        for request in request_iterator:
            if left == 0:
                raise CutError
            left -= 1
            size = sum(len(piece.data) for piece in request.pieces)
            assert size <= 1 << 20, size
            assert request.pieces, "an empty message"
            state.upload_messages.append(len(request.pieces))
            received += size
            state.received_bytes += size
            for piece in request.pieces:
                data = state.partial.setdefault(piece.sha256, b"")
                if piece.offset != len(data):
                    raise out_of_range("OFFSET", f"expected {len(data)}, not {piece.offset}")
                data += piece.data
                state.partial[piece.sha256] = data
                if piece.last:
                    del state.partial[piece.sha256]
                    if hashlib.sha256(data).digest() != piece.sha256:
                        raise data_loss("DIGEST_MISMATCH", "a content has another digest")
                    state.contents[piece.sha256] = data
                    made += 1
        return file_pb2.UploadResponse(contents=made, received_bytes=received)

    @handler
    def ListOutputs(
        self, request: file_pb2.ListOutputsRequest, context: grpc.ServicerContext
    ) -> file_pb2.ListOutputsResponse:
        job = self.state.job(request.job_id)
        files = sorted(
            self.state.listed.get(job.job_id, []), key=lambda one: one.entry.path.encode()
        )
        unmatched = [
            pattern
            for pattern in request.patterns
            if not any(fnmatch.fnmatch(file.entry.path, pattern) for file in files)
        ]
        if request.patterns:
            files = [
                file
                for file in files
                if any(fnmatch.fnmatch(file.entry.path, pattern) for pattern in request.patterns)
            ]
        start = int(request.page_token or 0)
        end = start + 7  # small, so that tests see pages
        return file_pb2.ListOutputsResponse(
            files=files[start:end],
            next_page_token=str(end) if end < len(files) else "",
            skipped=[] if start else self.state.skipped.get(job.job_id, []),
            unmatched_patterns=[] if start else unmatched,
            collected=job.outputs_collected,
        )

    @handler
    def Download(
        self, request: file_pb2.DownloadRequest, context: grpc.ServicerContext
    ) -> Iterator[file_pb2.DownloadResponse]:
        state = self.state
        breaks = state.faults.download_breaks_after
        left = breaks.pop(0) if breaks else -1
        held = state.outputs.get(request.job_id, {})
        for index, cursor in enumerate(request.files):
            if cursor.path not in held:
                raise not_found("OUTPUT_NOT_FOUND", f"there is no output {cursor.path}")
            data = held[cursor.path]
            digest = hashlib.sha256(data).digest()
            listed = next(
                file for file in state.listed[request.job_id] if file.entry.path == cursor.path
            )
            same = (
                cursor.sha256 == digest
                if listed.entry.sha256
                else (cursor.size, cursor.modify_time) == (listed.entry.size, listed.modify_time)
            )
            offset = cursor.offset if same else 0
            while True:
                if left == 0:
                    raise CutError
                left -= 1
                chunk = data[offset : offset + 65536]
                if state.faults.corrupt_downloads and chunk:
                    state.faults.corrupt_downloads -= 1
                    chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
                piece = file_pb2.DownloadPiece(index=index, offset=offset, data=chunk)
                offset += len(chunk)
                if offset == len(data):
                    piece.end.size = len(data)
                    piece.end.sha256 = digest if listed.entry.sha256 else b""
                yield file_pb2.DownloadResponse(pieces=[piece])
                if offset == len(data):
                    break
