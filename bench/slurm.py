"""Jobs through a real Slurm beside `sbatch` by hand on its login node, in one run.

The cluster, its login node and the core share this machine, so whatever the core takes is missing
to the cluster. Of a job by hand the beginning and the end are the times that its script writes.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import tomlkit

from bench.core import Core, Site, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import Watch, watching
from bench.processes import wait_until
from bench.ssh_rate import makespan
from skyport.terminal.v1 import job_pb2
from tests.slurm.harness import site_config
from tests.testbed.slurm import Slurm

_JOBS = 200
_SHORT_JOBS = 50

_START = Limit(
    "slurm-start",
    Good.AT_MOST,
    1.2,
    "from submit until the terminal sees RUNNING, p50, in what sbatch by hand takes to begin",
)
_END = Limit(
    "slurm-end",
    Good.AT_MOST,
    1,
    "from the end of the script until the terminal sees SUCCEEDED, p50, in what it takes until "
    "squeue says COMPLETED and 0.3 s",
)
_MAKESPAN = Limit(
    "slurm-makespan",
    Good.AT_MOST,
    1.1,
    f"{_JOBS} jobs that do nothing, from submit to SUCCEEDED, in a loop of sbatch",
)
_LATE_S = 0.3
_BY_HAND = """#!/bin/bash
printf %s "$EPOCHREALTIME" >{folder}/.began && mv {folder}/.began {folder}/began
sleep 0.3
printf %s "$EPOCHREALTIME" >{folder}/.ended && mv {folder}/.ended {folder}/ended
"""


@contextlib.contextmanager
def _serving() -> Iterator[tuple[Slurm, Core, Watch, Path]]:
    with Slurm(cpus=32) as slurm:
        config = tomlkit.dumps(site_config(slurm))
        slurm.ask("mkdir ~/by-hand")
        folder = slurm.login.home() / "by-hand"
        with (
            serving(Site("hpc", "gates.ssh_cluster_gate", config)) as core,
            watching(core) as watch,
        ):
            yield slurm, core, watch, folder


def _script(folder: Path) -> str:
    return _BY_HAND.format(folder=f"~/{folder.name}")


def _taken(file: Path) -> float:
    """The time that a script has written; the file is removed."""
    wait_until(lambda: file.exists() or None, f"{file.name} to be written")
    told = float(file.read_text())
    file.unlink()
    return told


def _by_hand(slurm: Slurm, folder: Path) -> tuple[float, float]:
    """Seconds from sbatch to the beginning, and from the end until squeue says so."""
    began = time.time()
    number = slurm.ask("cd ~/by-hand && sbatch --parsable job.sh").strip()
    start_s = _taken(folder / "began") - began
    ended = _taken(folder / "ended")
    while slurm.ask(f"/usr/bin/squeue -h -t all -j {number} -o %T").strip() != "COMPLETED":
        pass
    return start_s, time.time() - ended


def _by_core(core: Core, watch: Watch, folder: Path) -> tuple[float, float]:
    began = time.time()
    request = job_pb2.SubmitJobRequest(script=_script(folder).encode(), request_id=f"b{began}")
    job_id = core.client.jobs.SubmitJob(request, timeout=30).job.job_id
    start_s = watch.wait_for(job_id, job_pb2.JOB_STATE_RUNNING) - began
    seen = watch.wait_for(job_id, job_pb2.JOB_STATE_SUCCEEDED)
    (folder / "began").unlink()
    return start_s, seen - _taken(folder / "ended")


def _times(short: bool) -> list[Figure]:
    rounds = 5 if short else 15
    with _serving() as (slurm, core, watch, folder):
        (folder / "job.sh").write_text(_script(folder))
        ours, theirs = [], []
        for number in range(rounds + 1):
            pair = _by_hand(slurm, folder), _by_core(core, watch, folder)
            if number:
                theirs.append(pair[0])
                ours.append(pair[1])
        start, end = (statistics.median(each) for each in zip(*ours, strict=True))
        peer_start, peer_end = (statistics.median(each) for each in zip(*theirs, strict=True))
    return [
        _START.figure(start, peer_start, "s"),
        _END.figure(end, peer_end + _LATE_S, "s"),
    ]


def _together(short: bool) -> list[Figure]:
    count, rounds = (_SHORT_JOBS, 1) if short else (_JOBS, 3)
    ours, theirs = [], []
    with _serving() as (slurm, core, watch, _):
        makespan(core, watch, 5)
        for _ in range(rounds):
            began = time.monotonic()
            loop = f"i=0; while [ $i -lt {count} ]; do sbatch -Q -o /dev/null --wrap true; "
            slurm.ask(f"{loop} i=$((i + 1)); done")
            slurm.until_over()
            theirs.append(time.monotonic() - began)
            ours.append(makespan(core, watch, count))
    return [_MAKESPAN.figure(statistics.median(ours), statistics.median(theirs), "s")]


BENCHMARKS = (Benchmark((_START, _END), _times), Benchmark((_MAKESPAN,), _together))
