"""What the SSH gate has in memory: with nothing to do, and while files and logs of any size pass.

As in `memory`, for the gate instead of the core.
"""

from __future__ import annotations

from bench.figures import Benchmark, Figure, Good, Limit
from bench.memory import file_goes_through, idle, log_goes_through, peaks
from bench.ssh_site import ssh_serving

_IDLE = Limit("ssh-idle-memory", Good.AT_MOST, 4, "the idle SSH gate, in `python -c 'import grpc'`")
_FILE = Limit(
    "ssh-file-memory",
    Good.AT_MOST,
    1.25,
    "the gate's peak while a file goes to a host and comes back, in that of 1/16 of its size",
)
_LOG = Limit(
    "ssh-log-memory",
    Good.AT_MOST,
    1.25,
    "the gate's peak while a job's log is followed and read, in that of 1/16 of its size",
)


def _idle(short: bool) -> list[Figure]:
    with ssh_serving() as site:
        return [idle(_IDLE, site.gate_pid)]


def _file(short: bool) -> list[Figure]:
    with ssh_serving() as site:
        return [peaks(_FILE, site.core, site.gate_pid, file_goes_through, short=short)]


def _log(short: bool) -> list[Figure]:
    with ssh_serving() as site:
        return [peaks(_LOG, site.core, site.gate_pid, log_goes_through, short=short)]


BENCHMARKS = (
    Benchmark((_IDLE,), _idle),
    Benchmark((_FILE,), _file),
    Benchmark((_LOG,), _log),
)
