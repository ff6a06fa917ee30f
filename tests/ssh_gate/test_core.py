"""A core with this gate: jobs go their whole way, on this machine and on hosts by sshd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh_gate.harness import Cluster, SshSite
from tests.system.harness.core import Core, free_port, running_sites
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
    PROVISIONING,
    QUEUED,
    RUNNING,
    STAGING_IN,
    STAGING_OUT,
    STARTING,
    SUCCEEDED,
)
from tests.system.harness.tunnels import Tunnel, answering

NODE = "127.0.0.2"
"""The loopback of this machine where it is a node, so that both ends of a port are not the same."""

SERVER = """#!/usr/bin/env python3
#SWM ports 0/tcp/in WEB
import os, socket
server = socket.create_server(("{loopback}", int(os.environ["SWM_PORT_WEB"])))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    connection.sendall(data[::-1])
    connection.close()
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("core")
    with Cluster(folder / "hosts", "n1", "n2").running() as cluster:
        sites = [
            SshSite.make(
                "here", folder / "here", {"local": True, "shared_account": True, "loopback": NODE}
            ),
            SshSite.make("lab", folder / "lab", cluster.config()),
        ]
        with running_sites(folder, sites) as core:
            yield core


@pytest.mark.parametrize("site", ["here", "lab"])
def test_a_job_goes_through_all_states_with_its_files(core: Core, site: str) -> None:
    script = "#SWM input-files in.txt\n#SWM output out\nmkdir out; tr a-z A-Z <in.txt | tee out/x"
    job = core.user().submit(script, inputs={"in.txt": b"hello\n"}, site=site)
    ended = job.until(SUCCEEDED)
    # It is so short that nobody need have seen it run.
    assert [state for state in job.states if state != RUNNING] == [
        QUEUED, PROVISIONING, STAGING_IN, STARTING, STAGING_OUT, SUCCEEDED
    ]  # fmt: skip
    assert job.output() == b"HELLO\n"
    assert ended.exit_code == 0
    found = job.outputs()["out/x"]
    assert isinstance(found, File)
    assert found.data == b"HELLO\n"


@pytest.mark.parametrize("site", ["here", "lab"])
def test_a_job_that_fails_says_how_it_ended(core: Core, site: str) -> None:
    ended = core.user().submit("echo oops >&2; exit 3", site=site).until(FAILED)
    assert (ended.failure.reason, ended.exit_code) == ("EXIT_CODE", 3)


@pytest.mark.parametrize("site", ["here", "lab"])
def test_a_job_that_is_cancelled_ends_with_all_its_processes(core: Core, site: str) -> None:
    job = core.user().submit("(trap '' TERM; sleep 600) & echo up; sleep 600", site=site)
    job.until(RUNNING)
    job.written(b"up\n")
    job.cancel()
    job.until(CANCELLED, within_s=40)
    core.site(site).cleared(job.job_id)


def test_a_job_on_two_hosts_knows_both(core: Core) -> None:
    script = "#SWM nodes 2\n#SWM launch every\necho $SWM_NODE_RANK/$SWM_NUM_NODES >>seen; cat seen"
    job = core.user().submit(script, site="lab")
    job.until(SUCCEEDED)
    outputs = {job.output(node=name) for name in ("n1", "n2")}
    assert outputs == {b"0/2\n", b"1/2\n"}


def test_a_gate_that_is_killed_loses_no_job(core: Core, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = core.user().submit(
        f"echo up; until [ -e {go} ]; do sleep 0.1; done; echo done", site="lab"
    )
    job.until(RUNNING)
    job.written(b"up\n")
    core.kill_gate("lab")
    go.touch()
    job.until(SUCCEEDED, within_s=60)
    assert job.output() == b"up\ndone\n"


@pytest.mark.parametrize(("site", "loopback"), [("here", NODE), ("lab", "127.0.0.1")])
def test_a_port_of_a_job_is_reached_by_its_name(core: Core, site: str, loopback: str) -> None:
    user = core.user()
    job = user.submit(SERVER.format(loopback=loopback), site=site)
    job.written(b"up\n")
    tunnel = Tunnel.connect(user, job.job_id, port_name="WEB")
    tunnel.send(b"abc")
    tunnel.end()
    assert tunnel.rest() == b"cba"
    tunnel.close()
    job.cancel()
    job.until(CANCELLED)


def test_a_job_reaches_a_port_at_the_users_side(core: Core) -> None:
    port = free_port()
    script = f"""#!/usr/bin/env python3
#SWM ports {port}/tcp/out
import socket, time
while True:
    try:
        connection = socket.create_connection(("{NODE}", {port}))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
connection.sendall(b"hello")
connection.shutdown(socket.SHUT_WR)
print(connection.recv(100).decode())
"""
    with answering(port) as came:
        job = core.user().submit(script, site="here")
        job.until(SUCCEEDED)
    assert came == [b"hello"]
    assert job.output() == b"heard hello\n"
