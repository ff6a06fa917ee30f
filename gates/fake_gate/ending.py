"""The end of attempts: cancelled for good, removed without a trace, or ended by the site itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gate_kit import Operations, Refusal, errors, job_status, launching
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import placing, processes
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.site import discard
from skyport.gate.v1 import job_pb2, types_pb2

_ROUND_S = 0.05


class Ending:
    """Ends and removes attempts.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the mutations.
    """

    def __init__(self, jobs: Jobs, operations: Operations) -> None:
        self.on_cancel: list[Callable[[AttemptPath, Refusal], Awaitable[None]]] = []
        """Awaited when an attempt has its tombstone: ends what is under way for it."""
        self._jobs = jobs
        self._site = jobs.evidence.site
        self._evidence = jobs.evidence
        self._operations = operations
        self._hurried: dict[AttemptPath, asyncio.Event] = {}

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        """Make sure that nothing of the attempt runs, now or later.

        Args:
            ref: Which.
            grace_s: Seconds between TERM and KILL; None means the spec's. Less than what a cancel
                under way has left cuts it short.
        """
        attempt = self._evidence.locate(ref)
        key = attempt.key
        # The tombstone first, then what is under way: it must not hold up what ends it.
        self._site.bury(key)
        refusal = errors.job_cancelled(ref)
        self._operations.interrupt(refusal, "start", key)
        for end in self.on_cancel:
            await end(key, refusal)
        self._jobs.bells.ring(key)
        if grace_s is not None and key in self._hurried:
            asyncio.get_running_loop().call_later(grace_s, self._hurried[key].set)
        return await self._operations.run(
            ("cancel", key), lambda: self._cancel(attempt, grace_s), on=key
        )

    async def _cancel(self, attempt: Attempt, grace_s: float | None) -> job_pb2.JobStatus | None:
        await self._jobs.inside("CancelJob", attempt)
        if not attempt.exists:
            return None
        spec = attempt.spec()
        if spec is not None:
            nodes = attempt.nodes(spec)
            for node in nodes:
                if attempt.claim_instead(node):
                    attempt.write_end(node, job_status.CANCELLED, started=False)
                else:
                    attempt.judge(node, job_status.CANCELLED)
            for private in attempt.folder.glob("private*"):
                private.unlink(missing_ok=True)
            if grace_s is None:
                grace_s = launching.grace_s(spec.spec)
            hurry = self._hurried[attempt.key] = asyncio.Event()
            try:
                await self._stop(attempt, nodes, grace_s, hurry)
            finally:
                del self._hurried[attempt.key]
        status = self._jobs.publish(attempt)
        self._jobs.tell_ended(attempt)
        return status

    async def _stop(
        self, attempt: Attempt, nodes: Sequence[str], grace_s: float, hurry: asyncio.Event
    ) -> None:
        """End all processes of the attempt, and wait for the runners to write the ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while True:
            rest = max(deadline - loop.time(), 0.0)
            await processes.stop(lambda: self._evidence.alive(attempt, nodes), rest, hurry=hurry)
            runners = {
                c.pid
                for n in nodes
                if (c := attempt.claim(n)) and c.is_alive(self._evidence.boot_id)
            }
            if not runners:
                return
            # One that has claimed and not started the script yet does so now, and is found in the
            # next round; one whose script has ended writes that down and goes.
            await processes.wait_gone(runners, _ROUND_S)

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt, and leave a tombstone.

        Raises:
            Refusal: JOB_RUNNING.
        """
        attempt = self._evidence.locate(ref)
        for end in self.on_cancel:
            await end(attempt.key, errors.job_cancelled(ref))
        await self._operations.run(
            ("remove", attempt.key), lambda: self._remove(attempt, ref), on=attempt.key
        )

    async def _remove(self, attempt: Attempt, ref: types_pb2.JobRef) -> None:
        status = self._evidence.status(attempt)
        if status and not status.HasField("end") and status.state != job_pb2.JOB_STATE_STAGED:
            raise errors.job_running(ref)
        self._site.bury(attempt.key)
        self._jobs.bells.ring(attempt.key)
        await self._jobs.inside("RemoveJob", attempt)
        if not attempt.exists:
            return
        spec = attempt.spec()
        nodes = attempt.nodes(spec) if spec else []
        for node in nodes:
            # A runner that nobody knew of may have claimed at the last moment.
            claim = None if attempt.claim_instead(node) else attempt.claim(node)
            if claim and claim.is_alive(self._evidence.boot_id):
                raise errors.job_running(ref)
        processes.kill(self._evidence.alive(attempt, nodes))
        await asyncio.to_thread(self._discard, attempt)

    def _discard(self, attempt: Attempt) -> None:
        placing.take_back(attempt)
        discard(attempt.folder)

    async def end_all(self, partition_id: str, reason: str, *, node: str = "") -> None:
        """End what runs in a partition, or on one node of it, that goes away."""
        for key in list(self._site.attempts(partition_id=partition_id)):
            attempt = self._evidence.attempt(key)
            try:
                await self.end_from_outside(attempt, reason, node=node)
            except FileNotFoundError:
                if attempt.exists:  # otherwise it was removed meanwhile: nothing of it runs
                    raise

    async def end_from_outside(self, attempt: Attempt, reason: str, *, node: str = "") -> None:
        """End an attempt as a site does to it, on all of its nodes or on one."""
        spec = attempt.spec()
        if spec is None:
            return
        nodes = [name for name in attempt.nodes(spec) if node in {"", name}]
        for name in nodes:
            attempt.judge(name, reason)
            attempt.claim_instead(name)
            claim = attempt.claim(name)
            if reason == job_status.NODE_FAIL and claim and claim.is_alive(self._evidence.boot_id):
                processes.kill([claim.pid])
        await self._stop(attempt, nodes, 0.0, asyncio.Event())
        self._jobs.publish(attempt)
