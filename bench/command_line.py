"""How long `swm` takes to say something, beside Python that only imports grpc."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from bench.callers import SCRIPT
from bench.core import serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.processes import run
from bench.submits import timed

IMPORT_GRPC = "import grpc"

_HELP = Limit("help-time", Good.AT_MOST, 3, "`swm --help`, in `python -c 'import grpc'`")
_JOBS = Limit(
    "jobs-time", Good.AT_MOST, 4, "`swm jobs` with a few jobs, in `python -c 'import grpc'`"
)

_JOB_COUNT = 10


def _times(short: bool) -> list[Figure]:
    rounds = 7 if short else 25
    with serving() as core:
        for _ in range(_JOB_COUNT):
            core.client.submit(SCRIPT)
        swm = str(Path(sys.executable).with_name("swm"))
        commands = {
            "peer": [sys.executable, "-c", IMPORT_GRPC],
            "help": [swm, "--help"],
            "jobs": [swm, "jobs", "--all"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                took = timed(run, command, core.environment)
                if number:  # the first one reads from disk, and compiles
                    times[name].append(took)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return [
        _HELP.figure(medians["help"], medians["peer"], "s"),
        _JOBS.figure(medians["jobs"], medians["peer"], "s"),
    ]


BENCHMARKS = (Benchmark((_HELP, _JOBS), _times),)
