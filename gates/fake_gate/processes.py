"""Processes of this machine: who is alive, whose they are, how one waits for their end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

MARK = b"SWM_MARK="

# After KILL a process goes as soon as it leaves the kernel; disks and network mounts can hold it.
_KILL_ROUND_S = 0.5
_STATE, _SESSION, _STARTED = 0, 3, 19  # of what follows the name in /proc/PID/stat


def boot_id() -> str:
    """Differs after each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def started_at(pid: int) -> int | None:
    """When the process started, in ticks since boot; None if it is gone or only waits to be reaped.

    Together with the boot it tells a process from a later one with the same number.
    """
    fields = _stat(pid)
    if fields is None or fields[_STATE] == b"Z":
        return None
    return int(fields[_STARTED])


def find(marks: Iterable[str], sessions: Collection[int] = ()) -> set[int]:
    """The living processes with one of `marks` as SWM_MARK, or that are of `sessions`.

    No mark may begin another.
    """
    wanted = tuple(MARK + mark.encode() for mark in marks)
    behind = tuple(b"\0" + mark for mark in wanted)
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - a third of the time
        if not name.isdigit():
            continue
        environment = _read(f"/proc/{name}/environ")
        if environment.startswith(wanted) or any(mark in environment for mark in behind):
            found.add(int(name))
        elif sessions:
            fields = _stat(int(name))
            if fields and fields[_STATE] != b"Z" and int(fields[_SESSION]) in sessions:
                found.add(int(name))
    return found


def find_runners(script: str, mark: str) -> set[int]:
    """The living shells that run a script whose path begins so, with `mark` as an argument.

    They are the runner, and shells that it has forked and that are nothing else yet.
    """
    shell = b"/bin/sh\0" + script.encode()
    wanted = b"\0" + mark.encode() + b"\0"
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit():
            command = _read(f"/proc/{name}/cmdline")
            if command.startswith(shell) and wanted in command:
                found.add(int(name))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Watched:
    """A watch on the end of one process; `close` it when it is not needed any more."""

    descriptor: int

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)


def on_end(pid: int, started: int, callback: Callable[[], None]) -> Watched | None:
    """Have `callback` called once when the process has ended, ours or not.

    Returns:
        The watch; None if the process has ended already.

    Raises:
        OSError: The system has no descriptor left for it.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Only now is the number held fast: it may have passed to another process before.
    if started_at(pid) != started:
        os.close(descriptor)
        return None
    asyncio.get_running_loop().add_reader(descriptor, callback)
    return Watched(descriptor)


async def stop(
    find_alive: Callable[[], Collection[int]], grace_s: float, *, hurry: asyncio.Event | None = None
) -> None:
    """End what `find_alive` finds: TERM, after the grace time KILL, until it finds nothing.

    Args:
        find_alive: Asked again after each round, since what is being ended may still fork.
        grace_s: Seconds between TERM and KILL.
        hurry: When set, the grace time is over.
    """
    alive = set(find_alive())
    told: set[int] = set()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_s
    while alive:
        late = loop.time() >= deadline or (hurry is not None and hurry.is_set())
        _signal(alive if late else alive - told, signal.SIGKILL if late else signal.SIGTERM)
        told |= alive
        rest = _KILL_ROUND_S if late else min(deadline - loop.time(), _KILL_ROUND_S)
        await wait_gone(alive, max(rest, 0.001), hurry=None if late else hurry)
        alive = set(find_alive())


async def wait_gone(
    pids: Iterable[int], timeout_s: float, *, hurry: asyncio.Event | None = None
) -> None:
    """Wait until all of `pids` have ended, at most `timeout_s`, or until `hurry` is set."""
    ended = asyncio.Event()
    watches: list[Watched] = []
    left = 0

    def one_ended(index: int) -> None:
        nonlocal left
        asyncio.get_running_loop().remove_reader(watches[index].descriptor)
        left -= 1
        if not left:
            ended.set()

    for pid in pids:
        started = started_at(pid)
        index = len(watches)
        watch = None
        if started is not None:
            watch = on_end(pid, started, lambda index=index: one_ended(index))  # type: ignore[misc]
        if watch:
            watches.append(watch)
            left += 1
    try:
        if left:
            waits = [asyncio.ensure_future(ended.wait())]
            if hurry is not None:
                waits.append(asyncio.ensure_future(hurry.wait()))
            try:
                await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
    finally:
        for watch in watches:
            watch.close()


def kill(pids: Iterable[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Send KILL, or another signal, to each that is still there."""
    _signal(pids, number)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            if number is signal.SIGTERM:
                os.kill(pid, signal.SIGCONT)


def _stat(pid: int) -> list[bytes] | None:
    """What follows the name in /proc/PID/stat, which may itself hold spaces and brackets."""
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(b") ")[2].split() if text else None


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b""))
    except OSError:  # it ended meanwhile, or belongs to somebody else
        return b""
    finally:
        os.close(descriptor)
