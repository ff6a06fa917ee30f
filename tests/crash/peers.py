"""What is at the two ends of a port: programs that a job runs, and a server at the user's side."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

IN_S = 15
OUT_S = 15
"""How long a job that has a port waits for somebody, before it goes on without."""

_SERVER = f"""
import os, socket, sys, time

server = socket.create_server((sys.argv[1], int(os.environ["SWM_PORT_WEB"])))
until = time.monotonic() + {IN_S}
data = b""
while data != b"stop" and time.monotonic() < until:
    server.settimeout(max(0.1, until - time.monotonic()))
    try:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            data = b"".join(iter(lambda: connection.recv(65536), b""))
            connection.sendall(data[::-1])
    except OSError:  # a time-out, or a connection that was cut
        continue
"""

_CALLER = f"""
import os, socket, sys, time

sent = os.environ["SWM_JOB_ID"].encode() * 1000
until = time.monotonic() + {OUT_S}
while time.monotonic() < until:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        answer = b""
    if answer == sent[::-1]:
        break
    if answer:
        sys.exit(f"an answer of {{len(answer)}} bytes that is none")
    time.sleep(0.2)
"""


def write_programs(folder: Path) -> tuple[str, str]:
    """Write both programs; returns the beginnings of the lines of shell that run them.

    The first serves a port of the job's, and is given the address to listen on. The second calls a
    port at the user's side, and is given address and port.
    """
    lines = []
    for name, text in (("server.py", _SERVER), ("caller.py", _CALLER)):
        (folder / name).write_text(text)
        lines.append(f"python3 -I -S {folder / name}")
    return lines[0], lines[1]


@contextlib.contextmanager
def turning_round() -> Iterator[int]:
    """Serve a port here: whatever comes goes back turned round, once its end has come.

    Yields:
        The port.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(10)
                data = b"".join(iter(lambda: connection.recv(65_536), b""))  # noqa: B023
                connection.sendall(data[::-1])

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    try:
        yield server.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        serving.join(20)
