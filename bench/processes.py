"""Real processes: started, waited for, ended by their ids, and how much memory they take."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

END_S = 15.0
"""What a process has to end after it was asked to, before it is killed."""
_LOOK_S = 0.02

Found = TypeVar("Found")


@contextlib.contextmanager
def running(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A Python module as a process of its own, ended with the block.

    Args:
        module: Run as `python -m MODULE`.
        arguments: Its arguments.
        env: Its environment; None: ours.
        log: Where its standard error goes; None: to ours. With a log, so does standard output.

    Yields:
        The process. Its standard input is a pipe, and so is its output unless there is a log.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("a")) if log else None
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=output or subprocess.PIPE,
            stderr=output,
        )
        stack.enter_context(process)
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and insist."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str], line: str = "") -> str:
    """Send a line to one that `running` started without a log, unless it is empty; its answer.

    Raises:
        RuntimeError: It ended instead.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()} instead of answering")
    return answer.strip()


def wait_until(look: Callable[[], Found | None], what: str, timeout_s: float = 30.0) -> Found:
    """What `look` finds as soon as it finds something.

    Raises:
        TimeoutError: Nothing came within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_LOOK_S)
    return found


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end; its output is shown only when it fails."""
    done = subprocess.run(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")


def resident_bytes(pid: int) -> int:
    """What a process has in memory now, by the kernel's own sum over its mappings."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return _field(text, "Rss")


def begin_peak(pid: int) -> None:
    """From now on, `peak_bytes` tells the most that the process had since this call."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(pid: int) -> int:
    """The most that a process had in memory, since it began or since `begin_peak`."""
    return _field(Path(f"/proc/{pid}/status").read_text(encoding="ascii"), "VmHWM")


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"{name} is missing"
    return int(found[1]) * 1024
