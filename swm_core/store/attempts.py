"""The attempts of jobs: where each was placed, how it ended, what is left of it at its site.

Rows follow the transitions of their job in the same transaction. They stay when the job is deleted:
what was used was used, and a folder at a site has to be removed all the same.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sqlite3
from collections.abc import Iterator
from typing import Any

from swm_core.domain.failures import Failure
from swm_core.domain.job import Allocation, End, Job
from swm_core.domain.states import JobState
from swm_core.store import codec
from swm_core.store.database import Database, Transaction


class Outcome(enum.StrEnum):
    """How an attempt ended. `REQUEUED`: it failed, and its job went back to the queue."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REQUEUED = "REQUEUED"


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a job.

    Times are seconds since the epoch; `end_time` is when the core was done with it.
    """

    job_id: str
    attempt: int
    owner: str
    site: str
    partition_id: str
    allocations: tuple[Allocation, ...]
    place_time: float
    start_time: float | None
    end_time: float | None
    outcome: Outcome | None
    """None: it is under way."""
    end: End | None
    failure: Failure | None
    to_remove: bool
    """Whether the site may still have its folder."""


_COLUMNS = (
    "job_id, attempt, owner, site, partition_id, allocations, place_time, start_time, end_time,"
    " outcome, finish, failure, to_remove"
)
_AT_ONCE = 25
"""Attempts that are read before others get their turn: some half a millisecond."""


class Attempts:
    """Reads attempts, and forgets their folders once they are removed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_job(self, job_id: str) -> list[Attempt]:
        """All attempts of a job, oldest first; also of one that was deleted."""
        return self._select("WHERE job_id = ? ORDER BY attempt", job_id)

    def get(self, job_id: str, attempt: int) -> Attempt | None:
        """One attempt; also of a job that was deleted."""
        found = self._select("WHERE job_id = ? AND attempt = ?", job_id, attempt)
        return found[0] if found else None

    def latest(self, job_id: str, limit: int, *, before: int) -> list[Attempt]:
        """Attempts of a job with a lower number than `before`, newest first, at most `limit`."""
        condition = "WHERE job_id = ? AND attempt < ? ORDER BY attempt DESC LIMIT ?"
        return self._select(condition, job_id, before, limit)

    def placed(
        self, *, owner: str | None = None, since: float | None = None, before: float | None = None
    ) -> Iterator[Attempt]:
        """Attempts placed from `since` on and before `before` (seconds since the epoch), by id.

        No owner: everybody's. They are read as they are asked for, so there may be very many; the
        store may change in between.
        """
        condition = "WHERE (job_id, attempt) > (?, ?) AND place_time >= ? AND place_time < ?"
        values: list[object] = [since or 0.0, math.inf if before is None else before]
        if owner is not None:
            condition += " AND owner = ?"
            values.append(owner)
        last = ("", 0)
        while found := self._select(
            f"{condition} ORDER BY job_id, attempt LIMIT {_AT_ONCE}", *last, *values
        ):
            yield from found
            last = (found[-1].job_id, found[-1].attempt)

    def pending_removals(self, site: str | None = None, limit: int = 1000) -> list[Attempt]:
        """Ended attempts whose folder has to be removed: at one site, oldest first, or at all."""
        pending = "WHERE to_remove = 1 AND outcome <> ''"
        if site is None:
            return self._select(f"{pending} LIMIT ?", limit)
        return self._select(f"{pending} AND site = ? ORDER BY place_time LIMIT ?", site, limit)

    def to_remove(self, site: str) -> list[tuple[str, int]]:
        """Job and number of the ended attempts whose folder has to be removed, oldest first."""
        rows = self._database.read().execute(
            "SELECT job_id, attempt FROM attempts"
            " WHERE to_remove = 1 AND outcome <> '' AND site = ? ORDER BY place_time",
            (site,),
        )
        return rows.fetchall()

    async def removed(self, job_id: str, attempt: int) -> None:
        """Note that nothing of the attempt is left at its site. The same again does nothing."""

        def clear(transaction: Transaction) -> None:
            transaction.execute(
                "UPDATE attempts SET to_remove = 0 WHERE job_id = ? AND attempt = ?",
                (job_id, attempt),
            )

        await self._database.write(clear)

    def _select(self, condition: str, *values: object) -> list[Attempt]:
        rows = self._database.read().execute(
            f"SELECT {_COLUMNS} FROM attempts {condition}",  # noqa: S608 - our own text  # nosec B608
            values,
        )
        return [_attempt(row) for row in rows.fetchall()]


