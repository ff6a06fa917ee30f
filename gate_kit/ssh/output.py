"""Streams what an attempt writes on hosts, while it writes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from gate_kit import errors
from gate_kit.bells import Bell, Bells
from gate_kit.output_streams import SentStream
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.growth import Growths
from gate_kit.ssh.host import Host
from gate_kit.ssh.layout import AttemptKey
from gate_kit.watches import HEARTBEAT_S, heartbeat
from skyport.gate.v1 import job_pb2, types_pb2

_INLINE_BYTES = 1 << 17
"""More than that at once would hold up what else is asked of the host."""
_CHUNK_BYTES = 1 << 18


class Attempts(Protocol):
    """What a site tells of attempts."""

    @property
    def bells(self) -> Bells:
        """Rung, by keys, when an attempt has changed."""
        ...

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is there."""
        ...

    def just_seen(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """How an attempt that goes on was seen a moment ago; None: it has to be asked for."""
        ...

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        """Whether the attempt has a tombstone."""
        ...

    def place(self, status: job_pb2.JobStatus, node: str) -> tuple[Host, str]:
        """Where what a node writes lies, and what stands for the node in names of files there.

        Args:
            status: The attempt as it is.
            node: One of its nodes; empty is the one of rank 0.
        """
        ...


class Output:
    """What ReadOutput does.

    Args:
        jobs: Tells whether an attempt has ended.
        incarnation: For heartbeats.
        heartbeat_s: Seconds of silence before one.
    """

    def __init__(self, jobs: Attempts, incarnation: str, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._jobs = jobs
        self._growths = Growths()
        self._incarnation = incarnation
        self._heartbeat_s = heartbeat_s

    async def close(self) -> None:
        """Follow no more."""
        await self._growths.close()

    async def read(
        self, request: job_pb2.ReadOutputRequest
    ) -> AsyncGenerator[job_pb2.ReadOutputResponse, None]:
        """The answers to one checked call.

        Raises:
            Refusal: OFFSET past the end of a finished stream; JOB_NOT_FOUND once it is removed;
                NODE_UNREACHABLE, SITE_CHANGED, USER_NOT_MAPPED, PARTITION_NOT_FOUND.
        """
        ref = request.ref
        key = AttemptKey.of(ref)
        bell = Bell()
        async with contextlib.AsyncExitStack() as stack:
            # Before it is looked at, so that no change falls between.
            stack.enter_context(self._jobs.bells.listening(key, bell))
            # Whoever was just told that it runs asks for its output at once.
            status = self._jobs.just_seen(ref) or await self._jobs.status(ref)
            while status is None:
                # It may not have been staged yet; one with a tombstone never will be.
                if not request.follow or await self._jobs.never_starts(ref):
                    raise errors.job_not_found(ref)
                if not await _any([bell], self._heartbeat_s):
                    yield self._heartbeat()
                bell.clear()
                status = await self._jobs.status(ref)
            streams = [
                _Stream(key, cursor, *self._jobs.place(status, cursor.node))
                for cursor in request.cursors
            ]
            changed: list[asyncio.Event] = []
            while streams:
                for event in changed:
                    event.clear()
                # In this order: what was written before the end is there after it.
                has_ended = status.HasField("end")
                is_more = False
                # Of what waits in a queue there is nothing yet, and a queue may be long.
                is_waiting = request.follow and status.state == job_pb2.JOB_STATE_QUEUED_AT_SITE
                if request.follow and not (changed or is_waiting or has_ended):
                    changed = [
                        stack.enter_context(self._growths.of(host).watch(sizes))
                        for host, sizes in _files(streams).items()
                    ]
                for host in {stream.host for stream in streams if not is_waiting}:
                    of_host = [stream for stream in streams if stream.host is host]
                    async for answer in self._read(ref, host, of_host, has_ended=has_ended):
                        is_more = True
                        yield answer
                streams = [stream for stream in streams if not stream.is_done]
                if not request.follow:
                    return
                if streams and not is_more and not await _any([bell, *changed], self._heartbeat_s):
                    yield self._heartbeat()
                if bell.is_set():
                    bell.clear()
                    told = await self._changed(ref, bell)
                    if told is None:
                        raise errors.job_not_found(ref)
                    status = told

    async def _read(
        self,
        ref: types_pb2.JobRef,
        host: Host,
        streams: Sequence[_Stream],
        *,
        has_ended: bool,
    ) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        """What some streams of a host have more, and which of them are complete."""
        words = [word for stream in streams for word in (stream.file, str(stream.offset))]
        with as_refusals(ref):
            reply = await host.ask("read", str(_INLINE_BYTES), *words)
        answer = job_pb2.ReadOutputResponse()
        blobs = iter(reply.blobs)
        large = []
        for stream, line in zip(streams, reply.lines, strict=True):
            size = int(line)
            stream.known(size)
            if size > stream.offset:
                answer.pieces.append(stream.send(next(blobs)))
            if size > stream.offset:
                large.append((stream, size))
            elif has_ended:
                answer.ends.append(stream.finish(size))
        if answer.pieces or answer.ends:
            yield answer
        for stream, size in large:
            async for data in self._bulk(host, stream, size):
                yield job_pb2.ReadOutputResponse(pieces=[stream.send(data)])

    async def _bulk(self, host: Host, stream: _Stream, size: int) -> AsyncIterator[bytes]:
        process = await host.run("tail", stream.file, str(stream.offset), str(size - stream.offset))
        try:
            left = size - stream.offset
            while left:
                data = await process.stdout.readexactly(min(_CHUNK_BYTES, left))
                left -= len(data)
                yield data
        except asyncio.IncompleteReadError as error:
            # The job has cut its file; or the link is lost, as the next question will say.
            if error.partial:
                yield error.partial
        except OSError as error:
            text = f"the link to {host.node} was lost: {error}"
            raise errors.node_unreachable(host.node, text) from error
        finally:
            process.close()

    async def _changed(self, ref: types_pb2.JobRef, bell: Bell) -> job_pb2.JobStatus | None:
        """The attempt as it is, after its bell has rung."""
        if isinstance(bell.news, job_pb2.JobStatus):
            return bell.news
        return await self._jobs.status(ref)

    def _heartbeat(self) -> job_pb2.ReadOutputResponse:
        return job_pb2.ReadOutputResponse(heartbeat=heartbeat(self._incarnation))


class _Stream(SentStream):
    """One stream of one node, and how much of it was sent."""

    def __init__(
        self, key: AttemptKey, cursor: job_pb2.OutputCursor, host: Host, name: str
    ) -> None:
        super().__init__(cursor)
        self.host = host
        self.file = f"{key.path}/{self.file_of(name)}"
        self.sizes: dict[str, int] | None = None

    def known(self, size: int) -> None:
        """Note the size that the file has now."""
        if self.sizes is not None:
            self.sizes[self.file] = size

    def finish(self, size: int) -> job_pb2.OutputEnd:
        """As of every stream; its file is not watched any more."""
        end = super().finish(size)
        if self.sizes is not None:
            del self.sizes[self.file]
        return end


def _files(streams: Sequence[_Stream]) -> dict[Host, dict[str, int]]:
    """The files of each host, with the sizes that are known."""
    found: dict[Host, dict[str, int]] = {}
    for stream in streams:
        stream.sizes = found.setdefault(stream.host, {})
        stream.sizes[stream.file] = 0
    return found


async def _any(events: Sequence[asyncio.Event], timeout_s: float) -> bool:
    """Whether one of them was set in time."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
