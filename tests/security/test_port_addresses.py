"""Ports of jobs lead where an administrator's list and their owner say, and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.system.conftest import latch
from tests.system.harness.core import Core, free_port, running
from tests.system.harness.jobs import RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import node, static
from tests.system.harness.tunnels import ask
from tests.system.harness.users import submission
from tests.system.harness.waiting import eventually

__all__ = ["latch"]

NODE = "127.0.0.2"
"""The loopback of the nodes, all of which are this machine."""
LISTED = "127.0.0.3"
DENIED = grpc.StatusCode.PERMISSION_DENIED
OPEN, SHUT = free_port(), free_port()
"""Ports of the listed address: one is on the list."""


def ports(*out_to: str) -> dict[str, list[str]]:
    return {"in_at": ["127.0.0.1", LISTED], "out_to": list(out_to)}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(node("n1", cpus=8), loopback=NODE)}
    allowed = ports(f"{LISTED}:{OPEN}")
    with running(tmp_path_factory.mktemp("addresses"), sites, ports=allowed) as core:
        yield core


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("#SWM ports 0/tcp/in WEB\n#SWM submission-address 0.0.0.0", "ports.in_at"),
        ("#SWM ports 0/tcp/in WEB\n#SWM submission-address 192.0.2.7", "192.0.2.7"),
        (f"#SWM ports {SHUT}/tcp/out\n#SWM submission-address {LISTED}", f"{LISTED}:{SHUT}"),
        (f"#SWM ports {OPEN}/tcp/out\n#SWM submission-address 192.0.2.7", "ports.out_to"),
        # What the administrator has left out: loopback, too.
        (f"#SWM ports {OPEN}/tcp/out", "127.0.0.1"),
        (f"#SWM ports {OPEN}/tcp/out\n#SWM submission-address localhost", "ports.out_to"),
        (f"#SWM ports {OPEN}/tcp/out\n#SWM submission-address ::ffff:127.0.0.1", "ports.out_to"),
    ],
    # The ports are others in each process.
    ids=("in everywhere", "in elsewhere", "shut", "out elsewhere", "loopback", "name", "mapped"),
)
def test_an_address_that_is_not_listed_is_refused(core: Core, script: str, says: str) -> None:
    user = core.user()
    refused(user.jobs.SubmitJob, submission(script), DENIED, "ADDRESS_NOT_ALLOWED", says=says)
    check = job_pb2.CheckJobRequest(script=submission(script).script)
    told = user.jobs.CheckJob(check, timeout=20).obstacles
    assert [each.reason for each in told] == ["ADDRESS_NOT_ALLOWED"]


def test_an_administrator_s_own_job_is_refused_like_others(core: Core) -> None:
    script = "#SWM ports 0/tcp/in WEB\n#SWM submission-address 0.0.0.0"
    refused(core.admin.jobs.SubmitJob, submission(script), DENIED, "ADDRESS_NOT_ALLOWED")


def test_an_in_port_is_reached_at_the_address_that_is_listed(core: Core) -> None:
    job = core.user().submit(
        "#!/usr/bin/env python3\n"
        f"#SWM ports 0/tcp/in WEB\n#SWM submission-address {LISTED}\n"
        "import os, socket\n"
        f'server = socket.create_server(("{NODE}", int(os.environ["SWM_PORT_WEB"])))\n'
        "connection, _ = server.accept()\n"
        "connection.sendall(connection.recv(10))\n"
    )
    address = eventually(lambda: _local_address(job), "the core listens")
    host, _, port = address.rpartition(":")
    assert host == LISTED
    # The job may not listen yet: that connection ends, and takes nothing with it.
    eventually(lambda: _echo((host, int(port))), "the job answers")
    job.until(SUCCEEDED)


def _local_address(job: JobHandle) -> str:
    nodes = job.get().nodes
    return nodes[0].ports[0].local_address if nodes and nodes[0].ports else ""


def _is_listened_at(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


def _echo(address: tuple[str, int]) -> bool:
    try:
        return ask(address, b"x") == b"x"
    except OSError:
        return False


DIALLING = """#!/usr/bin/env python3
#SWM ports {port}/tcp/out
#SWM submission-address {address}
import socket
open("{latch}").readline()
connection = socket.create_connection(("{node}", {port}), timeout=20)
print(connection.recv(10).decode() or "closed")
"""


def dialling(port: int, hold: Latch) -> str:
    return DIALLING.format(port=port, address=LISTED, latch=hold.path, node=NODE)


def test_an_out_port_leads_to_the_address_that_is_listed(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    with socket.create_server((LISTED, OPEN)) as server:
        job = core.user().submit(dialling(OPEN, hold))
        hold.release()
        server.settimeout(20)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"hello")
        job.until(SUCCEEDED)
    assert job.output() == b"hello\n"


def test_what_was_taken_off_the_list_is_not_dialled_any_more(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(dialling(OPEN, hold))
    job.until(RUNNING)
    core.stop()
    core.configure(ports=ports(f"{LISTED}:{SHUT}"))
    core.start()
    core.wait_ready()
    try:
        # A core that comes back has its ports listened at anew, some time after it is ready.
        eventually(lambda: _is_listened_at((NODE, OPEN)), "the node listens again")
        with socket.create_server((LISTED, OPEN)) as server:
            hold.release()
            job.until(SUCCEEDED)
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()
        assert job.output() == b"closed\n"
        assert "is not in ports.out_to" in core.log()
    finally:
        core.configure(ports=ports(f"{LISTED}:{OPEN}"))
