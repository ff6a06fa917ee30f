"""Jobs through a real Slurm beside `sbatch` by hand on its login node, in one run.

The cluster, its login node and the core share this machine, so whatever the core takes is missing
to the cluster. Of a job by hand the beginning and the end are the times that its script writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import tomlkit

from bench.core import Core, Site, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import Watch, watching
from bench.processes import wait_until
from skyport.terminal.v1 import job_pb2
from tests.slurm.harness import site_config
from tests.testbed.slurm import Slurm

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
_LATE_S = 0.3
_START_AWAY = dataclasses.replace(_START, name="slurm-start-network")
_END_AWAY = dataclasses.replace(_END, name="slurm-end-network")
_BY_HAND = """#!/bin/bash
printf %s "$EPOCHREALTIME" >{folder}/.began && mv {folder}/.began {folder}/began
sleep 2
printf %s "$EPOCHREALTIME" >{folder}/.ended && mv {folder}/.ended {folder}/ended
"""


@contextlib.contextmanager
def slurm_serving(
    cpus: int, *, network_homes: bool = False
) -> Iterator[tuple[Slurm, Core, Watch, Path]]:
    """A cluster of two nodes, a core with it as its site, who watches, and a folder on it.

    Args:
        cpus: Of each node.
        network_homes: Whether homes are on a file system that tells nobody of what others write.
            What it keeps of a file is not waited for, as on NFS.
    """
    with Slurm(cpus=cpus, network_homes=network_homes) as slurm:
        config = tomlkit.dumps(site_config(slurm, slurm={"fuse_cache_s": 0}))
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


def by_core(core: Core, watch: Watch, folder: Path) -> tuple[float, float]:
    """Seconds from submit to RUNNING, and from the end until it is seen, as a terminal has them."""
    began = time.time()
    request = job_pb2.SubmitJobRequest(script=_script(folder).encode(), request_id=f"b{began}")
    job_id = core.client.jobs.SubmitJob(request, timeout=30).job.job_id
    start_s = watch.wait_for(job_id, job_pb2.JOB_STATE_RUNNING) - began
    seen = watch.wait_for(job_id, job_pb2.JOB_STATE_SUCCEEDED)
    (folder / "began").unlink()
    return start_s, seen - _taken(folder / "ended")


def _times(short: bool) -> list[Figure]:
    return _measured(short, _START, _END, network_homes=False)


def _times_network(short: bool) -> list[Figure]:
    return _measured(short, _START_AWAY, _END_AWAY, network_homes=True)


def _measured(short: bool, of_start: Limit, of_end: Limit, *, network_homes: bool) -> list[Figure]:
    rounds = 5 if short else 15
    with slurm_serving(32, network_homes=network_homes) as (slurm, core, watch, folder):
        (folder / "job.sh").write_text(_script(folder))
        ours, theirs = [], []
        for number in range(rounds + 1):
            pair = _by_hand(slurm, folder), by_core(core, watch, folder)
            if number:
                theirs.append(pair[0])
                ours.append(pair[1])
        start, end = (statistics.median(each) for each in zip(*ours, strict=True))
        peer_start, peer_end = (statistics.median(each) for each in zip(*theirs, strict=True))
    return [
        of_start.figure(start, peer_start, "s"),
        of_end.figure(end, peer_end + _LATE_S, "s"),
    ]


BENCHMARKS = (
    Benchmark((_START, _END), _times),
    Benchmark((_START_AWAY, _END_AWAY), _times_network),
)
