"""Submits: how many a second, and how long one takes, beside an echo that does nothing.

The only node is full, so that no job starts and nothing but submits is measured. Each is on disk
when it is answered; what the core does with queued jobs besides goes on as it always does.
"""

from __future__ import annotations

import contextlib
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec

from bench import peer
from bench.callers import SCRIPT
from bench.core import CPUS, Core, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.processes import ask, running, wait_until
from skyport.terminal.v1 import job_pb2

P = ParamSpec("P")

_CALLERS = 16
_BLOCKER = f"#!/bin/sh\n#SWM cpus {CPUS}\nexec sleep 86400\n".encode()

_RATE = Limit(
    "submit-rate", Good.AT_LEAST, 0.3, f"durable submits of {_CALLERS} callers, in echoes"
)
_LATENCY = Limit("submit-time", Good.AT_MOST, 4, "a submit of one caller, p50, in echoes")


@contextlib.contextmanager
def _full_core() -> Iterator[Core]:
    """A core whose only node is taken by a job that does not end."""
    with serving() as core:
        blocker = core.client.submit(_BLOCKER).job.job_id
        request = job_pb2.GetJobRequest(job_id=blocker)

        def is_in(state: job_pb2.JobState.ValueType) -> bool | None:
            return core.client.call(core.client.jobs.GetJob, request).job.state == state or None

        wait_until(lambda: is_in(job_pb2.JOB_STATE_RUNNING), "the job that fills the node")
        try:
            yield core
        finally:
            # A core leaves its jobs running, and this one would run for a day.
            core.client.call(core.client.jobs.CancelJob, job_pb2.CancelJobRequest(job_id=blocker))
            wait_until(lambda: is_in(job_pb2.JOB_STATE_CANCELLED), "its end")


def _rate(short: bool) -> list[Figure]:
    rounds, seconds = (3, 1.0) if short else (7, 1.5)
    submits: list[float] = []
    echoes: list[float] = []
    with (
        _full_core() as core,
        peer.serving(core.home) as address,
        running("bench.callers", str(core.home / "client.toml"), address, str(_CALLERS)) as callers,
    ):
        for what in ("echo", "submit"):
            ask(callers, f"{what} 0.3")  # connections are made
        for _ in range(rounds):
            echoes.append(float(ask(callers, f"echo {seconds}")))
            submits.append(float(ask(callers, f"submit {seconds}")))
    return [_RATE.figure(statistics.median(submits), statistics.median(echoes), "calls/s")]


def _latency(short: bool) -> list[Figure]:
    rounds = 300 if short else 1_500
    with (
        _full_core() as core,
        peer.serving(core.home) as address,
        peer.secure_channel(core.bundle, address) as channel,
    ):
        echo = peer.echo(channel)
        submit = core.client.jobs.SubmitJob
        echoes: list[float] = []
        submits: list[float] = []
        for _ in range(rounds):
            echoes.append(timed(echo, b""))
            request = job_pb2.SubmitJobRequest(script=SCRIPT, request_id=secrets.token_hex(16))
            submits.append(timed(submit, request))
    return [
        _LATENCY.figure(statistics.median(submits) * 1e3, statistics.median(echoes) * 1e3, "ms")
    ]


def timed(call: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> float:
    """Seconds that a call took."""
    began = time.perf_counter()
    call(*arguments, **named)
    return time.perf_counter() - began


BENCHMARKS = (Benchmark((_RATE,), _rate), Benchmark((_LATENCY,), _latency))
