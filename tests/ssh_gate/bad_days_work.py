"""What goes on while a gate is killed or a cable is cut, and what is promised of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading

import grpc

from tests.ssh_gate.bad_days import AGAIN_S, HostLatch, Lab
from tests.system.harness.files import File, download
from tests.system.harness.jobs import RUNNING, STAGING_IN, STAGING_OUT, SUCCEEDED
from tests.system.harness.tunnels import ask
from tests.system.harness.waiting import eventually

SIZE = 24 << 20
ENOUGH = 14 << 20
"""So much of a transfer is done when it is broken off."""
ONCE = SIZE + (8 << 20)
"""What may pass for a transfer that goes on where it was; one that begins anew needs more."""
_SERVER = """#!/usr/bin/env python3
#SWM partition {partition}
#SWM ports 0/tcp/in WEB
import os, socket, threading
def serve(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data[::-1])
server = socket.create_server(("127.0.0.1", int(os.environ["SWM_PORT_WEB"])))
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


class Upload:
    """Inputs on their way to a host; begin it with a slowed cable."""

    def __init__(self, lab: Lab, partition: str) -> None:
        self._lab, self._partition = lab, partition
        self._data = os.urandom(SIZE)
        self._before, _ = lab.traffic(partition)
        self._job = lab.submit(
            partition, "#SWM output copy\nmv big copy", inputs={"big": self._data}
        )

    def _received(self) -> int:
        return self._lab.traffic(self._partition)[0] - self._before

    def until(self, size: int = ENOUGH) -> None:
        """Wait until so many bytes have come to the host."""
        eventually(lambda: self._received() > size, f"{size} bytes came", within_s=AGAIN_S)

    def is_under_way(self) -> bool:
        return self._job.get().state == STAGING_IN

    def placed(self) -> None:
        """Wait until the host has it; what had come before was not sent again."""
        self._job.until(RUNNING, STAGING_OUT, within_s=AGAIN_S)
        assert self._received() < ONCE, f"{self._received() >> 20} MiB for {SIZE >> 20}"

    def done(self) -> None:
        ended = self._job.until(SUCCEEDED, within_s=AGAIN_S)
        assert ended.attempt == 1
        assert self._job.outputs() == {"copy": File(self._data)}


class Download:
    """Outputs on their way from a host; begin it with a slowed cable."""

    def __init__(self, lab: Lab, partition: str, hold: HostLatch) -> None:
        self._lab, self._partition, self._hold = lab, partition, hold
        script = f"#SWM output big\nhead -c {SIZE} /dev/urandom >big; sha256sum big"
        self._job = lab.submit(partition, f"{script}; {hold.wait}")
        self._job.written(b"  big\n")
        self._before = 0

    def begin(self) -> None:
        """Let the job end."""
        _, self._before = self._lab.traffic(self._partition)
        self._hold.release()

    def _sent(self) -> int:
        return self._lab.traffic(self._partition)[1] - self._before

    def until(self, size: int = ENOUGH) -> None:
        """Wait until so many bytes have gone from the host."""
        eventually(lambda: self._sent() > size, f"{size} bytes went", within_s=AGAIN_S)

    def is_under_way(self) -> bool:
        return self._job.get().state == STAGING_OUT

    def done(self) -> None:
        ended = self._job.until(SUCCEEDED, within_s=AGAIN_S)
        assert ended.attempt == 1
        assert self._sent() < ONCE, f"{self._sent() >> 20} MiB for {SIZE >> 20}"
        data = download(self._job.user, self._job.job_id, ["big"])["big"]
        # As the host has told it, not the core.
        assert self._job.output().split()[0].decode() == hashlib.sha256(data).hexdigest()


class Run:
    """A job that runs, and ends when it is told to."""

    def __init__(self, lab: Lab, partition: str, hold: HostLatch) -> None:
        self._hold = hold
        script = f"#SWM output r\necho up; {hold.wait}; echo once >>r; echo down"
        self._job = lab.submit(partition, script)
        self._job.written(b"up\n")

    def end(self) -> None:
        """Let it end."""
        self._hold.release()

    def done(self) -> None:
        ended = self._job.until(SUCCEEDED, within_s=AGAIN_S)
        assert ended.attempt == 1
        assert self._job.output() == b"up\ndown\n"
        assert self._job.outputs() == {"r": File(b"once\n")}


class Follow:
    """A job that writes and writes, and somebody who reads that."""

    def __init__(self, lab: Lab, partition: str) -> None:
        self._go_on = lab.host(partition).folder / "tmp" / "go-on"
        self._go_on.touch()
        script = "n=0; while [ -e /tmp/go-on ]; do n=$((n+1)); echo line $n; sleep 0.02; done"
        self._job = lab.submit(partition, script)
        self._read = b""
        self._failed: list[BaseException] = []
        self._reading = threading.Thread(target=self._follow, daemon=True)
        self._reading.start()
        self.goes_on()

    def _follow(self) -> None:
        try:
            for answer in self._job.follow(within_s=AGAIN_S * 3):
                assert answer.offset == len(self._read)
                self._read += answer.data
        except (grpc.RpcError, AssertionError) as error:
            self._failed.append(error)

    def goes_on(self) -> None:
        """Wait until more is read."""
        size = len(self._read)
        eventually(lambda: len(self._read) > size, "more is read", within_s=AGAIN_S)

    def done(self) -> None:
        self.goes_on()
        self._go_on.unlink()
        self._job.until(SUCCEEDED, within_s=AGAIN_S)
        self._reading.join(AGAIN_S)
        assert not self._failed
        numbers = [int(line.split()[1]) for line in self._read.splitlines()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert self._job.output() == self._read


class Tunnel:
    """A job that serves a port, and a connection to it."""

    def __init__(self, lab: Lab, partition: str) -> None:
        self._lab = lab
        script = _SERVER.format(partition=partition)
        self._job = lab.core.user().submit(script, site="lab")
        self._job.written(b"listening\n")
        self._connection = socket.create_connection(lab.port(self._job), timeout=AGAIN_S)
        self._connection.sendall(b"abc")
        assert self._connection.recv(16) == b"cba"

    def broken(self) -> None:
        """Wait until the connection has ended, and not as if all were well."""
        with contextlib.closing(self._connection) as connection:
            try:
                said = connection.recv(16)
            except ConnectionError:
                said = b""
            assert said == b""

    def done(self) -> None:
        """New connections work, at the same place."""

        def answers() -> bool:
            try:
                return ask(self._lab.port(self._job), b"again") == b"niaga"
            except ConnectionError:
                return False

        eventually(answers, "a new connection is answered", within_s=AGAIN_S)
        self._job.cancel()
        self._job.end(within_s=AGAIN_S)
