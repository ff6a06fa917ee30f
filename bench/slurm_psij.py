"""Jobs through a real Slurm beside PSI/J, which runs on the login node with its default polling.

PSI/J leaves there what jobs write; nothing else is asked of it.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
from pathlib import Path

from bench.figures import Benchmark, Figure, Good, Limit
from bench.slurm import by_core, slurm_serving
from bench.ssh_rate import makespan
from tests.testbed.slurm import Slurm

_JOBS = 200
_SHORT_JOBS = 50
_ENDS = 5
_SHORT_ENDS = 2
_WITHIN_S = 300.0
_SCRIPT = b"#!/bin/sh\n#SWM cpus 1\necho done\n"

_MAKESPAN = Limit(
    "slurm-makespan-psij",
    Good.AT_MOST,
    1,
    f"{_JOBS} jobs of one line, from submit to SUCCEEDED, in what PSI/J takes",
)
_END = Limit(
    "slurm-end-psij",
    Good.AT_MOST,
    0.1,
    "from the end of the script until the terminal sees SUCCEEDED, p50, in what PSI/J takes",
)
_PARTS = ("psij", "psij-descriptors", "psutil", "pystache", "typeguard", "packaging")


def _makespan(short: bool) -> list[Figure]:
    count, rounds = (_SHORT_JOBS, 1) if short else (_JOBS, 2)
    ours, theirs = [], []
    with slurm_serving(32) as (slurm, core, watch, _):
        _bring(slurm)
        makespan(core, watch, 5)
        for _ in range(rounds):
            ours.append(makespan(core, watch, count, _SCRIPT, within_s=_WITHIN_S))
            theirs.extend(_by_psij(slurm, "psij_jobs.py", count))
    return [_MAKESPAN.figure(statistics.median(ours), statistics.median(theirs), "s")]


def _ends(short: bool) -> list[Figure]:
    count = _SHORT_ENDS if short else _ENDS
    with slurm_serving(32) as (slurm, core, watch, folder):
        _bring(slurm)
        makespan(core, watch, 5)
        ours = [by_core(core, watch, folder)[1] for _ in range(count)]
        theirs = _by_psij(slurm, "psij_ends.py", count)
    return [_END.figure(statistics.median(ours), statistics.median(theirs), "s")]


def _bring(slurm: Slurm) -> None:
    """Put PSI/J on the login node: accounts there may not be let into somebody else's folders."""
    found = importlib.util.find_spec("psij")
    if found is None or found.origin is None:
        raise RuntimeError("psij-python is not here; run `.venv/bin/uv pip install --group bench`")
    installed, there = Path(found.origin).parents[1], slurm.login.home() / "psij"
    for name in _PARTS:
        shutil.copytree(installed / name, there / name)
    for module in installed.glob("typing_extensions.py"):
        shutil.copy(module, there)


def _by_psij(slurm: Slurm, script: str, count: int) -> list[float]:
    """The seconds that a script of ours tells, a line each."""
    words = ("env", f"PYTHONPATH=/home/{slurm.user}/psij", "python3", "-", str(count))
    done = subprocess.run(
        slurm.login.command(*words, user=slurm.user),
        input=Path(__file__).with_name(script).read_text(),
        text=True,
        capture_output=True,
        timeout=_WITHIN_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"PSI/J: {done.stderr[-500:]}")
    return [float(line) for line in done.stdout.split()]


BENCHMARKS = (Benchmark((_MAKESPAN,), _makespan), Benchmark((_END,), _ends))
