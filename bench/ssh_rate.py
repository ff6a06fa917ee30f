"""Many short jobs on one host: how many a second go their whole way, beside execs in a row.

A job is a job: it has its place at the host, its supervisor, its files, its end on both disks. An
exec is a process that nobody looks after. The time is from the first submit until the last job was
seen to have succeeded; submits go out one after another meanwhile.
"""

from __future__ import annotations

import secrets
import statistics
import time

from bench.core import Core
from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import DEADLINE_S, Watch, watching
from bench.ssh_site import peer_of, ssh_serving
from skyport.terminal.v1 import job_pb2

_JOBS = 200
_SHORT_JOBS = 60
_SCRIPT = b"#!/bin/sh\n#SWM cpus 1\nexec true\n"

_RATE = Limit(
    "ssh-job-rate",
    Good.AT_LEAST,
    0.25,
    f"{_JOBS} jobs that do nothing, from submit to SUCCEEDED, in execs of `true` one by one",
)


def _rate(short: bool) -> list[Figure]:
    count, rounds = (_SHORT_JOBS, 2) if short else (_JOBS, 4)
    jobs: list[float] = []
    execs: list[float] = []
    with ssh_serving() as site, peer_of(site) as peer, watching(site.core) as watch:
        makespan(site.core, watch, 10)
        for _ in range(rounds):
            execs.append(count / sum(peer.execs(count)))
            jobs.append(count / makespan(site.core, watch, count))
    return [_RATE.figure(statistics.median(jobs), statistics.median(execs), "a second")]


def makespan(
    core: Core,
    watch: Watch,
    count: int,
    script: bytes = _SCRIPT,
    *,
    within_s: float = DEADLINE_S,
) -> float:
    """Seconds that so many jobs took together.

    Args:
        core: Where they go.
        watch: Sees their ends.
        count: How many.
        script: Of each.
        within_s: For each, after the one before.
    """
    began = time.time()
    job_ids = []
    for _ in range(count):
        request = job_pb2.SubmitJobRequest(script=script, request_id=secrets.token_hex(16))
        job_ids.append(core.client.call(core.client.jobs.SubmitJob, request).job.job_id)
    succeeded = job_pb2.JOB_STATE_SUCCEEDED
    ends = [watch.wait_for(job_id, succeeded, within_s) for job_id in job_ids]
    return max(ends) - began


BENCHMARKS = (Benchmark((_RATE,), _rate),)
