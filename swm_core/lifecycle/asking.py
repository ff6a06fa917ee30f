"""Ask a gate until it answers something certain.

Whatever says nothing certain (a dead link, a deadline, a gate that is starting) is asked again with
backoff; what is certain becomes an answer or an `AttemptFailed`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from skyport.gate.v1 import types_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.gateways import convert
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.lifecycle.context import Context
from swm_core.store import Root

T = TypeVar("T")

_AGAIN_MOST_S = 60.0
_MOST_ROOTS = 10_000
_ROOT_CHARS = 500

_FAILURES = {
    "USER_NOT_MAPPED": FailureReason.USER_NOT_MAPPED,
    "IMAGE_NOT_FOUND": FailureReason.IMAGE_UNAVAILABLE,
    "IMAGE_AUTH": FailureReason.IMAGE_UNAVAILABLE,
    "DISK_FULL": FailureReason.STAGING_FAILED,
    "DIGEST_MISMATCH": FailureReason.STAGING_FAILED,
    "INPUTS_MISSING": FailureReason.STAGING_FAILED,
}


class AttemptFailed(Exception):
    """The attempt cannot go on.

    Args:
        failure: Why.
        unsure: Whether something of it may run: the site has to confirm that nothing does.
    """

    def __init__(self, failure: Failure, *, unsure: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.unsure = unsure


class Asker:
    """Asks one gate about one attempt.

    Args:
        context: The core's parts.
        gate: Whom to ask.
        job_id: The job, for its text while nothing certain comes.
    """

    def __init__(self, context: Context, gate: Gate, job_id: str) -> None:
        self._context = context
        self._gate = gate
        self._job_id = job_id

    def ref(self, job: Job) -> types_pb2.JobRef:
        """Which attempt, with the roots that are known."""
        return convert.job_ref(
            job,
            self._context.installation,
            self._context.store.roots.of(job.site, job.partition_id, job.owner),
            queue=self._gate.chooses_nodes(job.partition_id),
        )

    async def keep_roots(self, job: Job, roots: Iterable[types_pb2.SiteRoot]) -> None:
        """Remember the roots that the gate told, to be sent back with every later call."""
        store = self._context.store.roots
        known = {root.node for root in store.of(job.site, job.partition_id, job.owner)}
        new = [
            Root(job.site, job.partition_id, root.node, job.owner, root.root_uid)
            # No more than a job can have nodes, and each as the contract has it.
            for root in itertools.islice(roots, _MOST_ROOTS)
            if root.node not in known and len(root.node) + len(root.root_uid) <= _ROOT_CHARS
        ]
        if new:
            await store.put(new)

    async def ask(
        self,
        job: Job,
        what: str,
        call: Callable[[types_pb2.JobRef], Awaitable[T]],
        *,
        gone_fails: bool = False,
    ) -> T:
        """The answer of `call`.

        Args:
            job: Which, as it was when this began; its place does not change meanwhile.
            what: What the gate is to do, for people: "start it".
            call: Makes one try; raises GateError when it does not succeed.
            gone_fails: Whether the attempt's own NOT_FOUND means that its end is lost; without
                this it is raised.

        Raises:
            AttemptFailed: The gate refused for good.
            GateError: The object is gone.
        """
        backoff = Backoff(most_s=_AGAIN_MOST_S)
        while True:
            if not self._gate.ready:
                await self._say(
                    f"waiting for site {self._gate.name}, to {what}: "
                    f"{self._gate.message or 'it does not answer'}"
                )
                await self._gate.wait_ready()
            try:
                return await call(self.ref(job))
            except GateError as error:
                self._judge(error, job, what, gone_fails=gone_fails)
                wait_s = backoff.next(error.problem.retry_after_s)
                if wait_s > 1:
                    await self._say(f"site {job.site} could not {what} yet: {error.message}")
                await asyncio.sleep(wait_s)

    async def ask_anew(
        self, job: Job, what: str, call: Callable[[types_pb2.JobRef], Awaitable[T]]
    ) -> T:
        """As `ask`, of what is begun anew where the site has lost the attempt.

        Raises:
            AttemptFailed: The gate refused for good, or the partition is gone.
        """
        backoff = Backoff(first_s=0.5, most_s=_AGAIN_MOST_S)
        while True:
            try:
                return await self.ask(job, what, call)
            except GateError as error:
                if error.reason != "JOB_NOT_FOUND":
                    raise AttemptFailed(self._gone(error, job)) from error
                await asyncio.sleep(backoff.next())

    def _judge(self, error: GateError, job: Job, what: str, *, gone_fails: bool) -> None:
        """Raise what is certain."""
        if error.attempt_is_gone(dynamic=self._is_dynamic(job)):
            if not gone_fails:
                raise error
            raise AttemptFailed(self._gone(error, job)) from error
        text = f"site {job.site} did not {what}: {error.message}"
        # Of a partition it would mean: elsewhere. What a job runs in is not had elsewhere either.
        if error.meaning is Meaning.REFUSED or error.reason == "IMAGE_NOT_FOUND":
            reason = _FAILURES.get(error.reason, FailureReason.INVALID)
            raise AttemptFailed(Failure(reason, text)) from error
        if error.meaning is Meaning.NO_ROOM:
            failure = Failure(FailureReason.NO_CAPACITY, text, retryable=True)
            raise AttemptFailed(failure) from error

    def _is_dynamic(self, job: Job) -> bool:
        return self._context.store.partitions.get(job.partition_id) is not None

    def _gone(self, error: GateError, job: Job) -> Failure:
        """What it means for the attempt that it is gone: alone, or with its partition."""
        if error.reason == "PARTITION_NOT_FOUND":
            partition = self._context.store.partitions.get(job.partition_id)
            failure = partition and partition.failure
            if failure and failure.reason is FailureReason.PREEMPTED:
                return failure
            text = f"partition {job.partition_id}, which it was on, is gone from site {job.site}"
            return Failure(FailureReason.NODE_FAIL, text, retryable=True)
        text = f"site {job.site} has nothing left of the attempt that tells how it ended"
        return Failure(FailureReason.END_UNKNOWN, text)

    async def _say(self, text: str) -> None:
        job = self._context.jobs.get(self._job_id)
        if job is not None and job.text != text:
            await self._context.jobs.note(self._job_id, text)
