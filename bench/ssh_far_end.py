"""What a job runs at the far end of a tunnel; standard library alone.

    python ssh_far_end.py PORT

The first byte of a connection says what it does: `e` echoes, `u` takes all that comes and then
tells how many bytes that were, `d` reads a number and sends so many bytes. Numbers are eight bytes,
the highest first.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

CHUNK_BYTES = 1 << 18
ECHO, UP, DOWN = b"e", b"u", b"d"
NUMBER_BYTES = 8


def main(port: int) -> None:
    """Serve until the job is ended."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with connection, contextlib.suppress(ConnectionError):
        what = connection.recv(1)
        if what == ECHO:
            while data := connection.recv(CHUNK_BYTES):
                connection.sendall(data)
        elif what == UP:
            received = 0
            while data := connection.recv(CHUNK_BYTES):
                received += len(data)
            connection.sendall(received.to_bytes(NUMBER_BYTES, "big"))
        elif what == DOWN:
            left = int.from_bytes(connection.recv(NUMBER_BYTES, socket.MSG_WAITALL), "big")
            chunk = bytes(CHUNK_BYTES)
            while left:
                connection.sendall(chunk[:left])
                left -= min(left, CHUNK_BYTES)


if __name__ == "__main__":
    main(int(sys.argv[1]))