def follow(
    transaction: sqlite3.Connection, before: Job, after: Job, failure: Failure | None
) -> None:
    """Bring the attempt's row up to date with one step of its job.

    `failure`: why the attempt ended, where the job itself does not say so because it goes back to
    the queue.
    """
    if after.attempt > before.attempt:
        _place(transaction, after)
    elif after.attempt and _under_way(before):
        if _under_way(after):
            if _differs(before, after):
                _update(transaction, after)
        else:
            _finish(transaction, before, after, failure)


def _under_way(job: Job) -> bool:
    return job.attempt > 0 and job.state is not JobState.QUEUED and not job.state.terminal


def _differs(before: Job, after: Job) -> bool:
    return (
        after.site != before.site
        or after.partition_id != before.partition_id
        or after.start_time != before.start_time
        or after.allocations != before.allocations
        or after.end != before.end
    )


def _place(transaction: sqlite3.Connection, job: Job) -> None:
    transaction.execute(
        f"INSERT INTO attempts ({_COLUMNS})"  # noqa: S608 - our own text  # nosec B608
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, '', '', '', 1)",
        (
            job.job_id,
            job.attempt,
            job.owner,
            job.site,
            job.partition_id,
            codec.encode_allocations(job.allocations),
            job.state_time,
            job.start_time,
        ),
    )


def _update(transaction: sqlite3.Connection, job: Job) -> None:
    transaction.execute(
        "UPDATE attempts SET site = ?, partition_id = ?, allocations = ?, start_time = ?,"
        " finish = ? WHERE job_id = ? AND attempt = ?",
        (
            job.site,
            job.partition_id,
            codec.encode_allocations(job.allocations),
            job.start_time,
            codec.encode_end(job.end),
            job.job_id,
            job.attempt,
        ),
    )


def _finish(
    transaction: sqlite3.Connection, before: Job, after: Job, failure: Failure | None
) -> None:
    # A job that goes back to the queue has let go of its place: only what the step adds is taken
    # from it.
    end = after.end or before.end
    outcome = Outcome.REQUEUED if after.state is JobState.QUEUED else Outcome(after.state.value)
    transaction.execute(
        "UPDATE attempts SET start_time = coalesce(?, start_time), end_time = ?, outcome = ?,"
        " finish = ?, failure = ? WHERE job_id = ? AND attempt = ?",
        (
            after.start_time,
            after.state_time,
            outcome,
            codec.encode_end(end),
            codec.encode_failure(failure or after.failure or (end.failure if end else None)),
            before.job_id,
            before.attempt,
        ),
    )


def _attempt(row: tuple[Any, ...]) -> Attempt:
    (
        job_id,
        attempt,
        owner,
        site,
        partition_id,
        allocations,
        place_time,
        start_time,
        end_time,
        outcome,
        end,
        failure,
        to_remove,
    ) = row
    return Attempt(
        job_id=job_id,
        attempt=attempt,
        owner=owner,
        site=site,
        partition_id=partition_id,
        allocations=codec.decode_allocations(allocations),
        place_time=place_time,
        start_time=start_time,
        end_time=end_time,
        outcome=Outcome(outcome) if outcome else None,
        end=codec.decode_end(end),
        failure=codec.decode_failure(failure),
        to_remove=bool(to_remove),
    )
