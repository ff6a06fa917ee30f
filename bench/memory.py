"""What the core has in memory: with nothing to do, and while files and logs of any size go through.

Flat means: sixteen times the size leaves the peak where it was. So the peer of a large file is a
small one, in the same core and just before, which has already met everything that is there once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from bench.command_line import IMPORT_GRPC
from bench.core import Core, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.processes import ask, begin_peak, end, peak_bytes, resident_bytes
from bench.uploads import write_random
from skyport.terminal.v1 import job_pb2

_IDLE = Limit("idle-memory", Good.AT_MOST, 3, "the idle core, in `python -c 'import grpc'`")
_FILE = Limit(
    "file-memory",
    Good.AT_MOST,
    1.25,
    "the core's peak while a file goes to a site and comes back, in that of 1/16 of its size",
)
_LOG = Limit(
    "log-memory",
    Good.AT_MOST,
    1.25,
    "the core's peak while a job's log is kept and read, in that of 1/16 of its size",
)

_MIB = 1 << 20
_LARGE_BYTES = 1 << 30
_SHORT_LARGE_BYTES = 256 << 20
_TIMES = 16
_SETTLE_S = 3.0


def _idle(short: bool) -> list[Figure]:
    with serving() as core:
        return [idle(_IDLE, core.pid)]


def idle(limit: Limit, pid: int) -> Figure:
    """What a process has that rests now."""
    peer = subprocess.Popen(
        [sys.executable, "-c", f"{IMPORT_GRPC}; print(flush=True); input()"],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with peer:
        try:
            ask(peer)
            time.sleep(_SETTLE_S)  # what a start leaves behind has gone by then, or stays
            return limit.figure(resident_bytes(pid) / _MIB, resident_bytes(peer.pid) / _MIB, "MiB")
        finally:
            end(peer)


def peaks(
    limit: Limit, core: Core, pid: int, go_through: Callable[[Core, int], None], *, short: bool
) -> Figure:
    """What a process has at most while something small goes through the core, then large."""
    large = _SHORT_LARGE_BYTES if short else _LARGE_BYTES
    found = []
    for size in (large // _TIMES, large):
        begin_peak(pid)
        go_through(core, size)
        found.append(peak_bytes(pid) / _MIB)
    return limit.figure(found[1], found[0], "MiB")


def _file(short: bool) -> list[Figure]:
    with serving() as core:
        return [peaks(_FILE, core, core.pid, file_goes_through, short=short)]


def file_goes_through(core: Core, size: int) -> None:
    """Up, to the site, through a job that changes it, back, and down."""
    path = core.folder / "input"
    write_random(path, size)
    script = (
        b"#!/bin/sh\n#SWM input-files input\n#SWM output-files output\n"
        b"{ echo changed; cat input; } >output && rm input\n"
    )
    job_id = core.client.submit(script, base=core.folder).job.job_id
    _await_success(core, job_id)
    results = core.folder / "results"
    core.client.fetch(job_id, results)
    came = (results / "output").stat().st_size
    assert came == size + len("changed\n"), f"{came} bytes came back"
    path.unlink()
    (results / "output").unlink()


def _log(short: bool) -> list[Figure]:
    with serving() as core:
        return [peaks(_LOG, core, core.pid, log_goes_through, short=short)]


def log_goes_through(core: Core, size: int) -> None:
    """Written by a job as fast as it can, followed meanwhile, and read again in the end."""
    script = f"#!/bin/sh\nyes 'a line of the log' | head -c {size}\n".encode()
    job_id = core.client.submit(script).job.job_id
    _read(core, job_id, size)
    _await_success(core, job_id)
    _read(core, job_id, size)


def _read(core: Core, job_id: str, size: int) -> None:
    count = sum(
        len(piece) if isinstance(piece, bytes) else piece.size
        for piece in core.client.read_output(job_id, follow=True)
    )
    assert count == size, f"{count} bytes of the log came"


def _await_success(core: Core, job_id: str) -> None:
    for job in core.client.wait_for([job_id]):
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            return
    raise RuntimeError(f"job {job_id} did not succeed: {job.text}")


BENCHMARKS = (
    Benchmark((_IDLE,), _idle),
    Benchmark((_FILE,), _file),
    Benchmark((_LOG,), _log),
)
