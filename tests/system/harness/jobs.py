"""A job that a test has submitted: waiting for its events, reading what it wrote."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import grpc

from skyport.terminal.v1 import job_pb2
from tests.system.harness.files import File, Folder, Link, fetch
from tests.system.harness.waiting import WITHIN_S

if TYPE_CHECKING:
    from tests.system.harness.users import User

State: TypeAlias = job_pb2.JobState.ValueType

QUEUED = job_pb2.JOB_STATE_QUEUED
PROVISIONING = job_pb2.JOB_STATE_PROVISIONING
STAGING_IN = job_pb2.JOB_STATE_STAGING_IN
STARTING = job_pb2.JOB_STATE_STARTING
QUEUED_AT_SITE = job_pb2.JOB_STATE_QUEUED_AT_SITE
RUNNING = job_pb2.JOB_STATE_RUNNING
STAGING_OUT = job_pb2.JOB_STATE_STAGING_OUT
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
FAILED = job_pb2.JOB_STATE_FAILED
CANCELLED = job_pb2.JOB_STATE_CANCELLED
ENDS = frozenset({SUCCEEDED, FAILED, CANCELLED})

STDOUT = job_pb2.OUTPUT_KIND_STDOUT
STDERR = job_pb2.OUTPUT_KIND_STDERR


def name(state: State) -> str:
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


class JobHandle:
    """One job.

    Args:
        user: Who asks about it.
        job_id: Its id.
        token: A resume token that lies before all events that are of interest.
    """

    def __init__(self, user: User, job_id: str, token: str) -> None:
        self.user = user
        self.job_id = job_id
        self.token = token
        self.seen: list[job_pb2.JobEvent] = []
        """The events that were waited for or passed by, in order."""
        self._unread: collections.deque[job_pb2.JobEvent] = collections.deque()

    # Waiting.

    def until(self, *states: State, within_s: float = WITHIN_S) -> job_pb2.Job:
        """Wait until the job enters one of `states`, from the event on that was seen last.

        Returns:
            The job as it then is.

        Raises:
            AssertionError: It ends otherwise, or not in time; the text tells its whole story.
        """
        wanted = frozenset(states)

        def fits(event: job_pb2.JobEvent) -> bool:
            if event.kind != job_pb2.JOB_EVENT_KIND_STATE:
                return False
            if event.to_state in ENDS and event.to_state not in wanted:
                raise AssertionError(f"it has ended otherwise than as asked:\n{self.story()}")
            return event.to_state in wanted

        self.event(fits, " or ".join(map(name, states)), within_s=within_s)
        return self.get()

    def until_text(self, part: str, *, within_s: float = WITHIN_S) -> job_pb2.JobEvent:
        """Wait for an event whose message has `part` in it."""
        return self.event(lambda event: part in event.message, repr(part), within_s=within_s)

    def end(self, *, within_s: float = WITHIN_S) -> job_pb2.Job:
        """Wait until the job has ended, however, and return it with its attempts."""
        return self.until(*ENDS, within_s=within_s)

    def event(
        self,
        fits: Callable[[job_pb2.JobEvent], bool],
        what: str,
        *,
        within_s: float = WITHIN_S,
    ) -> job_pb2.JobEvent:
        """The next event that fits."""
        for event in self._events(within_s):
            self.seen.append(event)
            if fits(event):
                return event
        raise AssertionError(f"not within {within_s:g} s: {what}\n{self.story()}")

    def _events(self, within_s: float) -> Iterator[job_pb2.JobEvent]:
        """The events from where the last look ended, until time is up."""
        until = time.monotonic() + within_s
        while True:
            while self._unread:
                yield self._unread.popleft()
            request = job_pb2.WatchJobsRequest(job_ids=[self.job_id], resume_token=self.token)
            left_s = max(until - time.monotonic(), 0.01)
            call = self.user.jobs.WatchJobs(request, timeout=left_s, wait_for_ready=True)
            try:
                for answer in call:
                    self._unread.extend(answer.events)
                    self.token = answer.resume_token
                    while self._unread:
                        yield self._unread.popleft()
            except grpc.RpcError as error:
                # The core that was stopped comes back, or time is up.
                code = error.code()
                if code is grpc.StatusCode.DEADLINE_EXCEEDED or time.monotonic() > until:
                    return
                if code is not grpc.StatusCode.UNAVAILABLE:
                    raise
            finally:
                call.cancel()

    def story(self) -> str:
        """What happened to it, for people."""
        lines = [
            f"  {event.sequence} attempt {event.attempt} {name(event.to_state)} "
            f"{event.reason} {event.message}"
            for event in self.seen
        ]
        try:
            job = self.get()
            lines.append(f"  now {name(job.state)} {job.failure.reason} {job.text}")
            lines.append(f"  stderr: {self.output(STDERR)[-500:]!r}")
        except grpc.RpcError as error:
            lines.append(f"  now {error.code().name}: {error.details()}")
        return "\n".join([f"job {self.job_id}", *lines])

    @property
    def states(self) -> list[State]:
        """The states that were seen, in order."""
        return [e.to_state for e in self.seen if e.kind == job_pb2.JOB_EVENT_KIND_STATE]

    # Asking.

    def get(self) -> job_pb2.Job:
        return self.user.job(self.job_id)

    def cancel(self, *, force: bool = False) -> job_pb2.Job:
        request = job_pb2.CancelJobRequest(job_id=self.job_id, force=force)
        return self.user.jobs.CancelJob(request, timeout=30).job

    def requeue(self, secret_env: dict[str, str] | None = None) -> job_pb2.Job:
        request = job_pb2.RequeueJobRequest(job_id=self.job_id, secret_env=secret_env)
        answer = self.user.jobs.RequeueJob(request, timeout=30)
        self.token = answer.watch_token
        self._unread.clear()
        return answer.job

    def delete(self) -> None:
        self.user.jobs.DeleteJob(job_pb2.DeleteJobRequest(job_id=self.job_id), timeout=30)

    # What it wrote.

    def outputs(self) -> dict[str, File | Folder | Link]:
        """Its collected outputs, by path."""
        return fetch(self.user, self.job_id)

    def output(
        self,
        kind: job_pb2.OutputKind.ValueType = STDOUT,
        *,
        attempt: int = 0,
        node: str = "",
        offset: int = 0,
    ) -> bytes:
        """What is there of a stream, from an offset on."""
        request = job_pb2.ReadOutputRequest(
            job_id=self.job_id, kind=kind, attempt=attempt, node=node, offset=offset
        )
        return b"".join(answer.data for answer in self.user.jobs.ReadOutput(request, timeout=30))

    def follow(
        self,
        kind: job_pb2.OutputKind.ValueType = STDOUT,
        *,
        within_s: float = WITHIN_S,
        offset: int = 0,
    ) -> Iterator[job_pb2.ReadOutputResponse]:
        """The answers of a follower, live, until the stream ends or time is up (an error then)."""
        request = job_pb2.ReadOutputRequest(
            job_id=self.job_id, kind=kind, follow=True, offset=offset
        )
        call = self.user.jobs.ReadOutput(request, timeout=within_s, wait_for_ready=True)
        try:
            yield from call
        finally:
            call.cancel()

    def written(self, part: bytes, *, within_s: float = WITHIN_S) -> bytes:
        """Wait until the job has written `part`; returns all that it wrote until then."""
        data = b""
        for answer in self.follow(within_s=within_s):
            data += answer.data
            if part in data:
                return data
        raise AssertionError(f"it ended without writing {part!r}: {data[-500:]!r}\n{self.story()}")
