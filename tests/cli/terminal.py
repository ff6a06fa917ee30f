"""Runs the real `swm`: with pipes, or on a terminal of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SWM = Path(sys.executable).with_name("swm")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")

# The terminal becomes the controlling one of the child, so that Ctrl-C is a signal there.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclasses.dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Swm:
    """The command, for one user with one bundle."""

    def __init__(self, environment: Mapping[str, str], cwd: Path) -> None:
        self.environment = dict(environment)
        self.cwd = cwd
        self._started: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End what was started."""
        for process in self._started:
            process.kill()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait()

    def __call__(
        self, *args: str, stdin: str | bytes = b"", timeout_s: float = 60, **environment: str
    ) -> Result:
        done = subprocess.run(
            [SWM, *args],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env={**self.environment, **environment},
            cwd=self.cwd,
            timeout=timeout_s,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, **environment: str) -> str:
        """Its output; it has to succeed."""
        result = self(*args, timeout_s=60, **environment)
        assert result.code == 0, result
        return result.out

    def popen(self, *args: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [SWM, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.cwd,
        )
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def on_terminal(self, *args: str, columns: int = 100) -> Iterator[Terminal]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, SWM, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"TERM": "xterm-256color", **self.environment},
            cwd=self.cwd,
            start_new_session=True,
        )
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            process.wait()
            os.close(master)


class Terminal:
    """What a person sees and types."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.raw = ""

    @property
    def text(self) -> str:
        """What was shown, without colours and cursor movements."""
        return _CONTROL.sub("", self.raw)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, wanted: str, timeout_s: float = 30) -> str:
        """Wait until `wanted` was shown."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{wanted!r} was not shown: {self.text!r}"
            assert self._read(left), f"ended without {wanted!r}: {self.text!r}"
        return self.text

    def finish(self, timeout_s: float = 30) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(timeout_s)

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)
