"""Somebody who watches all jobs of a user in one call, which is to outlive whatever comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

import grpc

from skyport.terminal.v1 import job_pb2
from tests.system.harness.jobs import SUCCEEDED, JobHandle
from tests.system.harness.users import User
from tests.system.harness.waiting import eventually


class Watcher:
    """Watches all jobs of a user, from now on.

    Args:
        user: Whose.
    """

    def __init__(self, user: User) -> None:
        token = user.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=30).watch_token
        self._call = user.jobs.WatchJobs(job_pb2.WatchJobsRequest(resume_token=token))
        self.ended: set[str] = set()
        """Jobs that it has told to have succeeded."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for answer in self._call:
                self.ended |= {e.job_id for e in answer.events if e.to_state == SUCCEEDED}

    def saw_the_ends_of(self, jobs: Iterable[JobHandle], *, within_s: float) -> None:
        """Wait until it has told that these have succeeded; then leave."""
        wanted = {job.job_id for job in jobs}
        eventually(lambda: wanted <= self.ended, "the watch told all ends", within_s=within_s)
        self._call.cancel()
        self._thread.join(20)
