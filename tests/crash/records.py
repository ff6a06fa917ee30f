"""What the store of a core says, read beside the core and whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from pathlib import Path

ENDS = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclasses.dataclass(frozen=True)
class Row:
    """An event of the journal."""

    sequence: int
    attempt: int
    from_state: str | None
    to_state: str
    kind: str
    reason: str
    message: str

    def __str__(self) -> str:
        return (
            f"{self.sequence} attempt {self.attempt} {self.kind} {self.from_state} -> "
            f"{self.to_state} {self.reason}: {self.message}"
        )


@dataclasses.dataclass(frozen=True)
class AttemptRow:
    """An attempt. `outcome` is empty while it is under way."""

    number: int
    site: str
    partition_id: str
    outcome: str
    finish: str
    """How it ended at its site, as JSON; or empty."""
    to_remove: int

    @property
    def status(self) -> tuple[int | None, int | None]:
        """Exit code and signal of its script; neither where its site told no such thing."""
        told = json.loads(self.finish or "{}")
        return told.get("exit_code"), told.get("signal")


@dataclasses.dataclass
class JobRecord:
    """A job with its journal and attempts."""

    job_id: str
    state: str
    request_id: str
    events: list[Row] = dataclasses.field(default_factory=list)
    attempts: dict[int, AttemptRow] = dataclasses.field(default_factory=dict)

    @property
    def lives(self) -> list[list[Row]]:
        """Its changes of state, from each submit or requeue to the next."""
        lives: list[list[Row]] = []
        for row in self.events:
            if row.kind == "SUBMITTED" or row.reason == "REQUEUED":
                lives.append([])
            if row.kind != "UPDATED" and lives:
                lives[-1].append(row)
        return lives

    def story(self) -> str:
        """All that is known of it, for people."""
        return "\n".join(
            [
                f"  job {self.job_id} {self.state}",
                *(f"    {row}" for row in self.events),
                *(f"    {attempt}" for attempt in self.attempts.values()),
            ]
        )


@dataclasses.dataclass
class Records:
    """All of a store, as of one moment."""

    jobs: dict[str, JobRecord]
    open_attempts: list[str]
    """Those that have no end, or that sites may still have, also of jobs that were deleted."""
    partitions: dict[str, str]
    """States by id."""
    integrity: str
    """What SQLite finds wrong; "ok" is nothing."""

    @classmethod
    def read(cls, database: Path) -> Records:
        """Read it, whether or not a core uses it."""
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
            store.execute("BEGIN")
            return cls._read(store)

    @classmethod
    def _read(cls, store: sqlite3.Connection) -> Records:
        jobs = {
            row[0]: JobRecord(*row)
            for row in store.execute("SELECT job_id, state, request_id FROM jobs")
        }
        for job_id, *columns in store.execute(
            "SELECT job_id, sequence, attempt, from_state, to_state, kind, reason, message"
            " FROM events ORDER BY sequence"
        ):
            if job_id in jobs:
                jobs[job_id].events.append(Row(*columns))
        for job_id, *columns in store.execute(
            "SELECT job_id, attempt, site, partition_id, outcome, finish, to_remove FROM attempts"
        ):
            if job_id in jobs:
                attempt = AttemptRow(*columns)
                jobs[job_id].attempts[attempt.number] = attempt
        open_attempts = [
            f"{job_id}.{number}"
            for job_id, number in store.execute(
                "SELECT job_id, attempt FROM attempts WHERE outcome = '' OR to_remove = 1"
            )
        ]
        partitions = dict(store.execute("SELECT partition_id, state FROM partitions"))
        ((integrity,),) = store.execute("PRAGMA integrity_check(1)")
        return cls(jobs, open_attempts, partitions, integrity)
