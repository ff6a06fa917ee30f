"""A matrix or a soak that is told to end leaves nothing: no process, folder, mount or bridge."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.harness.waiting import eventually
from tests.testbed.processes import descendants

CASE = "forced_while_running @ lab: kill gate at job RUNNING>CANCELLED before"
RUNS = {
    "matrix": ["tests.crash.matrix", "--worlds", "1", "--case", CASE],
    "soak": ["tests.crash.soak", "--kills", "2000"],
}
WITHIN_S = 240.0


class Seen:
    """What there ever was of a run: processes by number and start, and folders.

    Args:
        run: Its first process.
        mark: What its processes have in their environment.
    """

    def __init__(self, run: subprocess.Popen[bytes], mark: str) -> None:
        self._run = run
        self._mark = mark.encode()
        self._processes: set[tuple[int, str]] = set()
        self.folders: set[Path] = set()

    def look(self) -> list[str]:
        """The command lines of those that are there now."""
        pids = set(descendants(self._run.pid))
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                command = path.with_name("cmdline").read_bytes()
                # What came by sshd has an environment of its own.
                if self._mark in path.read_bytes().split(b"\0") or any(
                    os.fsencode(each) in command for each in self.folders
                ):
                    pids.add(int(path.parent.name))
        for pid in pids - {self._run.pid}:
            with contextlib.suppress(OSError):
                self._processes.add((pid, _started(pid)))
        lines = []
        for pid, started in self._processes:
            with contextlib.suppress(OSError):
                if _started(pid) == started:
                    line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                    lines.append(f"{pid} {line}")
        for match in re.finditer(r"/\S*?/(?:matrix|soak|swmdk)[\w-]+(?=[/ ])", " ".join(lines)):
            self.folders.add(Path(match[0]))
        return lines

    @property
    def works(self) -> bool:
        """Whether a job has begun."""
        self.look()
        facts = [folder / "facts" for folder in self.folders]
        return any(each.exists() and each.stat().st_size for each in facts)

    def left(self) -> list[str]:
        """All of it that is there still."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        bridges = {Path("/sys/class/net", each.name.partition("-")[0]) for each in self.folders}
        return [
            *self.look(),
            *(str(each) for each in self.folders | bridges if each.exists()),
            *(line for line in mounts if any(f"{each}/" in line for each in self.folders)),
        ]


def _started(pid: int) -> str:
    """When a process began, so that no other of the same number is taken for it."""
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state == "Z":
        raise ProcessLookupError(pid)
    return rest[18]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", RUNS)
def test_what_is_told_to_end_leaves_nothing(what: str, tmp_path: Path) -> None:
    name, value = "SKYPORT_TEST_MARK", secrets.token_hex(8)
    log = tmp_path / "log"
    with log.open("wb") as file:
        run = subprocess.Popen(
            [sys.executable, "-m", *RUNS[what]],
            env={**os.environ, name: value, "TMPDIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    seen = Seen(run, f"{name}={value}")

    def works() -> bool:
        assert run.poll() is None, log.read_text(errors="replace")
        return seen.works

    try:
        eventually(works, "a job runs", within_s=WITHIN_S)
        for _ in range(2):  # as `timeout` and make, who tell twice
            if what == "matrix":
                run.send_signal(signal.SIGTERM)  # its worlds hear of it from it alone
            else:
                os.killpg(run.pid, signal.SIGTERM)
        assert run.wait(WITHIN_S) == 128 + signal.SIGTERM, log.read_text(errors="replace")
        with contextlib.suppress(AssertionError):  # told below
            eventually(lambda: not seen.left(), "nothing is left", within_s=30.0)
        assert seen.left() == []
    finally:
        for line in [f"{run.pid}", *seen.look()] if run.poll() is None else seen.look():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        run.wait()
