"""Bring what an attempt writes into the spool, while it writes.

So an eviction or a lost site costs seconds of output, not all of it, and the same bytes can be read
after the machines are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import NamedTuple

import grpc.aio

from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.domain.job import Job, Launch
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import Meaning
from swm_core.gateways.watching import heard
from swm_core.lifecycle.asking import Asker
from swm_core.lifecycle.context import Context
from swm_core.spool import LogEnd, LogKind, LogMirror, SpoolRefusal, finish_together

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 60
_SHA256_BYTES = 32
_LOST = (Meaning.GONE, Meaning.REFUSED)

KINDS = {
    job_pb2.OUTPUT_KIND_STDOUT: LogKind.STDOUT,
    job_pb2.OUTPUT_KIND_STDERR: LogKind.STDERR,
}


class _Defective(Exception):
    """A gate told of output that cannot be."""


class Stream(NamedTuple):
    """One stream of one node; the node is empty for the first."""

    node: str
    kind: job_pb2.OutputKind.ValueType


class OutputMirror:
    """Mirrors one attempt.

    Args:
        context: The core's parts.
        gate: The attempt's.
        job: The job, with its place.
        asker: Names the attempt to the gate.
    """

    def __init__(self, context: Context, gate: Gate, job: Job, asker: Asker) -> None:
        self._gate = gate
        self._job = job
        self._asker = asker
        nodes = [""]
        if job.spec.launch is Launch.EVERY:
            nodes += [allocation.node for allocation in job.allocations[1:]]
        self._open: dict[Stream, LogMirror] = {
            Stream(node, kind): context.spool.log(
                job.owner, job.job_id, job.attempt, node, KINDS[kind]
            )
            for node in nodes
            for kind in KINDS
        }
        self._mirrors = list(self._open.values())
        self._sync = context.spool.sync

    async def run(self) -> None:
        """Returns when every stream is complete and durable, or there is nothing more to have."""
        backoff = Backoff(most_s=15.0)
        while self._open:
            await self._gate.wait_ready()
            ref = self._asker.ref(self._job)
            try:
                await self._read(ref)
                backoff.reset()
            except grpc.aio.AioRpcError as error:
                problem = self._gate.problem(error, ref)
                if problem.meaning in _LOST or problem.reason == "OFFSET":
                    log.warning("the rest of the output is lost: %s", problem.message)
                    await self._finish_all()
            except _Defective as error:
                log.warning("the rest of the output is lost: %s", error)
                await self._finish_all()
            except TimeoutError:
                pass  # a silent stream: asked again from where it was
            except (OSError, SpoolRefusal) as error:
                # A full disk may get room; who waits for the end of this has a deadline.
                log.warning("output cannot be kept: %s; again soon", error)
            if self._open:
                await asyncio.sleep(backoff.next())
        if any(mirror.size for mirror in self._mirrors):
            await self._sync()

    async def _read(self, ref: types_pb2.JobRef) -> None:
        request = job_pb2.ReadOutputRequest(
            ref=ref,
            cursors=[
                job_pb2.OutputCursor(node=stream.node, kind=stream.kind, offset=mirror.size)
                for stream, mirror in self._open.items()
            ],
            follow=True,
        )
        async for answer in heard(self._gate.jobs.ReadOutput(request)):
            if answer.pieces or answer.ends:
                self._gate.reached(ref)
            cursors = [*(piece.at for piece in answer.pieces), *(end.at for end in answer.ends)]
            for cursor in cursors:
                if cursor.offset > _MOST_BYTES:
                    raise _Defective(f"its gate tells of output at byte {cursor.offset}")
            for piece in answer.pieces:
                if mirror := self._open.get(Stream(piece.at.node, piece.at.kind)):
                    await mirror.append(piece.at.offset, piece.data)
            ends = {}
            for end in answer.ends:
                stream = Stream(end.at.node, end.at.kind)
                if mirror := self._open.get(stream):
                    is_digest = len(end.sha256) == _SHA256_BYTES
                    sha256 = end.sha256 if is_digest else b""
                    ends[stream] = (mirror, LogEnd(end.at.offset, sha256))
            await finish_together(list(ends.values()))
            for stream in ends:
                del self._open[stream]
            if not self._open:
                return

    async def _finish_all(self) -> None:
        while self._open:
            _, mirror = self._open.popitem()
            await mirror.finish(mirror.size, b"")


class Mirroring:
    """The task that mirrors one attempt, from when there may be something to read.

    Args:
        context: The core's parts.
        gate: The attempt's.
        asker: Names the attempt to the gate.
    """

    def __init__(self, context: Context, gate: Gate, asker: Asker) -> None:
        self._context = context
        self._gate = gate
        self._asker = asker
        self._task: asyncio.Task[None] | None = None

    def begin(self, job: Job) -> asyncio.Task[None]:
        """The task; begun here unless it is under way, and anew if it broke."""
        if self._task is None or (self._task.done() and self._task.exception() is not None):
            mirror = OutputMirror(self._context, self._gate, job, self._asker)
            self._task = asyncio.create_task(mirror.run())
        return self._task

    async def wait(self, most_s: float) -> None:
        """Wait until it has all, if it was begun; for `most_s` seconds at most."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), most_s)

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
