"""A port on this machine that leads to a port of a job."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

from skyport.terminal.v1 import tunnel_pb2
from terminals.client.errors import CallFailed, ClientError, LocalFileError
from terminals.client.stream import Stream

if TYPE_CHECKING:
    from terminals.client.connection import Client

_CHUNK_BYTES = 256 << 10
_CONNECTIONS = 128
"""At once; further ones wait in the kernel's queue. Each takes two threads here."""

_PAUSE_S = 1.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _nobody(_: ClientError) -> None:
    """Tells nobody."""


class Forwarding:
    """Listens on 127.0.0.1 and carries each connection to a port of a running job.

    Each connection is a call of its own, and each side may close its half. When the core restarts,
    connections that stand are cut, and new ones work as soon as it is back. Close it in the end.

    Args:
        client: The connection to the core.
        job_id: The whole id.
        port: The number, or the name that the script gave.
        local_port: Where to listen; 0 picks a free one.
        node: Which node of the job; empty means the first.
        on_failure: Told of each connection that did not come about or was cut.

    Raises:
        LocalFileError: The port can't be listened on.
    """

    def __init__(
        self,
        client: Client,
        job_id: str,
        port: int | str,
        *,
        local_port: int = 0,
        node: str = "",
        on_failure: Callable[[ClientError], None] = _nobody,
    ) -> None:
        self._client = client
        self._open = tunnel_pb2.ConnectOpen(
            job_id=job_id,
            node=node,
            port=port if isinstance(port, int) else 0,
            port_name=port if isinstance(port, str) else "",
        )
        self._on_failure = on_failure
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._closing = threading.Event()
        try:
            self._listener = socket.create_server(("127.0.0.1", local_port))
        except OSError as error:
            raise LocalFileError(
                f"can't listen on 127.0.0.1:{local_port}: {error.strerror}; choose another port"
            ) from None
        self.port: int = self._listener.getsockname()[1]
        """Where it listens."""
        self._thread = threading.Thread(target=self._accept, name="forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        self._closing.set()
        with self._lock:
            connections = list(self._connections)
        # Wakes the accept, which closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in connections:
            connection.cut()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            self._room.acquire()
            local: socket.socket | None = None
            try:
                local, _ = self._listener.accept()
                self._begin(local)
            except (OSError, RuntimeError) as error:  # out of descriptors or threads, perhaps
                self._room.release()
                if local is not None:
                    local.close()
                if not self._closing.wait(_PAUSE_S):
                    why = getattr(error, "strerror", None) or error
                    self._on_failure(LocalFileError(f"can't take a connection: {why}"))

    def _begin(self, local: socket.socket) -> None:
        connection = _Connection(self._client, self._open, local)
        with self._lock:
            self._connections.add(connection)
            if self._closing.is_set():  # close() may have been too early to see it
                connection.cut()
        try:
            threading.Thread(target=self._carry, args=(connection,), daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._connections.discard(connection)
            connection.drop()
            raise

    def _carry(self, connection: _Connection) -> None:
        try:
            connection.run()
        except ClientError as error:
            if not self._closing.is_set():
                self._on_failure(error)
        finally:
            with self._lock:
                self._connections.discard(connection)
            self._room.release()


class _Connection:
    """One connection: a thread of grpc takes what the local side sends, ours brings the answers."""

    def __init__(
        self, client: Client, opening: tunnel_pb2.ConnectOpen, local: socket.socket
    ) -> None:
        self._client = client
        self._opening = opening
        self._local = local
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._read_all = threading.Event()
        self._over = False
        self._call: Stream[tunnel_pb2.ConnectResponse] | None = None
        # Requests and answers of small programs must not wait for each other.
        local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wake, self._woken = socket.socketpair()

    def run(self) -> None:
        """Carry it to its end.

        Raises:
            CallFailed: It did not come about, or was cut.
        """
        clean = False
        try:
            with self._lock:
                if not self._over:
                    requests = self._requests()
                    self._call = Stream(self._client, self._client.tunnels.Connect(requests))
            for answer in self._call or ():
                frame = answer.WhichOneof("frame")
                if frame == "opened":
                    self._opened.set()
                elif frame == "data":
                    self._local.sendall(answer.data)
                elif frame == "eof":
                    self._local.shutdown(socket.SHUT_WR)
            clean = not self._over
        except CallFailed:
            if not self._over:
                raise
        except OSError:
            pass  # the local side went away: nobody to tell
        finally:
            self._end(clean=clean)

    def drop(self) -> None:
        """Let go of what it holds; for one that is not run."""
        for end in (self._local, self._wake, self._woken):
            end.close()

    def cut(self) -> None:
        """End it now, from another thread."""
        with self._lock:
            self._over = True
            if self._call is not None:
                self._call.cancel()
            else:
                self._read_all.set()
        with contextlib.suppress(OSError):
            self._local.shutdown(socket.SHUT_RDWR)  # ends a send that waits

    def _end(self, *, clean: bool) -> None:
        self._over = True
        self._opened.set()
        self._wake.close()
        if self._call is not None:
            self._call.cancel()
        # A socket that somebody reads is not closed by closing it.
        self._read_all.wait(_PAUSE_S)
        if not clean:
            # A reset: a program must not take a cut for the end of the data.
            with contextlib.suppress(OSError):
                self._local.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._local.close()
        self._woken.close()

    def _requests(self) -> Iterator[tunnel_pb2.ConnectRequest]:
        try:
            yield tunnel_pb2.ConnectRequest(open=self._opening)
            # Nothing is read before somebody takes it.
            self._opened.wait()
            while data := self._received():
                yield tunnel_pb2.ConnectRequest(data=data)
            if not self._over:
                yield tunnel_pb2.ConnectRequest(eof=tunnel_pb2.TunnelEof())
        except OSError:
            # The local side was reset; so is the other.
            self._over = True
            if self._call is not None:
                self._call.cancel()
        finally:
            self._read_all.set()

    def _received(self) -> bytes:
        """What the local side sent; empty at its end, and when the connection is over."""
        both = select.poll()
        both.register(self._local, select.POLLIN)
        both.register(self._woken, select.POLLIN)
        ready = both.poll()
        if self._over or any(number == self._woken.fileno() for number, _ in ready):
            return b""
        return self._local.recv(_CHUNK_BYTES)
