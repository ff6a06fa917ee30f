"""Streams what an attempt writes, while it writes it. It waits on the folder, not on the clock."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from gate_kit import errors
from gate_kit.output_streams import SentStream
from gate_kit.watches import heartbeat
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.inotify import FolderEvents
from gates.fake_gate.jobs import Jobs
from skyport.gate.v1 import job_pb2

_MESSAGE_BYTES = 1 << 20


class Output:
    """What ReadOutput does.

    Args:
        jobs: Tells whether an attempt has ended.
        events: Tells when a file has grown.
        incarnation: For heartbeats.
        heartbeat_s: Seconds of silence before one.
    """

    def __init__(
        self, jobs: Jobs, events: FolderEvents, incarnation: str, heartbeat_s: float
    ) -> None:
        self._jobs = jobs
        self._events = events
        self._incarnation = incarnation
        self._heartbeat_s = heartbeat_s

    async def read(
        self, attempt: Attempt, request: job_pb2.ReadOutputRequest
    ) -> AsyncGenerator[job_pb2.ReadOutputResponse, None]:
        """The answers to one checked call.

        Raises:
            Refusal: OFFSET past the end of a finished stream; JOB_NOT_FOUND once it is removed.
        """
        while not attempt.exists:
            # It may not have been staged yet; one with a tombstone never will be.
            if not request.follow or self._jobs.evidence.site.is_buried(attempt.key):
                raise errors.job_not_found(request.ref)
            if not await self._jobs.bells.heard(attempt.key, self._heartbeat_s):
                yield self._heartbeat()
        streams = [_Stream(cursor) for cursor in request.cursors]
        try:
            with self._events.watch(attempt.folder) as changed:
                while streams:
                    changed.clear()
                    # In this order: what was written before the end is there after it.
                    status = self._jobs.evidence.status(attempt)
                    if status is None:
                        raise errors.job_not_found(request.ref)
                    has_ended = status.HasField("end")
                    answer, is_more = await asyncio.to_thread(
                        _read, attempt, _nodes(attempt, status), streams, has_ended=has_ended
                    )
                    streams = [stream for stream in streams if not stream.is_done]
                    if answer.pieces or answer.ends:
                        yield answer
                    elif not request.follow:
                        return
                    elif not is_more and not await _within(changed, self._heartbeat_s):
                        yield self._heartbeat()
        finally:
            for stream in streams:
                stream.close()

    def _heartbeat(self) -> job_pb2.ReadOutputResponse:
        return job_pb2.ReadOutputResponse(heartbeat=heartbeat(self._incarnation))


class _Stream(SentStream):
    """One stream of one node, and how much of it was sent."""

    def __init__(self, cursor: job_pb2.OutputCursor) -> None:
        super().__init__(cursor)
        self._file: io.FileIO | None = None

    def read(self, folder: Path, nodes: Sequence[str], limit: int) -> bytes:
        """What comes next, at most `limit` bytes; empty while nothing does."""
        if self._file is None:
            first = nodes[0] if nodes else ""
            try:
                self._file = io.FileIO(folder / self.file_name(first))
            except FileNotFoundError:
                return b""
            self._file.seek(self.offset)
        return self._file.read(limit) or b""

    @property
    def size(self) -> int:
        """How long it is now, in bytes."""
        return self._file.seek(0, io.SEEK_END) if self._file is not None else 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(
    attempt: Attempt, nodes: Sequence[str], streams: Sequence[_Stream], *, has_ended: bool
) -> tuple[job_pb2.ReadOutputResponse, bool]:
    """The next message, and whether a stream may have more at once."""
    answer = job_pb2.ReadOutputResponse()
    share = _MESSAGE_BYTES // len(streams)
    is_more = False
    for stream in streams:
        data = stream.read(attempt.folder, nodes, share)
        if data:
            answer.pieces.append(stream.send(data))
        if len(data) == share:
            is_more = True
        elif has_ended:
            answer.ends.append(stream.finish(stream.size))
            stream.close()
    return answer, is_more


def _nodes(attempt: Attempt, status: job_pb2.JobStatus) -> Sequence[str]:
    return list(status.ref.nodes) or attempt.placement()


async def _within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
