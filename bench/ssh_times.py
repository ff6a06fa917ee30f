"""How long a job on a host takes to begin, a line of it to be seen, and its end to be seen.

As in `job_times`, with sshd as the site and `true` on an open connection as the peer: one job at a
time on a quiet site, each event after a quarter of a second of rest, and so is each of the peer's.
The job takes the times itself, by a variable of its shell, right before it writes its line and
right before it leaves; all else is taken in the terminal's process.
"""

from __future__ import annotations

import os
import secrets
import statistics
import threading
import time
from pathlib import Path

from bench.core import Core
from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import DEADLINE_S, QUIET_S, Watch, release, watching
from bench.ssh_site import peer_of, ssh_serving
from skyport.terminal.v1 import job_pb2

_START = Limit(
    "ssh-start-time",
    Good.AT_MOST,
    8,
    "from submit until the terminal sees RUNNING on an idle host, p50, in execs after a pause",
)
_LOG = Limit(
    "ssh-log-time",
    Good.AT_MOST,
    5,
    "from the first line that a job writes until a terminal that follows has it, p50, in execs",
)
_END = Limit(
    "ssh-end-time",
    Good.AT_MOST,
    8,
    "from the end of the process until the terminal sees SUCCEEDED, p50, in execs after a pause",
)

_LINE = b"the first line\n"
_WARM_UP = 3
_EXECS = 2


def _one_job(core: Core, watch: Watch) -> tuple[float, float, float]:
    """Seconds from submit to RUNNING, from the line to here, and from the end to SUCCEEDED."""
    name = secrets.token_hex(16)
    write, leave, wrote, left = (
        core.folder / f"{name}.{part}" for part in ("write", "leave", "wrote", "left")
    )
    os.mkfifo(write)
    os.mkfifo(leave)
    script = (
        "#!/bin/bash\n"
        "#SWM cpus 1\n"
        "LC_ALL=C\n"
        f"read -r _ <'{write}'\n"
        "at=$EPOCHREALTIME\n"
        f"echo '{_LINE.decode().strip()}'\n"
        f"printf %s \"$at\" >'{wrote}'\n"
        f"read -r _ <'{leave}'\n"
        f"printf %s \"$EPOCHREALTIME\" >'{left}'\n"
    )
    request = job_pb2.SubmitJobRequest(script=script.encode(), request_id=name)
    submitted = time.time()
    job_id = core.client.jobs.SubmitJob(request, timeout=DEADLINE_S).job.job_id
    running = watch.wait_for(job_id, job_pb2.JOB_STATE_RUNNING)
    reading = _Reading(core, job_id)
    time.sleep(QUIET_S)
    release(write)
    seen = reading.first_line()
    time.sleep(QUIET_S)
    release(leave)
    succeeded = watch.wait_for(job_id, job_pb2.JOB_STATE_SUCCEEDED)
    reading.join()
    return running - submitted, seen - _time_in(wrote), succeeded - _time_in(left)


def _time_in(path: Path) -> float:
    return float(path.read_text())


class _Reading:
    """Follows what a job writes, as `swm logs -f` does."""

    def __init__(self, core: Core, job_id: str) -> None:
        self._core = core
        self._job_id = job_id
        self._seen = 0.0
        self._has_come = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        data = b""
        for piece in self._core.client.read_output(self._job_id, follow=True):
            assert isinstance(piece, bytes)
            data += piece
            if data == _LINE:
                self._seen = time.time()
                self._has_come.set()

    def first_line(self) -> float:
        """When it came."""
        if not self._has_come.wait(DEADLINE_S):
            raise TimeoutError(f"the line of job {self._job_id} never came")
        return self._seen

    def join(self) -> None:
        """Wait for the end of what it writes."""
        self._thread.join(DEADLINE_S)


def _times(short: bool) -> list[Figure]:
    rounds = 12 if short else 60
    jobs: list[tuple[float, float, float]] = []
    execs: list[float] = []
    with ssh_serving() as site, peer_of(site) as peer, watching(site.core) as watch:
        for number in range(_WARM_UP + rounds):
            job = _one_job(site.core, watch)
            times = []
            for _ in range(_EXECS):
                time.sleep(QUIET_S)
                times += peer.execs(1)
            if number >= _WARM_UP:
                jobs.append(job)
                execs += times
    exec_ms = statistics.median(execs) * 1e3
    return [
        limit.figure(statistics.median(values) * 1e3, exec_ms, "ms")
        for limit, values in zip((_START, _LOG, _END), zip(*jobs, strict=True), strict=True)
    ]


BENCHMARKS = (Benchmark((_START, _LOG, _END), _times),)
