"""Pages of jobs, newest first, each found by an index and never by counting rows off."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from swm_core.domain.job import Job
from swm_core.domain.states import JobState
from swm_core.store import codec
from swm_core.store.database import Database

_SCAN = 5000
"""Rows that one page may look at where no index covers the whole question."""
_KEYED_PREFIX = 2
"""A prefix of at least so many letters is looked up by the index of ids."""
_AFTER_ALL = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first. `after`: what to ask for next; None: there is no more."""

    jobs: list[Job]
    after: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """Conditions joined by AND, and their values."""

    sql: str
    values: tuple[Any, ...]

    def also(self, sql: str, *values: Any) -> _Part:
        """With one condition more."""
        return _Part(f"{self.sql} AND {sql}", (*self.values, *values))


class JobLists:
    """Lists jobs. For the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        *,
        owner: str | None = None,
        states: Collection[JobState] = (),
        id_prefix: str = "",
        site: str = "",
        page_size: int = 100,
        after: int | None = None,
    ) -> JobPage:
        """At most `page_size` jobs that fit, going on from the `after` of the page before.

        No owner, no states, an empty prefix or site: any. A page looks at a bounded number of rows,
        so it may be short, or empty, although more follow; only `after` tells the end.
        """
        keys = _keys(owner, states, id_prefix, _AFTER_ALL if after is None else after)
        wanted = _filters(keys, owner, states, id_prefix, site)
        floor: int | None = None
        if wanted.sql != keys.sql and len(id_prefix) < _KEYED_PREFIX:
            floor = self._floor(keys, max(page_size, _SCAN))
            if floor is not None:
                wanted = wanted.also("number >= ?", floor)
        rows = (
            self._database.read()
            .execute(
                "SELECT number, spec, record, last_sequence FROM jobs"  # noqa: S608 - our own text  # nosec B608
                f" WHERE {wanted.sql} ORDER BY {_order(id_prefix)} LIMIT ?",
                [*wanted.values, page_size + 1],
            )
            .fetchall()
        )
        jobs = [codec.decode_job(*row[1:]) for row in rows[:page_size]]
        return JobPage(jobs, rows[page_size - 1][0] if len(rows) > page_size else floor)

    def _floor(self, keys: _Part, scanned: int) -> int | None:
        """The number of the last row that one page may look at; None: it may look at all."""
        row = (
            self._database.read()
            .execute(
                f"SELECT number FROM jobs WHERE {keys.sql}"  # noqa: S608 - our own text  # nosec B608
                " ORDER BY number DESC LIMIT 1 OFFSET ?",
                [*keys.values, scanned - 1],
            )
            .fetchone()
        )
        return None if row is None else int(row[0])


def _keys(owner: str | None, states: Collection[JobState], id_prefix: str, after: int) -> _Part:
    """What an index finds."""
    if len(id_prefix) >= _KEYED_PREFIX:
        # Marked with + so that the order does not tempt the planner away from the index of ids.
        return _prefixed(id_prefix).also("+number < ?", after)
    keys = _Part("number < ?", (after,))
    if owner is not None:
        keys = keys.also("owner = ?", owner)
    if states and not any(state.terminal for state in states):
        # The index of active jobs is in order within one owner only.
        keys = (
            keys.also("ended_time IS NULL")
            if owner is not None
            else keys.also(
                "number IN (SELECT number FROM jobs INDEXED BY jobs_active"
                " WHERE ended_time IS NULL)"
            )
        )
    return keys


def _filters(
    keys: _Part, owner: str | None, states: Collection[JobState], id_prefix: str, site: str
) -> _Part:
    """The keys, and what else the rows have to be."""
    wanted = keys
    if states:
        wanted = wanted.also(f"state IN ({', '.join('?' * len(states))})", *states)
    if site:
        wanted = wanted.also("site = ?", site)
    if len(id_prefix) >= _KEYED_PREFIX:
        if owner is not None:
            wanted = wanted.also("+owner = ?", owner)
    elif id_prefix:
        prefixed = _prefixed(id_prefix)
        wanted = wanted.also(prefixed.sql.replace("job_id", "+job_id"), *prefixed.values)
    return wanted


def _prefixed(id_prefix: str) -> _Part:
    # The first text after all that begin with it; ids are ASCII.
    beyond = id_prefix[:-1] + chr(ord(id_prefix[-1]) + 1)
    return _Part("job_id >= ? AND job_id < ?", (id_prefix, beyond))


def _order(id_prefix: str) -> str:
    return "+number DESC" if len(id_prefix) >= _KEYED_PREFIX else "number DESC"
