"""A core with much to do: many jobs wait, many run, many watch; beside an echo under the same load.

The echo is a server of its own on the same machine, called by the same process in between: what
the load takes from the machine, it takes from both.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench import peer
from bench.callers import SCRIPT
from bench.core import Core, Site, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.memory import idle
from bench.processes import ask, running, wait_until
from bench.submits import timed
from skyport.terminal.v1 import job_pb2
from swm_core.home import Home
from swm_core.lifecycle.retention import EVENTS_KEPT
from swm_core.store import Store
from terminals.client import Client

_SUBMIT = Limit("load-submit-time", Good.AT_MOST, 20, "a submit, p99, in echoes, p50")
_LIST = Limit("load-list-time", Good.AT_MOST, 10, "a page of 100 jobs, p99, in echoes, p50")
_MEMORY = Limit("load-memory", Good.AT_MOST, 8, "the core, in `python -c 'import grpc'`")
_COMPACT = Limit(
    "compact-time",
    Good.AT_MOST,
    20,
    "a submit while the core lets go of a million events, p99, in echoes, p50",
)

_QUEUED, _RUNNING, _WATCHERS = 10_000, 200, 50
_SHORT = 10
"""How many times less there is of all in the short form."""
_EVENTS = 1_000_000
_COMPACTED_WITHIN_S = 600.0
_CALLERS = 8
_LASTING = b"#!/bin/sh\n#SWM cpus 1\nexec sleep 86400\n"
_PAGE = 100


def _load(short: bool) -> list[Figure]:
    part = _SHORT if short else 1
    queued, count = _QUEUED // part, _RUNNING // part
    with (
        serving(_site(count), {"limits": {"active_jobs_per_user": 0}}) as core,
        peer.serving(core.home) as address,
        peer.secure_channel(core.bundle, address) as channel,
        running(
            "bench.watchers", str(core.home / "client.toml"), str(_WATCHERS // part)
        ) as watchers,
    ):
        ask(watchers)
        with _lasting(core, count):
            _submit_many(core, queued)
            rounds = 1_000 // part
            echo = peer.echo(channel)
            submits, lists = [], []
            echoes = [timed(echo, b"") for _ in range(20)]
            for _ in range(rounds):
                submits.append(_submit_time(core.client))
                echoes.append(timed(echo, b""))
                lists.append(_list_time(core.client))
                echoes.append(timed(echo, b""))
            seen = ask(watchers, str(_last_sequence(core)))
            if seen != "whole":
                raise RuntimeError(f"of the events that watchers were to see, {seen}")
            memory = idle(_MEMORY, core.pid)
        median = statistics.median(echoes) * 1e3
        return [
            _SUBMIT.figure(_p99(submits) * 1e3, median, "ms"),
            _LIST.figure(_p99(lists) * 1e3, median, "ms"),
            memory,
        ]


def _compact(short: bool) -> list[Figure]:
    old = _EVENTS // (_SHORT if short else 1)
    # Old events go in the first round, which comes as soon as jobs may be forgotten.
    settings = {"spool": {"job_retention": "10s"}}
    with (
        serving(_site(1), settings, lambda home: _write_events(home, old)) as core,
        _lasting(core, 1),
        peer.serving(core.home) as address,
        peer.secure_channel(core.bundle, address) as channel,
    ):
        echo = peer.echo(channel)
        echoes, submits = [], []
        deadline = time.monotonic() + _COMPACTED_WITHIN_S
        # From before it begins until it is over.
        while _first_sequence(core) <= old:
            for _ in range(20):
                echoes.append(timed(echo, b""))
                submits.append(_submit_time(core.client))
            if time.monotonic() > deadline:
                raise TimeoutError("old events are kept for ever")
        return [_COMPACT.figure(_p99(submits) * 1e3, statistics.median(echoes) * 1e3, "ms")]


def _site(cpus: int) -> Site:
    nodes = f'[{{ name = "node1", cpus = {cpus} }}]'
    text = f'state_dir = "site"\n\n[partitions.local]\nkind = "static"\nnodes = {nodes}\n'
    return Site("fake", "gates.fake_gate", text)


@contextlib.contextmanager
def _lasting(core: Core, count: int) -> Iterator[None]:
    """So many jobs that run, and fill the site."""
    jobs = [core.client.submit(_LASTING).job.job_id for _ in range(count)]
    wait_until(lambda: _count(core, job_pb2.JOB_STATE_RUNNING) == count or None, "jobs to run", 300)
    try:
        yield
    finally:
        # A core leaves its jobs running, and these would run for a day.
        _cancel(core, [*_ids(core, job_pb2.JOB_STATE_QUEUED), *jobs])
        wait_until(lambda: not _count(core, job_pb2.JOB_STATE_RUNNING) or None, "their end", 300)


def _submit_many(core: Core, count: int) -> None:
    with ThreadPoolExecutor(_CALLERS) as pool:
        list(pool.map(lambda _: _submit_time(core.client), range(count)))


def _cancel(core: Core, jobs: list[str]) -> None:
    def cancel(job_id: str) -> None:
        core.client.call(core.client.jobs.CancelJob, job_pb2.CancelJobRequest(job_id=job_id))

    with ThreadPoolExecutor(_CALLERS) as pool:
        list(pool.map(cancel, jobs))


def _submit_time(client: Client) -> float:
    request = job_pb2.SubmitJobRequest(script=SCRIPT, request_id=secrets.token_hex(16))
    return timed(client.jobs.SubmitJob, request)


def _list_time(client: Client) -> float:
    return timed(client.jobs.ListJobs, job_pb2.ListJobsRequest(page_size=_PAGE))


def _ids(core: Core, state: job_pb2.JobState.ValueType) -> list[str]:
    request = job_pb2.ListJobsRequest(filter=job_pb2.JobFilter(states=[state]), page_size=1_000)
    found: list[str] = []
    while True:
        answer = core.client.call(core.client.jobs.ListJobs, request)
        found += [job.job_id for job in answer.jobs]
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def _count(core: Core, state: job_pb2.JobState.ValueType) -> int:
    return len(_ids(core, state))


def _read(core: Core, what: str) -> int:
    with contextlib.closing(sqlite3.connect(Home(core.home).database, timeout=60)) as store:
        return int(store.execute(f"SELECT {what} FROM events").fetchone()[0])  # noqa: S608 - our own text  # nosec B608


def _last_sequence(core: Core) -> int:
    return _read(core, "max(sequence)")


def _first_sequence(core: Core) -> int:
    return _read(core, "min(sequence)")


def _write_events(home: Home, old: int) -> None:
    """Leave what a core leaves that ran for years: `old` events to let go of, and those kept."""
    asyncio.run(Store.open(home.database).close())
    with contextlib.closing(sqlite3.connect(home.database)) as store, store:
        store.executemany(
            "INSERT INTO events"
            " (time, job_id, owner, attempt, from_state, to_state, kind, reason, message)"
            " VALUES (?, 'job', 'somebody', 1, 'RUNNING', 'RUNNING', 'UPDATE', '', 'text')",
            ((float(second),) for second in range(old + EVENTS_KEPT)),
        )


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


BENCHMARKS = (
    Benchmark((_SUBMIT, _LIST, _MEMORY), _load),
    Benchmark((_COMPACT,), _compact),
)
