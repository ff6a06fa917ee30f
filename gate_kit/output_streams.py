"""How much of each stream of a job's output one ReadOutput has sent: the same for every gate."""

from __future__ import annotations

import hashlib
from typing import Any

from gate_kit import errors
from skyport.gate.v1 import job_pb2

_NAMES = {job_pb2.OUTPUT_KIND_STDOUT: "stdout", job_pb2.OUTPUT_KIND_STDERR: "stderr"}


class SentStream:
    """One stream of one node, from where the caller wants it.

    Args:
        cursor: Where that is.
    """

    def __init__(self, cursor: job_pb2.OutputCursor) -> None:
        self.offset = cursor.offset
        """Where what was not sent yet begins."""
        self.is_done = False
        """Whether its end was sent."""
        self._cursor = cursor
        # Only of the whole is there a digest to tell.
        self._digest: Any = None if cursor.offset else hashlib.sha256()

    def file_name(self, first: str) -> str:
        """What the runner calls the stream's file.

        Args:
            first: The node of rank 0, which is meant where the caller names none.
        """
        return self.file_of(self._cursor.node or first)

    def file_of(self, node: str) -> str:
        """What the runner calls the stream's file on what it calls `node`."""
        return f"{_NAMES[self._cursor.kind]}.{node}"

    def send(self, data: bytes) -> job_pb2.OutputPiece:
        """What comes next, as it is told; the stream goes on behind it."""
        piece = job_pb2.OutputPiece(at=self._at(), data=data)
        self.offset += len(data)
        if self._digest is not None:
            self._digest.update(data)
        return piece

    def finish(self, size: int) -> job_pb2.OutputEnd:
        """The end of the stream, all of which was sent.

        Args:
            size: Of the whole stream, in bytes.

        Raises:
            Refusal: OFFSET: it is shorter than where the caller began.
        """
        if self.offset > size:
            raise errors.offset_out_of_range(
                f"the stream has {size} bytes, not {self.offset}", expected=size
            )
        self.is_done = True
        digest = self._digest.digest() if self._digest is not None else b""
        return job_pb2.OutputEnd(at=self._at(), sha256=digest)

    def _at(self) -> job_pb2.OutputCursor:
        cursor = self._cursor
        return job_pb2.OutputCursor(node=cursor.node, kind=cursor.kind, offset=self.offset)
