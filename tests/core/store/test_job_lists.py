"""Pages of jobs: complete, newest first, whatever is asked for, and always by an index."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from swm_core.domain.job import Job
from swm_core.domain.states import JobState
from swm_core.store import Store, job_lists
from tests.core.store.conftest import MakeJob


async def fill(store: Store, make_job: MakeJob) -> list[Job]:
    """60 jobs of two owners; some ended, some at a site."""

    async def one(number: int) -> Job:
        job, _ = await store.jobs.submit(
            make_job(
                job_id=f"{'abc'[number % 3]}x{number}",
                owner="bob" if number % 4 == 0 else "alice",
                site="far" if number % 5 == 0 else "",
            ),
            b"",
            "",
            "f",
            {},
        )
        if number % 2 == 0:
            after = dataclasses.replace(job, state=JobState.CANCELLED)
            job = await store.jobs.transition(job, after)
        return job

    return await asyncio.gather(*(one(number) for number in range(60)))


def pages(store: Store, **query: Any) -> list[Job]:
    """All jobs of all pages."""
    found: list[Job] = []
    after = None
    for _ in range(100):
        page = store.job_lists.page(**query, after=after)
        found.extend(page.jobs)
        after = page.after
        if after is None:
            return found
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("page_size", [1, 7, 100])
@pytest.mark.parametrize("scan", [5, 5000])
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"owner": "alice"},
        {"owner": "nobody"},
        {"states": [JobState.QUEUED]},
        {"states": [JobState.CANCELLED, JobState.QUEUED]},
        {"owner": "bob", "states": [JobState.CANCELLED]},
        {"owner": "alice", "states": [JobState.QUEUED]},
        {"site": "far"},
        {"owner": "alice", "site": "far", "states": [JobState.QUEUED]},
        {"id_prefix": "a"},
        {"id_prefix": "bx1"},
        {"id_prefix": "bx1", "owner": "alice"},
        {"id_prefix": "cx", "states": [JobState.QUEUED], "site": "far"},
        {"id_prefix": "zz"},
    ],
)
async def test_pages_hold_every_job_that_fits_once_newest_first(
    store: Store,
    make_job: MakeJob,
    query: dict[str, Any],
    page_size: int,
    scan: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_lists, "_SCAN", scan)
    expected = [
        job
        for job in reversed(await fill(store, make_job))
        if query.get("owner") in (None, job.owner)
        and job.state in query.get("states", JobState)
        and job.job_id.startswith(query.get("id_prefix", ""))
        and query.get("site", "") in ("", job.site)
    ]
    assert pages(store, **query, page_size=page_size) == expected


async def test_jobs_that_come_or_go_meanwhile_do_not_disturb_the_pages(
    store: Store, make_job: MakeJob
) -> None:
    jobs = await fill(store, make_job)
    page = store.job_lists.page(page_size=20)
    await store.jobs.submit(make_job(job_id="new"), b"", "", "f", {})
    await store.jobs.delete(page.jobs[-1].job_id if page.jobs[-1].state.terminal else "ax0")
    rest = pages(store, page_size=20)
    assert rest[0].job_id == "new"
    second = store.job_lists.page(page_size=20, after=page.after)
    assert second.jobs == list(reversed(jobs))[20:40]


@pytest.mark.parametrize("site", ["", "far"])
@pytest.mark.parametrize("id_prefix", ["", "a", "ab"])
@pytest.mark.parametrize("states", [(), (JobState.QUEUED,), (JobState.FAILED,)])
@pytest.mark.parametrize("owner", [None, "alice"])
async def test_every_query_goes_along_an_index(
    store: Store, owner: str | None, states: tuple[JobState, ...], id_prefix: str, site: str
) -> None:
    statements: list[str] = []
    reader = store._database.read()
    reader.set_trace_callback(statements.append)
    store.job_lists.page(owner=owner, states=states, id_prefix=id_prefix, site=site)
    reader.set_trace_callback(None)
    assert statements
    for statement in statements:
        plan = [row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()]
        # Only the list of active jobs may be gone through: it is short.
        bad = [step for step in plan if step.startswith("SCAN") and "jobs_active" not in step]
        assert not bad, (statement, plan)
        if len(id_prefix) < 2:
            assert not any("TEMP B-TREE" in step for step in plan), (statement, plan)
