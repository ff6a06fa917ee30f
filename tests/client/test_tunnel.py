from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from skyport.terminal.v1 import job_pb2
from terminals.client import CallFailed, Client, ClientError, LocalFileError
from terminals.client.tunnel import Forwarding
from tests.client.fake_core import FakeCore


class Upper(threading.Thread):
    """Reads to the end, then answers with all of it in upper case: needs half-close."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.received = threading.Event()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while piece := connection.recv(65536):
                self.received.set()
                data += piece
            connection.sendall(data.upper())


@pytest.fixture
def target(core: FakeCore) -> Iterator[Upper]:
    core.state.add("j1", state=job_pb2.JOB_STATE_RUNNING, attempt=1)
    upper = Upper()
    core.state.ports[8888] = upper.port
    yield upper
    upper.listener.close()


def dial(forwarding: Forwarding) -> socket.socket:
    return socket.create_connection(("127.0.0.1", forwarding.port), 20)


def ask(forwarding: Forwarding, data: bytes) -> bytes:
    with dial(forwarding) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while piece := connection.recv(65536):
            got += piece
        return got


def test_each_side_closes_its_half(client: Client, target: Upper) -> None:
    with client.forward("j1", 8888) as forwarding:
        assert ask(forwarding, b"hello") == b"HELLO"
        data = os.urandom(3 << 20)
        assert ask(forwarding, data) == data.upper()


def test_many_connections_at_once(client: Client, target: Upper) -> None:
    with client.forward("j1", 8888) as forwarding:
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(forwarding, b"x" * 1000)))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == [b"X" * 1000] * 20


def test_a_port_that_nothing_listens_on_resets_that_connection_only(
    client: Client, core: FakeCore, target: Upper
) -> None:
    failures: list[ClientError] = []
    told = threading.Event()

    def failed(error: ClientError) -> None:
        failures.append(error)
        told.set()

    core.state.ports[1] = 1
    with Forwarding(client, "j1", 1, on_failure=failed) as forwarding:
        with dial(forwarding) as connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert told.wait(10)
        assert isinstance(failures[0], CallFailed)
        assert failures[0].reason == "TARGET_REFUSED"
        core.state.ports[1] = target.port
        assert ask(forwarding, b"now") == b"NOW"


def test_a_restart_of_the_core_cuts_what_stands_and_new_connections_work(
    client: Client, core: FakeCore, target: Upper
) -> None:
    with client.forward("j1", 8888) as forwarding:
        with dial(forwarding) as connection:
            connection.sendall(b"x")
            assert target.received.wait(20)
            core.restart()
            with pytest.raises(ConnectionResetError):
                assert connection.recv(1) != b"", "a cut looks like an end"
        client.call(client.jobs.ListJobs, job_pb2.ListJobsRequest(), patience_s=20)
        assert ask(forwarding, b"again") == b"AGAIN"


def test_closing_stops_listening_and_cuts(client: Client, target: Upper) -> None:
    forwarding = client.forward("j1", 8888)
    with dial(forwarding) as connection:
        connection.sendall(b"x")
        forwarding.close()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(forwarding)


def test_a_local_port_that_is_taken_is_an_error(client: Client, target: Upper) -> None:
    with pytest.raises(LocalFileError, match="choose another port"):
        client.forward("j1", 8888, local_port=target.port)


def test_a_local_reset_ends_the_remote_connection(
    client: Client, core: FakeCore, target: Upper
) -> None:
    with client.forward("j1", 8888) as forwarding:
        for _ in range(3):
            connection = dial(forwarding)
            connection.sendall(b"x")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        assert ask(forwarding, b"fine") == b"FINE"
