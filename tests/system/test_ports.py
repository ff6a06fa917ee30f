"""Ports of jobs: reached from the user's side (in), and reaching it (out)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import grpc
import pytest

from skyport.terminal.v1 import job_pb2, tunnel_pb2
from tests.system.harness.core import Core, free_port, running
from tests.system.harness.jobs import CANCELLED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import node, static
from tests.system.harness.tunnels import Tunnel, answering, ask
from tests.system.harness.waiting import eventually

# All nodes are this machine. So that the two ends of a port are not the same address, the nodes'
# loopback is another one than ours.
NODE = "127.0.0.2"

SERVER = """#!/usr/bin/env python3
#SWM ports 0/tcp/in WEB
import os, socket
server = socket.create_server(("{node}", int(os.environ["SWM_PORT_WEB"])))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    connection.sendall(data[::-1])
    connection.close()
""".replace("{node}", NODE)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    nodes = [node("n1", cpus=8), node("n2", cpus=8)]
    with running(tmp_path_factory.mktemp("ports"), {"lab": static(*nodes, loopback=NODE)}) as core:
        yield core


@pytest.fixture(scope="module")
def server(core: Core) -> Iterator[JobHandle]:
    """A job that runs and answers on its port, with what came turned round."""
    job = core.user().submit(SERVER)
    job.written(b"listening\n")
    yield job
    job.cancel()
    job.until(CANCELLED)


def port_of(job: JobHandle, name: str = "WEB") -> job_pb2.JobNodePort:
    """A port of a job, once the core listens for it."""

    def found() -> job_pb2.JobNodePort | None:
        ports = [port for port in job.get().nodes[0].ports if port.name == name]
        return ports[0] if ports and ports[0].local_address else None

    port = eventually(found, "the core listens for the port")
    assert port is not None
    return port


def local(port: job_pb2.JobNodePort) -> tuple[str, int]:
    host, _, number = port.local_address.rpartition(":")
    return host, int(number)


# In.


def test_the_core_listens_on_loopback_for_an_in_port(server: JobHandle) -> None:
    address = local(port_of(server))
    assert address[0] == "127.0.0.1"
    assert ask(address, b"abc") == b"cba"


def test_each_half_of_a_connection_ends_by_itself(server: JobHandle) -> None:
    # The server answers only after it has seen our end.
    with socket.create_connection(local(port_of(server)), timeout=20) as connection:
        connection.sendall(b"first ")
        connection.sendall(b"second")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b"dnoces tsrif"
        assert connection.recv(100) == b""


def test_much_data_goes_through_as_it_is(server: JobHandle) -> None:
    data = bytes(range(256)) * 20_000
    assert ask(local(port_of(server)), data) == data[::-1]


def test_a_terminal_connects_by_number_and_by_name(core: Core, server: JobHandle) -> None:
    number = port_of(server).number
    for port in ({"port": number}, {"port_name": "WEB"}):
        tunnel = Tunnel.connect(core.user(), server.job_id, **port)
        tunnel.send(b"one ")
        tunnel.send(b"two")
        tunnel.end()
        assert tunnel.rest() == b"owt eno"
        tunnel.close()


def test_connections_that_are_cut_harm_no_others(core: Core, server: JobHandle) -> None:
    # The server takes one after the other: one that was left open would hold up the last.
    for _ in range(20):
        cut = Tunnel.connect(core.user(), server.job_id, port_name="WEB")
        cut.send(b"half")
        cut.close()
    assert ask(local(port_of(server)), b"abc") == b"cba"


@pytest.mark.parametrize(
    ("opening", "code", "reason"),
    [
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_REQUIRED"),
        ({"port": 70_000}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_OUT_OF_RANGE"),
        (
            {"port": 22_000, "port_name": "WEB"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_MALFORMED",
        ),
        ({"port_name": "NONE"}, grpc.StatusCode.FAILED_PRECONDITION, "PORT_NOT_FOUND"),
        ({"port": 22}, grpc.StatusCode.FAILED_PRECONDITION, "PORT_NOT_FOUND"),
    ],
)
def test_only_ports_that_the_job_asked_for_are_reached(
    core: Core, server: JobHandle, opening: dict[str, object], code: grpc.StatusCode, reason: str
) -> None:
    frame = tunnel_pb2.ConnectOpen(job_id=server.job_id, **opening)  # type: ignore[arg-type]
    refused(core.user().tunnels.Connect, [tunnel_pb2.ConnectRequest(open=frame)], code, reason)


def test_the_first_frame_of_a_tunnel_opens_it(core: Core) -> None:
    refused(
        core.user().tunnels.Connect,
        [tunnel_pb2.ConnectRequest(data=b"x")],
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_REQUIRED",
    )


def test_a_port_where_nothing_listens_refuses_that_connection_only(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(f"#SWM ports 0/tcp/in WEB\n{hold.wait}")
    job.until(RUNNING)
    opening = tunnel_pb2.ConnectOpen(job_id=job.job_id, port_name="WEB")
    refused(
        core.user().tunnels.Connect,
        [tunnel_pb2.ConnectRequest(open=opening)],
        grpc.StatusCode.FAILED_PRECONDITION,
        "TARGET_REFUSED",
    )
    assert job.get().state == RUNNING
    hold.release()
    job.until(SUCCEEDED)


def test_ports_of_a_job_that_does_not_run_are_not_reached(core: Core) -> None:
    job = core.user().submit("#SWM ports 0/tcp/in WEB\ntrue")
    job.until(SUCCEEDED)
    opening = tunnel_pb2.ConnectOpen(job_id=job.job_id, port_name="WEB")
    refused(
        core.user().tunnels.Connect,
        [tunnel_pb2.ConnectRequest(open=opening)],
        grpc.StatusCode.FAILED_PRECONDITION,
        "JOB_NOT_RUNNING",
    )


def test_after_the_end_nobody_listens_any_more(core: Core) -> None:
    job = core.user().submit(SERVER)
    job.written(b"listening\n")
    address = local(port_of(job))
    job.cancel()
    job.until(CANCELLED)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_a_dropped_link_comes_back_at_the_same_local_port(core: Core, server: JobHandle) -> None:
    address = local(port_of(server))
    core.kill_gate("lab")
    core.wait_ready("lab")
    eventually(lambda: _answers(address), "the port is reached again")
    assert local(port_of(server)) == address


def _answers(address: tuple[str, int]) -> bool:
    try:
        return ask(address, b"ab") == b"ba"
    except OSError:
        return False


def test_after_a_restart_of_the_core_the_local_port_is_the_same(
    core: Core, server: JobHandle
) -> None:
    address = local(port_of(server))
    core.restart()
    core.wait_ready("lab")
    eventually(lambda: _answers(address), "the port is reached again")


# Out.


def dial(port: int, data: str) -> str:
    """A line of shell that prints what a connection to a port of the node answers."""
    return (
        "python3 -c 'import socket, sys\n"
        f'connection = socket.create_connection(("{NODE}", {port}), timeout=20)\n'
        f'connection.sendall(b"{data}")\n'
        "connection.shutdown(socket.SHUT_WR)\n"
        'sys.stdout.buffer.write(b"".join(iter(lambda: connection.recv(65536), b"")))\''
    )


def test_a_job_reaches_a_port_at_the_user_s_side(core: Core) -> None:
    port = free_port()
    with answering(port) as came:
        job = core.user().submit(f"#SWM ports {port}/tcp/out\n{dial(port, 'hello')}")
        job.until(SUCCEEDED)
    assert job.output() == b"heard hello"
    assert came == [b"hello"]


def test_two_out_ports_stay_two(core: Core) -> None:
    one, two = free_port(), free_port()
    with answering(one) as came_one, answering(two) as came_two:
        job = core.user().submit(
            f"#SWM ports {one}/tcp/out,{two}/tcp/out\n{dial(one, 'first')}; {dial(two, 'second')}"
        )
        job.until(SUCCEEDED)
    assert (came_one, came_two) == ([b"first"], [b"second"])


def test_where_nobody_answers_at_the_user_s_side_the_job_s_connection_ends(core: Core) -> None:
    port = free_port()
    job = core.user().submit(f"#SWM ports {port}/tcp/out\n{dial(port, 'x')} || echo closed")
    job.until(SUCCEEDED)
    assert b"heard" not in job.output()


def test_an_out_port_comes_back_after_a_lost_link(core: Core, latch: Callable[[], Latch]) -> None:
    port, hold = free_port(), latch()
    with answering(port) as came:
        job = core.user().submit(
            f"#SWM ports {port}/tcp/out\n{dial(port, 'before')}\n{hold.wait}\n"
            f"until {dial(port, 'after')}; do sleep 0.1; done"
        )
        eventually(lambda: came, "the job has connected")
        core.kill_gate("lab")
        core.wait_ready("lab")
        hold.release()
        job.until(SUCCEEDED)
    assert came[0] == b"before"
    assert b"after" in came[1:]


def listen(core: Core, job: JobHandle, port: int) -> Iterator[tunnel_pb2.ListenResponse]:
    """A Listen that has taken the port over."""
    call = core.user().tunnels.Listen(
        tunnel_pb2.ListenRequest(job_id=job.job_id, port=port), timeout=20
    )
    assert next(call).HasField("listening")
    return call


def connection(call: Iterator[tunnel_pb2.ListenResponse]) -> str:
    return next(each.connection.connection_id for each in call if each.HasField("connection"))


def test_a_terminal_takes_an_out_port_over(core: Core, latch: Callable[[], Latch]) -> None:
    port, hold = free_port(), latch()
    job = core.user().submit(f"#SWM ports {port}/tcp/out\n{hold.wait}\n{dial(port, 'question')}")
    job.until(RUNNING)
    call = listen(core, job, port)
    with answering(port) as came:
        hold.release()
        connection_id = connection(call)
        tunnel = Tunnel.accept(core.user(), connection_id)
        assert tunnel.rest() == b"question"
        tunnel.send(b"answer")
        tunnel.end()
        job.until(SUCCEEDED)
    assert job.output() == b"answer"
    assert not came  # the core has not dialled
    opening = tunnel_pb2.AcceptRequest(open=tunnel_pb2.AcceptOpen(connection_id=connection_id))
    refused(
        core.user().tunnels.Accept, [opening], grpc.StatusCode.NOT_FOUND, "CONNECTION_NOT_FOUND"
    )


def test_a_port_may_be_taken_over_before_the_job_runs(
    core: Core, latch: Callable[[], Latch]
) -> None:
    port, hold = free_port(), latch()
    holders = [core.user().submit(f"#SWM cpus 8\n{hold.wait}") for _ in range(2)]
    job = core.user().submit(f"#SWM cpus 8\n#SWM ports {port}/tcp/out\n{dial(port, 'early')}")
    call = listen(core, job, port)
    hold.release(2)
    tunnel = Tunnel.accept(core.user(), connection(call))
    assert tunnel.rest() == b"early"
    tunnel.end()
    for each in (*holders, job):
        each.until(SUCCEEDED)


def test_a_second_terminal_replaces_the_first(core: Core, latch: Callable[[], Latch]) -> None:
    port, hold = free_port(), latch()
    job = core.user().submit(f"#SWM ports {port}/tcp/out\n{hold.wait}")
    job.until(RUNNING)
    first = listen(core, job, port)
    listen(core, job, port)
    with pytest.raises(grpc.RpcError) as failed:
        list(first)
    from rpc_kit.errors import Problem

    problem = Problem.from_error(failed.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.ABORTED, "REPLACED")
    hold.release()
    job.until(SUCCEEDED)


def test_a_port_that_the_job_did_not_ask_for_is_not_taken_over(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(hold.wait)
    job.until(RUNNING)
    refused(
        core.user().tunnels.Listen,
        tunnel_pb2.ListenRequest(job_id=job.job_id, port=9_999),
        grpc.StatusCode.FAILED_PRECONDITION,
        "PORT_NOT_FOUND",
    )
    hold.release()
    job.until(SUCCEEDED)
