"""Tunnels to a port of a job: the port that the core opens for it beside `ssh -L`, to the same one.

The far end, which the job runs, is a process of its own. Before it lie the core, which listens for
the job's ports, and the gate, where `ssh -L` is one process; `swm forward`, for terminals on other
machines, is one more.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import ssh_far_end
from bench.figures import Benchmark, Figure, Good, Limit
from bench.processes import end, wait_until
from bench.ssh_far_end import CHUNK_BYTES, NUMBER_BYTES
from bench.ssh_site import SshSite, ssh_serving
from skyport.terminal.v1 import job_pb2
from tests.ssh.sshd import free_port

_AT_ONCE = 50

_UP = Limit("ssh-tunnel-up", Good.AT_LEAST, 0.25, "a tunnel to a job, in MB/s of `ssh -L`")
_DOWN = Limit("ssh-tunnel-down", Good.AT_LEAST, 0.25, "a tunnel from a job, in MB/s of `ssh -L`")
_RTT = Limit(
    "ssh-tunnel-rtt", Good.AT_MOST, 6, "a round trip of 64 bytes by a tunnel, p50, in `ssh -L`"
)
_FORWARD_RTT = Limit(
    "ssh-forward-rtt", Good.AT_MOST, 15, "the same by `swm forward`, p50, in `ssh -L`"
)
_MANY = Limit(
    "ssh-tunnels",
    Good.AT_MOST,
    15,
    f"{_AT_ONCE} tunnels that open at once and make round trips at once, in `ssh -L`",
)

_BYTES = 512 << 20
_SHORT_BYTES = 128 << 20
_TRIPS = 400
_SHORT_TRIPS = 150
_TRIPS_OF_MANY = 20
_MESSAGE = bytes(64)
_WITHIN_S = 120.0
_PORT_NAME = "BENCH"


def _tunnels(short: bool) -> list[Figure]:
    rounds = 2 if short else 5
    size = _SHORT_BYTES if short else _BYTES
    trips = _SHORT_TRIPS if short else _TRIPS
    taken: dict[tuple[str, str], list[float]] = {}
    with (
        ssh_serving() as site,
        _far_end(site) as (job_id, far_port, our_port),
        _ssh_forward(site, far_port) as peer_port,
        _swm_forward(site, job_id) as forward_port,
    ):
        ways = {"peer": peer_port, "ours": our_port}
        with_forward = ways | {"forward": forward_port}
        for port in with_forward.values():
            _trips(port, 20)
        for _ in range(rounds):
            for name, port in with_forward.items():
                taken.setdefault(("rtt", name), []).append(_trips(port, trips))
            for name, port in ways.items():
                taken.setdefault(("up", name), []).append(size / 1e6 / _up(port, size))
            for name, port in ways.items():
                taken.setdefault(("down", name), []).append(size / 1e6 / _down(port, size))
            for name, port in ways.items():
                taken.setdefault(("many", name), []).append(_many(port))
    p50 = {what: statistics.median(values) for what, values in taken.items()}
    return [
        _UP.figure(p50["up", "ours"], p50["up", "peer"], "MB/s"),
        _DOWN.figure(p50["down", "ours"], p50["down", "peer"], "MB/s"),
        _RTT.figure(p50["rtt", "ours"] * 1e3, p50["rtt", "peer"] * 1e3, "ms"),
        _FORWARD_RTT.figure(p50["rtt", "forward"] * 1e3, p50["rtt", "peer"] * 1e3, "ms"),
        _MANY.figure(p50["many", "ours"], p50["many", "peer"], "s"),
    ]


@contextlib.contextmanager
def _far_end(site: SshSite) -> Iterator[tuple[str, int, int]]:
    """A job that listens: its id, the port, and where the core listens for it."""
    client = site.core.client
    script = (
        f"#!/bin/sh\n#SWM cpus 1\n#SWM ports 0/tcp/in {_PORT_NAME}\n"
        f"exec '{sys.executable}' '{Path(ssh_far_end.__file__)}' \"$SWM_PORT_{_PORT_NAME}\"\n"
    )
    job_id = client.submit(script.encode()).job.job_id
    request = job_pb2.GetJobRequest(job_id=job_id)

    def ports() -> tuple[int, int] | None:
        job = client.call(client.jobs.GetJob, request).job
        if job.state != job_pb2.JOB_STATE_RUNNING:
            return None
        (found,) = (port for node in job.nodes for port in node.ports)
        local = int(found.local_address.rpartition(":")[2] or 0)
        return (found.number, local) if local and _listens(found.number) else None

    try:
        yield job_id, *wait_until(ports, "the far end to listen")
    finally:
        client.call(client.jobs.CancelJob, job_pb2.CancelJobRequest(job_id=job_id))
        # A core leaves its jobs running, and this one would run for ever.
        for _ in client.wait_for([job_id]):
            pass


def _listens(port: int) -> bool | None:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except OSError:
        return None


@contextlib.contextmanager
def _ssh_forward(site: SshSite, far_port: int) -> Iterator[int]:
    port = free_port()
    command = [*site.ssh("-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{far_port}")]
    with subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _listens(port), "ssh -L to listen")
            yield port
        finally:
            end(process)


@contextlib.contextmanager
def _swm_forward(site: SshSite, job_id: str) -> Iterator[int]:
    command = [
        str(Path(sys.executable).with_name("swm")),
        *("forward", job_id, _PORT_NAME, "--local", "0"),
    ]
    with subprocess.Popen(
        command,
        text=True,
        env=site.core.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().strip().rpartition(":")[2])
        finally:
            end(process)


@contextlib.contextmanager
def _connected(port: int, what: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=_WITHIN_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(what)
        yield connection


def _trip(connection: socket.socket) -> None:
    connection.sendall(_MESSAGE)
    came = connection.recv(len(_MESSAGE), socket.MSG_WAITALL)
    assert came == _MESSAGE, f"{len(came)} bytes came back"


def _trips(port: int, count: int) -> float:
    """Seconds of a round trip, p50."""
    times = []
    with _connected(port, ssh_far_end.ECHO) as connection:
        _trip(connection)
        for _ in range(count):
            began = time.perf_counter()
            _trip(connection)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _up(port: int, size: int) -> float:
    """Seconds until all of it has arrived."""
    chunk = bytes(CHUNK_BYTES)
    with _connected(port, ssh_far_end.UP) as connection:
        began = time.perf_counter()
        for _ in range(size // CHUNK_BYTES):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        came = connection.recv(NUMBER_BYTES, socket.MSG_WAITALL)
        took = time.perf_counter() - began
    assert int.from_bytes(came, "big") == size
    return took


def _down(port: int, size: int) -> float:
    """Seconds until all of it has come."""
    with _connected(port, ssh_far_end.DOWN) as connection:
        began = time.perf_counter()
        connection.sendall(size.to_bytes(NUMBER_BYTES, "big"))
        received = 0
        while data := connection.recv(CHUNK_BYTES):
            received += len(data)
        took = time.perf_counter() - began
    assert received == size, f"{received} bytes came"
    return took


def _many(port: int) -> float:
    """Seconds that connections take which all open at once, and all talk at once."""
    done: list[bool] = []

    def talk() -> None:
        with _connected(port, ssh_far_end.ECHO) as connection:
            for _ in range(_TRIPS_OF_MANY):
                _trip(connection)
        done.append(True)

    threads = [threading.Thread(target=talk) for _ in range(_AT_ONCE)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    assert len(done) == _AT_ONCE, f"{len(done)} of {_AT_ONCE} tunnels carried all that was sent"
    return took


BENCHMARKS = (Benchmark((_UP, _DOWN, _RTT, _FORWARD_RTT, _MANY), _tunnels),)
