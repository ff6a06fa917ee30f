"""Whoever does not read costs no memory, and nobody else any time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator

import pytest

from skyport.terminal.v1 import file_pb2, job_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.jobs import RUNNING, STAGING_IN, STDOUT, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.memory import MiB, grows_less_than
from tests.system.harness.sites import node, static
from tests.system.harness.tunnels import Tunnel

NODE = "127.0.0.2"
SIZE = 64 * MiB
FILE_BYTES = 32 * MiB
READERS = 12
"""Each is offered a file: 384 MiB together."""
MUCH_LESS = 96 * MiB

# Tells in its output when nobody has taken anything for a while, and when all has been taken.
FLOOD = """#!/usr/bin/env python3
#SWM ports 0/tcp/in FLOOD
import os, socket, threading
server = socket.create_server(("{node}", int(os.environ["SWM_PORT_FLOOD"])))
print("listening", flush=True)
def flood(connection):
    left, told = memoryview(bytes({size})), False
    connection.settimeout(2)
    while left:
        try:
            left = left[connection.send(left[:1 << 18]):]
        except TimeoutError:
            if not told:
                print("stuck", {size} - len(left), flush=True)
                told = True
    print("all sent", flush=True)
    connection.shutdown(socket.SHUT_WR)
while True:
    threading.Thread(target=flood, args=server.accept()[:1], daemon=True).start()
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {
        "lab": static(node("n1", cpus=16), loopback=NODE),
        "other": static(node("m1")),
    }
    with running(tmp_path_factory.mktemp("slow"), sites) as core:
        yield core


@pytest.fixture(scope="module")
def large(core: Core) -> JobHandle:
    """A job of bo that has ended, with much output and a file as large."""
    job = core.user("bo").submit(
        f"#SWM output big\nhead -c {FILE_BYTES} /dev/zero | tr '\\0' x | tee big", site="lab"
    )
    job.until(SUCCEEDED, within_s=60)
    return job


def others_are_served(core: Core) -> None:
    """Another user's jobs go their whole way, at each site."""
    for site in core.sites:
        job = core.user("cy").submit("echo said", site=site)
        job.until(SUCCEEDED)
        assert job.output() == b"said\n"


def test_output_that_nobody_reads(core: Core, large: JobHandle) -> None:
    jobs = core.user("bo").jobs
    request = job_pb2.ReadOutputRequest(job_id=large.job_id, kind=STDOUT, follow=True)
    with grows_less_than(MUCH_LESS, core.pid), contextlib.ExitStack() as closing:
        calls = [jobs.ReadOutput(request, timeout=120) for _ in range(READERS)]
        for call in calls:
            closing.callback(call.cancel)
        heard = [next(call).data for call in calls]  # it is being sent
        others_are_served(core)
        whole = heard[0] + b"".join(answer.data for answer in calls[0])
    assert hashlib.sha256(whole).digest() == hashlib.sha256(b"x" * FILE_BYTES).digest()


def test_files_that_nobody_reads(core: Core, large: JobHandle) -> None:
    files = core.user("bo").files
    cursor = file_pb2.DownloadCursor(path="big")
    request = file_pb2.DownloadRequest(job_id=large.job_id, files=[cursor])
    with grows_less_than(MUCH_LESS, core.pid), contextlib.ExitStack() as closing:
        calls = [files.Download(request, timeout=120) for _ in range(READERS)]
        for call in calls:
            closing.callback(call.cancel)
        first = [next(call) for call in calls]
        others_are_served(core)
        received = sum(
            len(piece.data) for answer in (first[0], *calls[0]) for piece in answer.pieces
        )
    assert received == FILE_BYTES


def test_events_that_nobody_reads(core: Core, large: JobHandle) -> None:
    count = 20_000
    core.stop()
    with contextlib.closing(sqlite3.connect(core.home.database)) as database, database:
        last = database.execute("SELECT max(sequence) FROM events").fetchone()[0]
        database.executemany(
            "INSERT INTO events (time, job_id, owner, attempt, from_state, to_state, kind, reason,"
            " message) VALUES (0, ?, 'bo', 1, 'SUCCEEDED', 'SUCCEEDED', 'UPDATED', '', ?)",
            [(large.job_id, "a" * 1_000)] * count,
        )
    core.start()
    core.wait_ready()
    jobs = core.user("bo").jobs
    # From before all of them: 20 MB for each watch.
    request = job_pb2.WatchJobsRequest(job_ids=[large.job_id], resume_token=str(last))
    with grows_less_than(MUCH_LESS, core.pid), contextlib.ExitStack() as closing:
        calls = [jobs.WatchJobs(request, timeout=120) for _ in range(READERS)]
        for call in calls:
            closing.callback(call.cancel)
        first = [next(call) for call in calls]
        others_are_served(core)
        seen = [event.sequence for event in first[0].events]
        for answer in calls[0]:
            seen += [event.sequence for event in answer.events]
            if answer.caught_up:
                break
    assert seen == list(range(last + 1, last + 1 + count))


def test_a_connection_that_nobody_reads(core: Core) -> None:
    """Neither the core nor the gate takes more from the job than its terminal takes from them."""
    job = core.user("bo").submit(FLOOD.format(node=NODE, size=SIZE), site="lab")
    job.written(b"listening\n")
    gate = core.gate("lab").pid
    with grows_less_than(SIZE // 2, core.pid, gate):
        tunnel = Tunnel.connect(core.user("bo"), job.job_id, port_name="FLOOD")
        try:
            assert b"stuck " in job.written(b" ", within_s=60)
            others_are_served(core)
            # Another connection to the same job is not held up by it.
            second = Tunnel.connect(core.user("bo"), job.job_id, port_name="FLOOD")
            assert second.read()
            second.close()
            received = sum(map(len, iter(tunnel.read, b"")))
            assert received == SIZE
        finally:
            tunnel.close()
            job.cancel()


def test_a_gate_that_does_not_read_what_it_is_sent(core: Core) -> None:
    core.site("lab").faults(
        {"kind": "never", "method": "PutFiles", "after_requests": 4, "times": 1}
    )
    data = os.urandom(SIZE)
    job = core.user("bo").submit(
        "#SWM input big\nsha256sum < big", inputs={"big": data}, site="lab"
    )
    with grows_less_than(SIZE // 2, core.pid, core.gate("lab").pid):
        job.until(STAGING_IN)
        for _ in range(3):
            others_are_served(core)
        assert job.get().state == STAGING_IN
    core.site("lab").faults()
    core.kill_gate("lab")
    job.until(SUCCEEDED, within_s=60)
    assert job.output().split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_core_that_does_not_read_what_a_gate_tells(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold, done = latch(), latch()
    job = core.user("bo").submit(
        f"{hold.wait}; head -c {SIZE} /dev/zero | tr '\\0' x; echo > '{done.path}'; {hold.wait}",
        site="lab",
    )
    job.until(RUNNING)
    gate = core.gate("lab").pid
    with grows_less_than(SIZE // 2, gate):
        os.kill(core.pid, signal.SIGSTOP)
        try:
            hold.release()
            with done.path.open("rb", buffering=0) as written:
                assert written.read(1)  # the job goes on, whoever reads
        finally:
            os.kill(core.pid, signal.SIGCONT)
        hold.release()
        job.until(SUCCEEDED, within_s=60)
    assert job.output() == b"x" * SIZE
