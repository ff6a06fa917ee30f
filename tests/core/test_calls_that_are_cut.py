"""A caller who leaves in the middle of a call leaves nothing half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from rpc_kit import interceptor
from skyport.terminal.v1 import job_pb2
from swm_core.config import Ports
from swm_core.domain.job import Job
from swm_core.domain.states import JobState
from swm_core.lifecycle.engine import Lifecycle
from swm_core.lifecycle.live import LiveJobs
from swm_core.scheduler import Policy, SiteView
from swm_core.security.identity import Caller, Identity, Kind
from swm_core.store import Store
from swm_core.terminal.access import Access
from swm_core.terminal.jobs import JobService


class Core:
    """A JobService with a store, whose calls can be cut when their commit is made."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store.open(path)
        self.jobs = LiveJobs(self.store.jobs)
        self.committed, self.go = asyncio.Event(), asyncio.Event()
        for name in ("submit", "transitions"):
            monkeypatch.setattr(self.store.jobs, name, self._held(getattr(self.store.jobs, name)))
        context: Any = SimpleNamespace(
            store=self.store,
            jobs=self.jobs,
            clock=time.time,
            gates={},
            limits=SimpleNamespace(active_jobs_per_user=1),
            ports=Ports(),
        )
        lifecycle: Any = SimpleNamespace(
            placement=SimpleNamespace(
                waiting={},
                views=SimpleNamespace(empty_sites=lambda: [SiteView("lab", inventory_known=False)]),
            ),
            costs=SimpleNamespace(policy=lambda _: Policy()),
            _context=context,
        )
        lifecycle.requeue = lambda *args: Lifecycle.requeue(lifecycle, *args)
        self.service = JobService(context, lifecycle, Access(self.jobs, self.store.jobs))

    def _held(self, write: Any) -> Any:
        async def held(*args: Any) -> Any:
            done = await write(*args)
            self.committed.set()
            await self.go.wait()
            return done

        return held

    async def cut(self, call: Coroutine[Any, Any, object]) -> None:
        """Make a call whose caller leaves when its commit is on disk, and nobody knows yet."""
        self.committed.clear()
        self.go.clear()
        calling = asyncio.create_task(call)
        async with asyncio.timeout(10):
            await self.committed.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        self.go.set()
        for _ in range(5):
            await asyncio.sleep(0)

    def stored(self) -> Job:
        (job,) = self.store.job_lists.page(owner="ann").jobs
        return job


@pytest_asyncio.fixture
async def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    core = Core(tmp_path / "swm.db", monkeypatch)
    yield core
    await core.store.close()


def as_ann() -> None:
    """Have what follows be called by a user."""
    identity = Identity("abc", Kind.USER, "ann", "1", time.time() + 3_600)
    interceptor.caller.set(Caller(identity, is_admin=False))


async def test_a_job_whose_submit_was_cut_is_one_that_the_core_has(core: Core) -> None:
    as_ann()
    request = job_pb2.SubmitJobRequest(script=b"#!/bin/sh\ntrue", request_id="r1")
    context: Any = None
    await core.cut(core.service.SubmitJob(request, context))
    job = core.stored()
    assert core.jobs.get(job.job_id) is not None
    # The same again, as a terminal does that was cut, makes no other.
    again = await core.service.SubmitJob(request, context)
    assert again.job.job_id == job.job_id
    assert core.jobs.count("ann") == 1


async def test_a_job_whose_requeue_was_cut_is_one_that_the_core_has(core: Core) -> None:
    as_ann()
    context: Any = None
    core.go.set()
    request = job_pb2.SubmitJobRequest(script=b"#!/bin/sh\ntrue", request_id="r1")
    job_id = (await core.service.SubmitJob(request, context)).job.job_id
    await core.jobs.move(job_id, JobState.CANCELLED, end_time=time.time())
    assert core.jobs.get(job_id) is None
    await core.cut(core.service.RequeueJob(job_pb2.RequeueJobRequest(job_id=job_id), context))
    assert core.stored().state is JobState.QUEUED
    assert core.jobs.get(job_id) is not None
