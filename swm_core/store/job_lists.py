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


@dataclasses.dataclass(slots=True)
class _Query:
    """The candidates, as a subquery by an index up to its LIMIT, and what they are filtered by."""

    candidates: str
    values: list[Any]
    conditions: list[str]
    filter_values: list[Any]

    def filter(self, condition: str, *values: Any) -> None:
        """Let only those pass that fulfil `condition`."""
        self.conditions.append(condition)
        self.filter_values.extend(values)


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
        query = _query(owner, states, id_prefix, site, _AFTER_ALL if after is None else after)
        reader = self._database.read()
        # Of what needs no filter, one more than the page holds tells whether there is more.
        scanned = max(page_size, _SCAN) if query.conditions else page_size + 1
        where = " AND ".join([f"number IN ({query.candidates})", *query.conditions])
        rows = reader.execute(
            "SELECT number, spec, record, last_sequence FROM jobs"  # noqa: S608
            f" WHERE {where} ORDER BY number DESC LIMIT ?",
            [*query.values, scanned, *query.filter_values, page_size + 1],
        ).fetchall()
        jobs = [codec.decode_job(*row[1:]) for row in rows[:page_size]]
        if len(rows) > page_size:
            return JobPage(jobs, rows[page_size - 1][0])
        if not query.conditions:
            return JobPage(jobs, None)
        count, lowest = reader.execute(
            f"SELECT count(*), min(number) FROM ({query.candidates})",  # noqa: S608
            [*query.values, scanned],
        ).fetchone()
        return JobPage(jobs, lowest if count == scanned else None)


def _query(
    owner: str | None, states: Collection[JobState], id_prefix: str, site: str, after: int
) -> _Query:
    query = _Query("", [], [], [])
    if site:
        query.filter("site = ?", site)
    if states:
        query.filter(f"state IN ({', '.join('?' * len(states))})", *states)
    if len(id_prefix) >= _KEYED_PREFIX:
        # Marked with + so that the order does not tempt the planner away from the index of ids.
        query.candidates = (
            "SELECT number FROM jobs WHERE job_id >= ? AND job_id < ? AND +number < ?"
            " ORDER BY +number DESC LIMIT ?"
        )
        query.values = [id_prefix, _next_text(id_prefix), after]
        if owner is not None:
            query.filter("owner = ?", owner)
        return query
    if id_prefix:
        query.filter("job_id >= ? AND job_id < ?", id_prefix, _next_text(id_prefix))
    active = " AND ended_time IS NULL" if states and _all_active(states) else ""
    if owner is not None:
        query.candidates = (
            f"SELECT number FROM jobs WHERE owner = ? AND number < ?{active}"  # noqa: S608
            " ORDER BY number DESC LIMIT ?"
        )
        query.values = [owner, after]
    else:
        index = " INDEXED BY jobs_active" if active else ""
        query.candidates = (
            f"SELECT number FROM jobs{index} WHERE number < ?{active}"  # noqa: S608
            " ORDER BY number DESC LIMIT ?"
        )
        query.values = [after]
    return query


def _all_active(states: Collection[JobState]) -> bool:
    return not any(state.terminal for state in states)


def _next_text(prefix: str) -> str:
    """The first text after all that begin with `prefix`; ids are ASCII."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
