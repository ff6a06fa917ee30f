"""One connection through TunnelService, as a terminal carries it."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from skyport.terminal.v1 import tunnel_pb2
from tests.system.harness.users import User
from tests.system.harness.waiting import WITHIN_S


class Tunnel:
    """A Connect or Accept call that is open.

    Args:
        method: Of the stub.
        opening: The first frame.

    Raises:
        grpc.RpcError: It was refused.
    """

    def __init__(self, method: Callable[..., Any], opening: Any) -> None:
        self._frame = type(opening)
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outgoing.put(opening)
        self._call = method(iter(self._outgoing.get, None), timeout=WITHIN_S)
        assert next(self._call).WhichOneof("frame") == "opened"

    @classmethod
    def connect(cls, user: User, job_id: str, **port: Any) -> Tunnel:
        """To a port of a job: `port` or `port_name`, and `node`."""
        opening = tunnel_pb2.ConnectOpen(job_id=job_id, **port)
        return cls(user.tunnels.Connect, tunnel_pb2.ConnectRequest(open=opening))

    @classmethod
    def accept(cls, user: User, connection_id: str) -> Tunnel:
        """The connection that a Listen told."""
        opening = tunnel_pb2.AcceptOpen(connection_id=connection_id)
        return cls(user.tunnels.Accept, tunnel_pb2.AcceptRequest(open=opening))

    def send(self, data: bytes) -> None:
        self._outgoing.put(self._frame(data=data))

    def end(self) -> None:
        """Say that we send no more."""
        self._outgoing.put(self._frame(eof=tunnel_pb2.TunnelEof()))

    def read(self) -> bytes:
        """Some bytes; empty at the other side's end."""
        for frame in self._call:
            if frame.WhichOneof("frame") == "eof":
                return b""
            return bytes(frame.data)
        raise AssertionError("the call ended without eof")

    def rest(self) -> bytes:
        """All until the other side's end."""
        return b"".join(iter(self.read, b""))

    def close(self) -> None:
        self._call.cancel()
        self._outgoing.put(None)


def ask(address: tuple[str, int], data: bytes) -> bytes:
    """Connect, send, say that no more comes, and read what is answered."""
    with socket.create_connection(address, timeout=WITHIN_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@contextlib.contextmanager
def answering(port: int) -> Iterator[list[bytes]]:
    """Listen at the user's side: answer `heard ` and what came, once the other side has ended.

    Yields:
        What came, one connection after the other.
    """
    came: list[bytes] = []
    server = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                data = b"".join(iter(lambda: connection.recv(65_536), b""))  # noqa: B023
                came.append(data)
                connection.sendall(b"heard " + data)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    try:
        yield came
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        serving.join(WITHIN_S)
