"""How long a job takes to begin once it is submitted, and how long its end takes to be seen.

A terminal watches, as `swm wait` does; one job at a time goes through a quiet core. Both times are
taken in the terminal's process, except for the end: the job's script writes the time as its last
act, by a variable of the shell, so what it takes to leave is counted, and no process is started
for the clock. Seen is the end when the terminal is told SUCCEEDED: all output is safe by then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from bench import peer
from bench.core import Core, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.processes import wait_until
from bench.submits import timed
from skyport.terminal.v1 import job_pb2

_START = Limit(
    "start-time",
    Good.AT_MOST,
    15,
    "from submit until the terminal sees RUNNING, p50, in echoes after a pause",
)
_END = Limit(
    "end-time",
    Good.AT_MOST,
    15,
    "from the end of the process until the terminal sees SUCCEEDED, p50, in echoes after a pause",
)

DEADLINE_S = 30.0
QUIET_S = 0.25
"""Between jobs: the site cleans up after one, which is not to be measured with the next."""
_WARM_UP = 3
_ECHOES = 2
"""Each after the same quiet as a job: processes and disks that have slept answer later."""

_State: TypeAlias = job_pb2.JobState.ValueType


class Watch:
    """When this terminal saw which state of which job, in seconds since the epoch."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, _State], float] = {}
        self._changed = threading.Condition()

    def take(self, answer: job_pb2.WatchJobsResponse) -> None:
        """Note what the core tells."""
        now = time.time()
        with self._changed:
            for event in answer.events:
                self._seen.setdefault((event.job_id, event.to_state), now)
            self._changed.notify_all()

    def seen(self, job_id: str, state: _State) -> float | None:
        """When it was seen; None if it was not."""
        with self._changed:
            return self._seen.get((job_id, state))

    def wait_for(self, job_id: str, state: _State, within_s: float = DEADLINE_S) -> float:
        """When it was seen.

        Raises:
            TimeoutError: It was not seen in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: (job_id, state) in self._seen, within_s):
                raise TimeoutError(f"job {job_id} was never seen {job_pb2.JobState.Name(state)}")
            return self._seen[job_id, state]


@contextlib.contextmanager
def watching(core: Core) -> Iterator[Watch]:
    """A terminal that watches all jobs."""
    watch = Watch()
    caught_up = threading.Event()
    with core.client.stream(core.client.jobs.WatchJobs, job_pb2.WatchJobsRequest()) as answers:

        def read() -> None:
            with contextlib.suppress(Exception):  # the stream is cut in the end
                for answer in answers:
                    watch.take(answer)
                    if answer.caught_up:
                        caught_up.set()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        if not caught_up.wait(DEADLINE_S):
            raise TimeoutError("the watch does not catch up")
        yield watch
    thread.join(DEADLINE_S)


def one_job(core: Core, watch: Watch) -> tuple[float, float]:
    """Seconds from submit to RUNNING, and from the end of the process to SUCCEEDED."""
    name = secrets.token_hex(16)
    go, ended = core.folder / f"{name}.go", core.folder / f"{name}.ended"
    os.mkfifo(go)
    request = job_pb2.SubmitJobRequest(script=_script(go, ended), request_id=name)
    submitted = time.time()
    job_id = core.client.jobs.SubmitJob(request, timeout=DEADLINE_S).job.job_id
    running = watch.wait_for(job_id, job_pb2.JOB_STATE_RUNNING)
    # It ends only when all is quiet, otherwise its end would meet its own beginning.
    time.sleep(QUIET_S)
    release(go)
    succeeded = watch.wait_for(job_id, job_pb2.JOB_STATE_SUCCEEDED)
    return running - submitted, succeeded - float(ended.read_text())


def _script(go: Path, ended: Path) -> bytes:
    return (
        "#!/bin/bash\n"
        "#SWM cpus 1\n"
        "LC_ALL=C\n"
        f"read -r _ <'{go}'\n"
        f"printf %s \"$EPOCHREALTIME\" >'{ended}'\n"
    ).encode()


def release(fifo: Path) -> None:
    """Let the job go on; it opens the other end as soon as it runs."""

    def opened() -> int | None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    descriptor = wait_until(opened, "the job to wait for its release")
    os.write(descriptor, b"go\n")
    os.close(descriptor)


def _times(short: bool) -> list[Figure]:
    rounds = 15 if short else 80
    starts: list[float] = []
    ends: list[float] = []
    echoes: list[float] = []
    with (
        serving() as core,
        peer.serving(core.home) as address,
        peer.secure_channel(core.bundle, address) as channel,
        watching(core) as watch,
    ):
        echo = peer.echo(channel)
        for number in range(_WARM_UP + rounds):
            start, end = one_job(core, watch)
            times = []
            for _ in range(_ECHOES):
                time.sleep(QUIET_S)
                times.append(timed(echo, b""))
            if number >= _WARM_UP:
                starts.append(start)
                ends.append(end)
                echoes += times
    echo_ms = statistics.median(echoes) * 1e3
    return [
        _START.figure(statistics.median(starts) * 1e3, echo_ms, "ms"),
        _END.figure(statistics.median(ends) * 1e3, echo_ms, "ms"),
    ]


BENCHMARKS = (Benchmark((_START, _END), _times),)
