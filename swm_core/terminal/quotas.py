"""What one user may have at once, and how that is refused: QUOTA."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator

from rpc_kit.errors import Refusal, exhausted
from swm_core.lifecycle.live import LiveJobs
from swm_core.security.identity import Caller


class Streams:
    """Counts the open streaming calls of each user, for the event loop.

    Args:
        limit: How many of them a user may have; 0: any number.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: collections.Counter[str] = collections.Counter()

    def used(self, user: str) -> int:
        """How many the user has."""
        return self._open[user]

    @contextlib.contextmanager
    def admit(self, caller: object) -> Iterator[None]:
        """Count a call as long as this is entered.

        Raises:
            Refusal: QUOTA.
        """
        user = caller.user if isinstance(caller, Caller) else ""
        if self.limit and self._open[user] >= self.limit:
            raise _reached(
                "streams",
                self.limit,
                f"you have {self._open[user]} streams open (watches, followed output, transfers, "
                f"connections to ports), and {self.limit} are allowed; close some, or have an "
                "administrator raise limits.streams_per_user",
            )
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]


class ActiveJobs:
    """Keeps the jobs of each user that have not ended below a limit, for the event loop.

    Args:
        jobs: Those that are stored.
        limit: How many of them a user may have; 0: any number.
    """

    def __init__(self, jobs: LiveJobs, limit: int) -> None:
        self._jobs = jobs
        self._limit = limit
        # Admitted, and not among the jobs yet: many are stored at the same time.
        self._coming: collections.Counter[str] = collections.Counter()

    def is_full(self, owner: str) -> bool:
        """Whether the owner may have no more."""
        have = self._jobs.count(owner) + self._coming[owner]
        return bool(self._limit) and have >= self._limit

    @contextlib.contextmanager
    def admit(self, owner: str) -> Iterator[None]:
        """Hold a place while a job of the owner is being stored.

        Raises:
            Refusal: QUOTA.
        """
        if self.is_full(owner):
            raise _reached(
                "active_jobs",
                self._limit,
                f"{owner} has {self._jobs.count(owner)} jobs that have not ended, and "
                f"{self._limit} are allowed; wait for some to end, cancel some, or have an "
                "administrator raise limits.active_jobs_per_user",
            )
        self._coming[owner] += 1
        try:
            yield
        finally:
            self._coming[owner] -= 1
            if not self._coming[owner]:
                del self._coming[owner]


def _reached(name: str, limit: int, message: str) -> Refusal:
    return exhausted("QUOTA", message, quota=name, limit=str(limit))
