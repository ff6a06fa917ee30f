"""ReadOutput: what a job writes, live from the mirror, and the same bytes afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from rpc_kit.errors import invalid, not_found, out_of_range
from skyport.terminal.v1 import job_pb2, types_pb2
from swm_core.domain.job import Job, Launch
from swm_core.domain.states import JobState
from swm_core.lifecycle.context import Context
from swm_core.spool import CHUNK_BYTES, LogKind, LogMirror
from swm_core.terminal import convert
from swm_core.terminal.access import Access

_HEARTBEAT_S = 15.0

_KINDS = {
    job_pb2.OUTPUT_KIND_STDOUT: LogKind.STDOUT,
    job_pb2.OUTPUT_KIND_STDERR: LogKind.STDERR,
}


class OutputReader:
    """Reads logs for callers. One call reads one attempt."""

    def __init__(self, context: Context, access: Access) -> None:
        self._context = context
        self._access = access

    async def read(
        self, request: job_pb2.ReadOutputRequest
    ) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        """The answers to one call.

        Raises:
            Refusal: With the reasons of the table of ReadOutput in protos/README.md.
        """
        job = self._access.job(request.job_id)
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise invalid("kind must be STDOUT or STDERR", field="kind", reason="FIELD_REQUIRED")
        if request.attempt > job.attempt:
            raise not_found(
                "ATTEMPT_NOT_FOUND",
                f"job {job.job_id} has no attempt {request.attempt}; its latest is {job.attempt}",
            )
        attempt = request.attempt or job.attempt
        while not attempt:
            if not request.follow or job.state.terminal:
                yield job_pb2.ReadOutputResponse(end=job_pb2.OutputEnd())
                return
            async for beat in self._until_placed(job):
                yield beat
            job = self._access.job(request.job_id)
            attempt = job.attempt
        mirror = self._mirror(job, attempt, request.node, kind)
        offset = request.offset
        if request.tail_bytes:
            offset = max(0, mirror.size - request.tail_bytes)
        first = True
        async for answer in self._pieces(job, attempt, mirror, offset, follow=request.follow):
            if first:
                answer.attempt, first = attempt, False
            yield answer

    def _mirror(self, job: Job, attempt: int, node: str, kind: LogKind) -> LogMirror:
        allocations = job.allocations if attempt == job.attempt else ()
        if not allocations and (earlier := self._context.store.attempts.get(job.job_id, attempt)):
            allocations = earlier.allocations
        nodes = [allocation.node for allocation in allocations]
        if nodes and node == nodes[0]:
            node = ""
        # Only nodes that run the script write; with `launch first` that is the first.
        known = nodes if job.spec.launch is Launch.EVERY else nodes[:1]
        if node and node not in known:
            raise not_found(
                "NODE_NOT_FOUND",
                f"node {node[:60]} does not run the script of job {job.job_id}; these do: "
                + (", ".join(known) or "none yet"),
            )
        return self._context.spool.log(job.owner, job.job_id, attempt, node, kind)

    async def _pieces(
        self, job: Job, attempt: int, mirror: LogMirror, offset: int, *, follow: bool
    ) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        if mirror.end is not None and offset > mirror.end.size:
            raise out_of_range(
                "OFFSET",
                f"offset {offset} is past the end at {mirror.end.size} bytes; there is no more",
                offset=str(mirror.end.size),
            )
        while True:
            # Before it is read: what comes meanwhile is no reason to wait for more.
            seen, is_closed = mirror.size, mirror.closed
            while (piece := mirror.read(offset, CHUNK_BYTES)) is not None:
                offset = piece.offset + len(piece.data)
                yield job_pb2.ReadOutputResponse(offset=piece.offset, data=piece.data)
            if mirror.end is not None:
                end = job_pb2.OutputEnd(size=mirror.end.size, sha256=mirror.end.sha256)
                yield job_pb2.ReadOutputResponse(offset=mirror.end.size, end=end)
                return
            if not follow or is_closed or self._over(job, attempt):
                if not follow:
                    yield job_pb2.ReadOutputResponse(offset=offset)
                else:
                    yield job_pb2.ReadOutputResponse(
                        offset=offset, end=job_pb2.OutputEnd(size=mirror.size)
                    )
                return
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    # Of what was seen some may be lost: it had no room, or its disk is gone.
                    await mirror.grown(max(offset, seen))
            except TimeoutError:
                yield job_pb2.ReadOutputResponse(offset=offset, heartbeat=_beat())

    def _over(self, job: Job, attempt: int) -> bool:
        """Whether nothing will be written to the attempt's logs any more."""
        now = self._context.jobs.get(job.job_id)
        return now is None or now.attempt != attempt or now.state is JobState.QUEUED

    async def _until_placed(self, job: Job) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        """Heartbeats until the job has its first attempt, or has ended."""
        with self._context.store.journal.subscribe(
            job.last_sequence, job_ids=[job.job_id]
        ) as changes:
            while True:
                now = self._context.jobs.get(job.job_id)
                if now is None or now.attempt:
                    return
                try:
                    async with asyncio.timeout(_HEARTBEAT_S):
                        await changes.next()
                    # Watchers are told before the one who wrote: its turn comes first.
                    await asyncio.sleep(0)
                except TimeoutError:
                    yield job_pb2.ReadOutputResponse(heartbeat=_beat())


def _beat() -> types_pb2.Heartbeat:
    return types_pb2.Heartbeat(time=convert.timestamp(time.time()))
