"""The jobs: submitted once, changed step by step, each change and its event in one transaction."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rpc_kit import failpoints
from swm_core.domain.failures import Failure
from swm_core.domain.job import Job
from swm_core.domain.states import check_job_transition
from swm_core.store import attempts, codec, journal
from swm_core.store.database import Database, Transaction
from swm_core.store.errors import (
    AlreadyExists,
    NotFound,
    NotTerminal,
    RequestIdReused,
    StaleJob,
)
from swm_core.store.events import EventKind

_CHUNK = 1000
"""Rows of one read where all jobs are gone through."""


DECISIONS = ("cancel", "stop")
"""Ends of a job that are on record before anybody acts on them: its owner's, and the core's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One transition of a job: the job as it is afterwards, and why, for the journal.

    `failure`: why an attempt ended whose job goes back to the queue, where `job.failure` does not
    say it.
    """

    job: Job
    reason: str = ""
    message: str = ""
    failure: Failure | None = None


class Jobs:
    """Writes and reads jobs. Reads are for the event loop's thread, unless they say otherwise."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def submit(
        self,
        job: Job,
        script: bytes,
        request_id: str,
        fingerprint: str,
        secrets: Mapping[str, str],
    ) -> tuple[Job, bool]:
        """Store a new job, durably.

        Returns:
            The job with its sequence and True; or, where the owner has sent the same request
            before, the job that it made, as it is now, and False. An empty `request_id` is never
            the same.

        Raises:
            RequestIdReused: The owner used the id for a request with another fingerprint.
            AlreadyExists: There is or was a job with this id.
        """
        spec, record = codec.encode_spec(job.spec), codec.encode_job(job)

        def insert(transaction: Transaction) -> Job:
            sequence = journal.append(
                transaction,
                time=job.submit_time,
                job_id=job.job_id,
                owner=job.owner,
                attempt=job.attempt,
                from_state=None,
                to_state=job.state,
                kind=EventKind.SUBMITTED,
                message=job.text,
            )
            if failpoints.ON:
                transaction.passes(_transition(None, job))
            try:
                cursor = transaction.execute(
                    "INSERT INTO jobs (job_id, owner, request_id, fingerprint, state, ended_time,"
                    " site, submit_sequence, last_sequence, manifest_sha256,"
                    " output_manifest_sha256, spec, record)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        job.job_id,
                        job.owner,
                        request_id,
                        fingerprint,
                        job.state,
                        _ended_time(job),
                        job.site,
                        sequence,
                        sequence,
                        job.manifest_sha256,
                        job.output_manifest_sha256,
                        spec,
                        record,
                    ),
                )
            except sqlite3.IntegrityError as error:
                # The id or the request; which of them, is looked up: it is rare.
                raise AlreadyExists(f"there is a job {job.job_id!r}") from error
            number = cursor.lastrowid
            transaction.execute("INSERT INTO scripts VALUES (?, ?)", (number, script))
            if secrets:
                _keep_secrets(transaction, number, secrets)
            return codec.with_sequence(job, sequence)

        try:
            return await self._database.write(insert), True
        except AlreadyExists:
            earlier = _requested(self._database.read(), job.owner, request_id)
            if earlier is None:
                raise
            if earlier[0] != fingerprint:
                raise RequestIdReused(request_id) from None
            return earlier[1], False

    async def transition(
        self,
        before: Job,
        after: Job,
        reason: str = "",
        message: str = "",
        failure: Failure | None = None,
    ) -> Job:
        """Move a job to another state; see `transitions`."""
        return await self.transitions(before, [Step(after, reason, message, failure)])

    async def transitions(
        self, before: Job, steps: Sequence[Step], secrets: Mapping[str, str] | None = None
    ) -> Job:
        """Move a job through one or more states in one transaction, each with its event.

        The secrets are erased with the step into a terminal state. `secrets` are new ones, for a
        requeue.

        Returns:
            The job of the last step with its new sequence.

        Raises:
            IllegalTransition: A step that the table does not have; nothing was written.
            StaleJob: The job has changed since `before`.
            NotFound: It has been deleted.
        """
        previous = before
        for step in steps:
            if (step.job.job_id, step.job.owner) != (before.job_id, before.owner):
                raise ValueError(f"a step of {before.job_id} is about {step.job.job_id}")
            check_job_transition(previous.state, step.job.state)
            previous = step.job
        last = steps[-1].job
        record = codec.encode_job(last)

        def move(transaction: Transaction) -> Job:
            number = _fresh_number(transaction, before)
            previous, sequence, erase = before, before.last_sequence, False
            for step in steps:
                job = step.job
                sequence = journal.append(
                    transaction,
                    time=job.state_time,
                    job_id=job.job_id,
                    owner=job.owner,
                    attempt=job.attempt,
                    from_state=previous.state,
                    to_state=job.state,
                    kind=EventKind.TRANSITION,
                    reason=step.reason,
                    message=step.message,
                )
                if failpoints.ON:
                    transaction.passes(_transition(previous, job))
                attempts.follow(transaction, previous, job, step.failure)
                erase = erase or job.state.terminal
                previous = job
            _update_row(transaction, number, last, record, sequence)
            if erase:
                forgotten = transaction.execute(
                    "UPDATE secrets SET value = NULL WHERE number = ? AND value IS NOT NULL",
                    (number,),
                )
                if forgotten.rowcount:
                    transaction.erased()
            if secrets is not None:
                _keep_secrets(transaction, number, secrets)
            return codec.with_sequence(last, sequence)

        return await self._database.write(move)

    async def update(self, before: Job, after: Job, reason: str = "", message: str = "") -> Job:
        """Change a job's text or details within its state; watchers see an `UPDATED` event.

        Returns:
            The job with its new sequence.

        Raises:
            StaleJob: The job has changed since `before`.
            NotFound: It has been deleted.
        """
        if (after.job_id, after.owner, after.state) != (before.job_id, before.owner, before.state):
            raise ValueError(f"an update of {before.job_id} changes its identity or state")
        record = codec.encode_job(after)

        def change(transaction: Transaction) -> Job:
            number = _fresh_number(transaction, before)
            sequence = journal.append(
                transaction,
                time=self._clock(),
                job_id=after.job_id,
                owner=after.owner,
                attempt=after.attempt,
                from_state=after.state,
                to_state=after.state,
                kind=EventKind.UPDATED,
                reason=reason,
                message=message,
            )
            if failpoints.ON:
                for decision in _decided(before, after):
                    transaction.passes(decision)
            attempts.follow(transaction, before, after, None)
            _update_row(transaction, number, after, record, sequence)
            return codec.with_sequence(after, sequence)

        return await self._database.write(change)

    async def delete(self, job_id: str) -> Job:
        """Forget a job that has ended, and return what it was.

        Its attempts are kept, its events for a while.

        Raises:
            NotFound: There is none.
            NotTerminal: It has not ended.
        """

        def forget(transaction: Transaction) -> Job:
            row = _select_one(transaction, job_id)
            if row is None:
                raise NotFound(f"there is no job {job_id!r}")
            number, job = row
            if not job.state.terminal:
                raise NotTerminal(f"job {job_id} is {job.state}; cancel it first")
            journal.append(
                transaction,
                time=self._clock(),
                job_id=job.job_id,
                owner=job.owner,
                attempt=job.attempt,
                from_state=job.state,
                to_state=job.state,
                kind=EventKind.DELETED,
            )
            for statement in (
                "DELETE FROM secrets WHERE number = ?",
                "DELETE FROM scripts WHERE number = ?",
                "DELETE FROM jobs WHERE number = ?",
            ):
                transaction.execute(statement, (number,))
            return job

        return await self._database.write(forget)

    def get(self, job_id: str) -> Job | None:
        """The job as it is now."""
        row = _select_one(self._database.read(), job_id)
        return None if row is None else row[1]

    def script(self, job_id: str) -> bytes:
        """The script as it was submitted.

        Raises:
            NotFound: There is no such job.
        """
        row = (
            self._database.read()
            .execute(
                "SELECT script FROM scripts"
                " WHERE number = (SELECT number FROM jobs WHERE job_id = ?)",
                (job_id,),
            )
            .fetchone()
        )
        if row is None:
            raise NotFound(f"there is no job {job_id!r}")
        return bytes(row[0])

    def secrets(self, job_id: str) -> dict[str, str]:
        """The secret environment of a job that has not ended; empty afterwards."""
        return {name: value for name, value in self._secrets(job_id) if value is not None}

    def secret_names(self, job_id: str) -> frozenset[str]:
        """Which secrets the job had, also after its end: a requeue has to bring them again."""
        return frozenset(name for name, _ in self._secrets(job_id))

    def submit_sequence(self, job_id: str) -> int:
        """The sequence of the job's first event: who watches from just before it misses nothing.

        Raises:
            NotFound: There is no such job.
        """
        row = (
            self._database.read()
            .execute("SELECT submit_sequence FROM jobs WHERE job_id = ?", (job_id,))
            .fetchone()
        )
        if row is None:
            raise NotFound(f"there is no job {job_id!r}")
        return int(row[0])

    def active(self) -> list[Job]:
        """All jobs that have not ended, in the order of their submission."""
        rows = self._database.read().execute(
            "SELECT spec, record, last_sequence FROM jobs INDEXED BY jobs_active"
            " WHERE ended_time IS NULL ORDER BY number"
        )
        return [codec.decode_job(*row) for row in rows.fetchall()]

    def ended_before(self, time: float, limit: int = 1000) -> list[str]:
        """Ids of jobs that ended before `time`, oldest first: what retention has to delete."""
        rows = self._database.read().execute(
            "SELECT job_id FROM jobs WHERE ended_time < ? ORDER BY ended_time LIMIT ?",
            (time, limit),
        )
        return [job_id for (job_id,) in rows.fetchall()]

    def has_request(self, owner: str, request_id: str) -> bool:
        """Whether the owner has sent a request with this id before."""
        return _requested(self._database.read(), owner, request_id) is not None

    def references(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Owner, id and manifest digests of every job: what the spool has to keep.

        For a thread of its own. Not a snapshot: a job that is submitted meanwhile may be missing,
        so what it names must be young to be safe.
        """
        with self._database.scan() as connection:
            last = 0
            while True:
                rows = connection.execute(
                    "SELECT number, owner, job_id, manifest_sha256, output_manifest_sha256"
                    " FROM jobs WHERE number > ? ORDER BY number LIMIT ?",
                    (last, _CHUNK),
                ).fetchall()
                for last, owner, job_id, *digests in rows:  # noqa: B007 - where to go on
                    yield owner, job_id, tuple(digest for digest in digests if digest)
                if len(rows) < _CHUNK:
                    return

    def _secrets(self, job_id: str) -> list[tuple[str, str | None]]:
        rows = self._database.read().execute(
            "SELECT name, value FROM secrets"
            " WHERE number = (SELECT number FROM jobs WHERE job_id = ?)",
            (job_id,),
        )
        return rows.fetchall()


def _requested(
    connection: sqlite3.Connection, owner: str, request_id: str
) -> tuple[str, Job] | None:
    """Fingerprint and job of an earlier request."""
    row = connection.execute(
        "SELECT fingerprint, spec, record, last_sequence FROM jobs"
        " WHERE owner = ? AND request_id = ? AND request_id <> ''",
        (owner, request_id),
    ).fetchone()
    return None if row is None else (row[0], codec.decode_job(*row[1:]))


def _select_one(connection: sqlite3.Connection, job_id: str) -> tuple[int, Job] | None:
    row = connection.execute(
        "SELECT number, spec, record, last_sequence FROM jobs WHERE job_id = ?", (job_id,)
    ).fetchone()
    return None if row is None else (row[0], codec.decode_job(*row[1:]))


def _fresh_number(connection: sqlite3.Connection, before: Job) -> int:
    """The row's number, if `before` is the job's latest value."""
    row = connection.execute(
        "SELECT number, last_sequence FROM jobs WHERE job_id = ?", (before.job_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no job {before.job_id!r}")
    number, last_sequence = row
    if last_sequence != before.last_sequence:
        raise StaleJob(
            f"job {before.job_id} has changed: event {last_sequence}, not {before.last_sequence}"
        )
    return int(number)


def _update_row(
    connection: sqlite3.Connection, number: int, job: Job, record: str, sequence: int
) -> None:
    connection.execute(
        "UPDATE jobs SET state = ?, ended_time = ?, site = ?, last_sequence = ?,"
        " output_manifest_sha256 = ?, record = ? WHERE number = ?",
        (
            job.state,
            _ended_time(job),
            job.site,
            sequence,
            job.output_manifest_sha256,
            record,
            number,
        ),
    )


def _transition(before: Job | None, after: Job) -> str:
    """The name of a transition for fail points, with the site where it is one of an attempt."""
    return f"{_place(before, after)} job {before.state if before else 'NEW'}>{after.state}"


def _decided(before: Job, after: Job) -> Iterator[str]:
    """As `_transition`, for ends that are decided in a state and take effect later."""
    if after.cancel_requested and not before.cancel_requested:
        yield f"{_place(before, after)} job {DECISIONS[0]}"
    if after.stop is not None and before.stop is None:
        yield f"{_place(before, after)} job {DECISIONS[1]}"


def _place(before: Job | None, after: Job) -> str:
    return after.site or (before.site if before else "") or after.spec.site


def _ended_time(job: Job) -> float | None:
    return job.state_time if job.state.terminal else None


def _keep_secrets(
    connection: sqlite3.Connection, number: int | None, secrets: Mapping[str, str]
) -> None:
    connection.execute("DELETE FROM secrets WHERE number = ?", (number,))
    connection.executemany(
        "INSERT INTO secrets VALUES (?, ?, ?)",
        [(number, name, value) for name, value in secrets.items()],
    )
