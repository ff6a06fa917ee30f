from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyport.terminal.v1 import job_pb2
from tests.cli.terminal import Swm
from tests.client.fake_core import FakeCore
from tests.client.test_tunnel import Upper
from tests.system.harness.core import free_port

RUNNING = job_pb2.JOB_STATE_RUNNING


@pytest.fixture
def target(core: FakeCore) -> Iterator[Upper]:
    spec = job_pb2.JobSpec()
    upper = Upper()
    spec.ports.add(number=upper.port, name="web", direction=job_pb2.PORT_DIRECTION_IN)
    core.state.add("j1", spec=spec)
    core.state.ports[upper.port] = upper.port
    core.state.ports[0] = upper.port  # asked for by name
    yield upper
    upper.listener.close()


@contextlib.contextmanager
def forwarding(swm: Swm, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    process = swm.popen("forward", "j1", *args)
    try:
        assert process.stdout
        address = process.stdout.readline().decode()
        assert address.startswith("127.0.0.1:"), process.communicate()
        yield process, int(address.partition(":")[2])
    finally:
        process.kill()
        process.communicate()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100)


def test_a_port_is_reached_by_number_and_by_name(swm: Swm, core: FakeCore, target: Upper) -> None:
    core.state.move("j1", RUNNING, attempt=1)
    for port in (str(target.port), "web"):
        with forwarding(swm, port) as (_, local):
            assert local != target.port, "it is taken, so another one is picked"
            assert ask(local) == b"HELLO"


def test_the_local_port_can_be_chosen(swm: Swm, core: FakeCore, target: Upper) -> None:
    core.state.move("j1", RUNNING, attempt=1)
    free = free_port()
    with socket.create_server(("127.0.0.1", free)):
        result = swm("forward", "j1", str(target.port), "--local", str(free))
        assert result.code == 1
        assert "choose another port" in result.err
    with forwarding(swm, str(target.port), "--local", str(free)) as (_, local):
        assert local == free


def test_it_waits_for_the_job_to_run_and_ends_with_it(
    swm: Swm, core: FakeCore, target: Upper
) -> None:
    process = swm.popen("forward", "j1", str(target.port))
    core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
    core.state.move("j1", RUNNING, attempt=1)
    assert process.stdout
    assert process.stdout.readline().startswith(b"127.0.0.1:")
    core.state.move("j1", job_pb2.JOB_STATE_SUCCEEDED)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"job j1 has ended" in err
    # The job is looked up, and then followed once: each watch is one of the user's streams.
    assert core.state.calls.count("ListJobs") == 2
    assert core.state.calls.count("WatchJobs") == 1


def test_it_fails_when_nobody_knows_any_more_how_the_job_does(
    swm: Swm, core: FakeCore, target: Upper
) -> None:
    core.state.move("j1", RUNNING, attempt=1)
    with forwarding(swm, str(target.port)) as (process, _):
        core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
        del core.state.jobs["j1"]
        core.state.faults.watch_expires = 10  # so that each begins anew with what the job is
        core.restart()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"there is no job" in err
    assert b"has ended" not in err


def test_ctrl_c_ends_it(swm: Swm, core: FakeCore, target: Upper) -> None:
    core.state.move("j1", RUNNING, attempt=1)
    with forwarding(swm, str(target.port)) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_without_descriptors_a_connection_is_refused_and_later_ones_work(
    swm: Swm, core: FakeCore, target: Upper
) -> None:
    core.state.move("j1", RUNNING, attempt=1)
    with forwarding(swm, str(target.port)) as (process, local):
        core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
        usual = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        # There is room for the connection, and for nothing else that it takes.
        taken = {int(path.name) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
        free = next(number for number in range(1_000) if number not in taken)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free + 1, usual[1]))
        with contextlib.suppress(OSError):  # whichever of its calls meets the reset
            assert ask(local) == b""
        assert process.stderr
        for line in process.stderr:  # ends with the process
            if b"can't take a connection: Too many open files" in line:
                break
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, usual)
        assert ask(local) == b"HELLO"


def test_a_refused_connection_is_told_once(swm: Swm, core: FakeCore, target: Upper) -> None:
    silent = core.state.jobs["j1"].spec.ports
    silent.add(number=9999, direction=job_pb2.PORT_DIRECTION_IN)
    core.state.move("j1", RUNNING, attempt=1)
    with forwarding(swm, "9999") as (process, local):
        for _ in range(3):
            with pytest.raises(ConnectionResetError):  # not as if it had ended
                ask(local)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert err.count(b"nothing listens on port 9999") == 1


def test_what_is_no_port_of_the_job_is_refused(swm: Swm, core: FakeCore, target: Upper) -> None:
    core.state.move("j1", RUNNING, attempt=1)
    result = swm("forward", "j1", "nope")
    assert result.code == 2
    assert "names it has: web" in result.err
    core.state.jobs["j1"].spec.ports.add(number=7777, direction=job_pb2.PORT_DIRECTION_OUT)
    for number in ("7777", "0", "70000"):
        result = swm("forward", "j1", number)
        assert (result.code, result.out) == (2, "")
        assert f"no port {number} to reach; those it has: {target.port};" in result.err
    core.state.move("j1", job_pb2.JOB_STATE_SUCCEEDED)
    result = swm("forward", "j1", "web")
    assert result.code == 1
    assert "has ended" in result.err
