"""Followers of output that does not come: they wait, or are told that nothing more will."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyport.terminal.v1 import job_pb2
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.spool import LogKind, LogMirror, Spool, logs
from swm_core.spool.errors import SpoolFull
from swm_core.terminal.output import OutputReader

JOB = Job("j1", "ann", JobSpec(), "", JobState.RUNNING, 1.0, 1.0, attempt=1, site="lab")
REQUEST = job_pb2.ReadOutputRequest(job_id="j1", kind=job_pb2.OUTPUT_KIND_STDOUT, follow=True)
SOON_S = 20


class Hurry(Exception):
    """Somebody asks again and again without ever waiting, which holds up everything else."""


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool.open(tmp_path / "spool", 1 << 30, 1 << 20)
    yield spool
    spool.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have who does not wait fail, and not hang."""
    wait = LogMirror.grown

    async def grown(self: LogMirror, beyond: int) -> None:
        waiting = asyncio.create_task(wait(self, beyond))
        await asyncio.sleep(0)
        if waiting.done():
            raise Hurry
        await waiting

    monkeypatch.setattr(LogMirror, "grown", grown)


class Follower:
    """Is told what a follower of the job is, in a task of its own."""

    def __init__(self, spool: Spool, job: Job = JOB) -> None:
        jobs = SimpleNamespace(get=lambda _: job)
        store = SimpleNamespace(attempts=SimpleNamespace(get=lambda *_: None))
        context: Any = SimpleNamespace(jobs=jobs, store=store, spool=spool)
        access: Any = SimpleNamespace(job=lambda _: job)
        self.told: asyncio.Queue[job_pb2.ReadOutputResponse] = asyncio.Queue()
        self.task = asyncio.create_task(self._follow(OutputReader(context, access)))

    async def _follow(self, reader: OutputReader) -> None:
        async for answer in reader.read(REQUEST):
            self.told.put_nowait(answer)

    async def next(self) -> job_pb2.ReadOutputResponse:
        """The next answer; what has ended the follower is raised."""
        asked = asyncio.create_task(self.told.get())
        both = {asked, self.task}
        await asyncio.wait(both, timeout=SOON_S, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done() and self.task.done():
            self.task.result()
        assert asked.done(), "nothing is told"
        return asked.result()


def log_of(spool: Spool) -> LogMirror:
    return spool.log("ann", "j1", 1, "", LogKind.STDOUT)


async def test_a_follower_of_an_attempt_that_was_given_up_is_told_that_it_is_over(
    spool: Spool,
) -> None:
    log = log_of(spool)
    await log.append(0, b"hello")
    follower = Follower(spool)
    assert (await follower.next()).data == b"hello"
    # Its site is lost: the job waits for its next attempt, and has the number of this one still.
    spool.close_logs("ann", "j1", 1)
    assert (await follower.next()).end.size == 5
    await follower.task


async def test_who_asks_for_an_attempt_that_was_given_up_is_told_that_it_is_over(
    spool: Spool,
) -> None:
    await log_of(spool).append(0, b"hello")
    spool.close_logs("ann", "j1", 1)
    follower = Follower(spool, dataclasses.replace(JOB, state=JobState.QUEUED))
    assert (await follower.next()).data == b"hello"
    assert (await follower.next()).end.size == 5
    await follower.task


async def test_a_follower_waits_where_there_was_no_room_for_what_came_last(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(spool)
    await log.append(0, b"hello")
    follower = Follower(spool)
    assert (await follower.next()).data == b"hello"
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise SpoolFull("no room")

        full.setattr(logs, "_until_room", refuse)
        await log.append(5, b"lost")
    await asyncio.sleep(0.05)
    await log.append(9, b"more")
    piece = await follower.next()
    assert (piece.offset, piece.data) == (9, b"more")
    follower.task.cancel()


async def test_a_follower_waits_where_what_was_kept_is_gone(spool: Spool, tmp_path: Path) -> None:
    log = log_of(spool)
    await log.append(0, b"hello")
    shutil.rmtree(tmp_path / "spool" / "u-ann")
    follower = Follower(spool)
    await asyncio.wait({follower.task}, timeout=0.1)
    assert follower.told.empty()
    assert not follower.task.done()
    follower.task.cancel()
