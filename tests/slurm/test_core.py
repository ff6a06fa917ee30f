"""A core with a Slurm site: jobs go their whole way, many at a time, and through its bad days."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.apptainer import DIGEST, SLOW, Apptainer
from tests.slurm.harness import SITE, SlurmSite, site_config
from tests.system.harness.core import Core, free_port, running_sites
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
    QUEUED_AT_SITE,
    RUNNING,
    STAGING_OUT,
    STARTING,
    SUCCEEDED,
)
from tests.system.harness.tunnels import Tunnel, answering
from tests.testbed.slurm import Slurm

LONG_S = 90.0
JOBS = 500

SERVER = """#!/usr/bin/env python3
#SWM ports 0/tcp/in WEB
import os, socket
server = socket.create_server(("{address}", int(os.environ["SWM_PORT_WEB"])))
print("up", flush=True)
connection, _ = server.accept()
data = b"".join(iter(lambda: connection.recv(65536), b""))
connection.sendall(data[::-1])
connection.close()
"""
CALLER = """#!/usr/bin/env python3
#SWM ports {port}/tcp/out
import socket, time
while True:
    try:
        connection = socket.create_connection(("127.0.0.1", {port}))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
connection.sendall(b"hello")
connection.shutdown(socket.SHUT_WR)
print(connection.recv(100).decode())
"""


@pytest.fixture(scope="module")
def core(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """Two sites of the same cluster: of the second, nodes let nobody in."""
    folder = tmp_path_factory.mktemp("core")
    sites = [
        SlurmSite.make(
            SITE,
            folder / SITE,
            site_config(
                cluster,
                slurm={"compute_ssh": True},
                containers={"runtime": "apptainer"},
                volumes={"tmp": "/tmp:rw"},
            ),
        ),
        SlurmSite.make(
            "shut", folder / "shut", site_config(cluster, "~/.shut", slurm={"max_jobs": 2})
        ),
    ]
    with running_sites(folder, sites) as core:
        yield core


def test_a_job_goes_through_the_queue_with_its_files(core: Core) -> None:
    script = "#SWM input-files in.txt\n#SWM output out\nmkdir out; tr a-z A-Z <in.txt | tee out/x"
    job = core.user().submit(script, inputs={"in.txt": b"hello\n"}, site=SITE)
    job.until(SUCCEEDED, within_s=LONG_S)
    assert [state for state in job.states if state != RUNNING][-3:] == [
        QUEUED_AT_SITE, STAGING_OUT, SUCCEEDED
    ]  # fmt: skip
    assert job.output() == b"HELLO\n"
    found = job.outputs()["out/x"]
    assert isinstance(found, File)
    assert found.data == b"HELLO\n"
    failed = core.user().submit("echo oops >&2; exit 3", site=SITE).until(FAILED, within_s=LONG_S)
    assert (failed.failure.reason, failed.exit_code) == ("EXIT_CODE", 3)


def test_directives_and_options_reach_slurm(core: Core, cluster: Slurm) -> None:
    script = (
        "#SWM cpus 2\n#SWM mem 100M\n#SWM time 5:00\n#SWM site-option slurm.nice 7\n"
        "#SWM env GREETING=hi\n#SBATCH --mem=1G\n#SBATCH --comment-of-nobody\n"
        'scontrol show job $SLURM_JOB_ID; echo "$GREETING"'
    )
    job = core.user().submit(script, site=SITE)
    ended = job.until(SUCCEEDED, FAILED, within_s=LONG_S)
    assert any("--mem" in warning for warning in ended.attempts[-1].warnings), ended.attempts
    told = job.output().decode()
    for part in ("NumCPUs=2", "MinMemoryNode=100M", "TimeLimit=00:07:00", "Nice=7", "hi\n"):
        assert part in told, told


def test_ports_are_reached_in_both_directions(core: Core) -> None:
    user = core.user()
    # For a node that lets nobody in, a job listens where the login node reaches it.
    for site, address in ((SITE, "127.0.0.1"), ("shut", "")):
        job = user.submit(SERVER.format(address=address), site=site)
        job.written(b"up\n", within_s=LONG_S)
        tunnel = Tunnel.connect(user, job.job_id, port_name="WEB")
        tunnel.send(b"abc")
        tunnel.end()
        assert tunnel.rest() == b"cba"
        tunnel.close()
        job.until(SUCCEEDED, within_s=LONG_S)


def test_a_job_reaches_a_port_at_the_users_side(core: Core) -> None:
    port = free_port()
    with answering(port) as came:
        job = core.user().submit(CALLER.format(port=port), site=SITE)
        job.until(SUCCEEDED, within_s=LONG_S)
    assert came == [b"hello"]
    assert job.output() == b"heard hello\n"


def test_a_core_and_a_gate_die_while_jobs_wait_and_run(
    core: Core, cluster: Slurm, tmp_path: Path
) -> None:
    go = cluster.login.home() / "go"
    script = (
        "#SWM nodes 2\n#SWM site-option slurm.exclusive yes\n"
        f"echo up; until [ -e ~/{go.name} ]; do sleep 0.1; done"
    )
    running = core.user().submit(script, site=SITE)
    running.until(RUNNING, within_s=LONG_S)
    waiting = core.user().submit(script, site=SITE)
    waiting.until(QUEUED_AT_SITE, within_s=LONG_S)
    core.kill()
    core.start()
    core.wait_ready(SITE)
    core.kill_gate(SITE)
    go.touch()
    for job in (running, waiting):
        job.until(SUCCEEDED, within_s=LONG_S)
        assert job.output() == b"up\n"
        assert job.get().attempt == 1
    cancelled = core.user().submit("#SWM site-option slurm.begin now+1hour\ntrue", site=SITE)
    cancelled.until_text("BeginTime", within_s=LONG_S)
    cancelled.cancel()
    cancelled.until(CANCELLED, within_s=LONG_S)


def test_a_job_waits_for_its_image_and_then_in_the_queue(core: Core, apptainer: Apptainer) -> None:
    script = f"#SWM container-image {SLOW}\n#SWM storage tmp\necho $IN $SWM_STORAGE_TMP"
    # The other site has neither.
    job = core.user().submit(script)
    job.until_text(f"pulling {SLOW}: 1 layers", within_s=LONG_S)
    apptainer.go()
    (attempt,) = job.until(SUCCEEDED, within_s=LONG_S).attempts
    assert (attempt.site, attempt.image_digest) == (SITE, DIGEST)
    assert job.states.index(STARTING) < job.states.index(QUEUED_AT_SITE)
    assert job.output() == b"image /tmp\n"


def test_what_the_queue_does_not_take_waits_in_the_core(core: Core) -> None:
    jobs = [core.user().submit("sleep 0.2", site="shut") for _ in range(5)]
    for job in jobs:
        job.until(SUCCEEDED, within_s=LONG_S)
        assert job.get().attempt == 1


def test_the_queue_is_asked_at_most_once_a_second_however_many_jobs_there_are(
    core: Core, cluster: Slurm
) -> None:
    user = core.user()
    before, began = _asked(cluster), time.monotonic()
    jobs = [user.submit("#!/bin/sh\ntrue", site=SITE) for _ in range(JOBS)]
    for job in jobs:
        job.until(SUCCEEDED, within_s=300)
    asked, took_s = _asked(cluster) - before, time.monotonic() - began
    # Two sites ask, and each may begin and end with a question.
    assert 0 < asked <= took_s + 4, f"{asked} in {took_s:.0f} s"


def _asked(slurm: Slurm) -> int:
    return len(slurm.counted.read_text().splitlines())
