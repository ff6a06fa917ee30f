"""The command line: measures what was asked for, prints a line for each figure."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bench import (
    azure,
    command_line,
    containers,
    job_times,
    load,
    memory,
    slurm,
    slurm_makespan,
    slurm_psij,
    ssh_files,
    ssh_memory,
    ssh_rate,
    ssh_times,
    ssh_tunnels,
    submits,
    uploads,
)
from bench.figures import Benchmark

_ALL: tuple[Benchmark, ...] = (
    *submits.BENCHMARKS,
    *job_times.BENCHMARKS,
    *uploads.BENCHMARKS,
    *command_line.BENCHMARKS,
    *memory.BENCHMARKS,
    *load.BENCHMARKS,
    *ssh_times.BENCHMARKS,
    *ssh_rate.BENCHMARKS,
    *ssh_files.BENCHMARKS,
    *ssh_tunnels.BENCHMARKS,
    *ssh_memory.BENCHMARKS,
    *slurm.BENCHMARKS,
    *slurm_makespan.BENCHMARKS,
    *slurm_psij.BENCHMARKS,
    *containers.BENCHMARKS,
    *azure.BENCHMARKS,
)
_NAMES = tuple(limit.name for benchmark in _ALL for limit in benchmark.limits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a promise was missed or could not be measured, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures; none means all")
    parser.add_argument("--short", action="store_true", help="fewer rounds, smaller files")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--list", action="store_true", help="tell the figures, measure nothing")
    asked = parser.parse_args(arguments)
    if asked.list:
        for benchmark in _ALL:
            for limit in benchmark.limits:
                print(f"{limit.name:15} {limit.good} {limit.ratio:g}: {limit.promise}")
        return 0
    if unknown := set(asked.names) - set(_NAMES):
        parser.error(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(_NAMES)}")
    # As by Ctrl-C: what was started is ended, and what was made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _warn()
    wanted = set(asked.names) or set(_NAMES)
    good = True
    for benchmark in _ALL:
        if wanted.intersection(limit.name for limit in benchmark.limits):
            good &= _measure(benchmark, wanted, short=asked.short, as_json=asked.json)
    return 0 if good else 1


def _measure(benchmark: Benchmark, wanted: set[str], *, short: bool, as_json: bool) -> bool:
    names = [limit.name for limit in benchmark.limits if limit.name in wanted]
    began = time.monotonic()
    try:
        figures = [each for each in benchmark.run(short) if each.limit.name in wanted]
    except Exception as error:  # noqa: BLE001 - what can't be measured must not hide the others
        text = f"{type(error).__name__}: {error}"
        for name in names:
            if as_json:
                print(json.dumps({"name": name, "ok": False, "error": text}), flush=True)
            else:
                print(f"{name} FAILED ({text})", flush=True)
        return False
    for figure in figures:
        print(json.dumps(figure.record()) if as_json else figure.line(), flush=True)
    if sys.stderr.isatty():
        print(f"  {', '.join(names)}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return all(figure.is_met for figure in figures)


def _warn() -> None:
    """Say what would make figures that mean little."""
    folder = tempfile.gettempdir()
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", folder], text=True, capture_output=True, check=False
    ).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        print(
            f"bench: {folder} is in memory, where syncing costs nothing; set TMPDIR to a folder on "
            "a disk",
            file=sys.stderr,
        )
    cpus, load = os.cpu_count() or 1, os.getloadavg()[0]
    if load > cpus / 2:
        print(f"bench: the machine is busy (load {load:.1f} on {cpus} cores)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
