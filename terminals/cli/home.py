"""SWM_HOME as the command line sees it: whose core it is, and the core's process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CORE_COMMAND = (sys.executable, "-P", "-m", "swm_core")
"""How the core is run; -P, so that nothing in the current folder is taken for a part of it."""

_TICK_S = 0.1


def core_home() -> Path:
    """$SWM_HOME, else ~/.swm."""
    named = os.environ.get("SWM_HOME")
    return Path(named).expanduser().absolute() if named else Path.home() / ".swm"


def has_bundle_alone(home: Path) -> bool:
    """Whether it is the home of a user whose core lives elsewhere."""
    has_core = (home / "swm.toml").exists() or (home / "pki").exists()
    return (home / "client.toml").exists() and not has_core


def core_environment(home: Path) -> dict[str, str]:
    """The environment of a core on `home`: ours, without what we set for ourselves."""
    environment = {**os.environ, "SWM_HOME": str(home)}
    if environment.get("GRPC_VERBOSITY") == "NONE":
        del environment["GRPC_VERBOSITY"]
    return environment


def core_pid(home: Path) -> int | None:
    """The process that the core on `home` wrote down; it need not be alive, or a core, any more."""
    try:
        pid = int((home / "run" / "core.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 0 else None


def is_in_use(home: Path) -> bool:
    """Whether a core holds the lock of `home`: surer than a process id, which may be used again."""
    try:
        descriptor = os.open(home / "run" / "swm.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class Process:
    """A process of this user that is not our child.

    Where the system has handles for processes, it can't be taken for a later one of its number.
    """

    def __init__(self, pid: int, handle: int | None) -> None:
        self.pid = pid
        self._handle = handle

    @classmethod
    @contextlib.contextmanager
    def opened(cls, pid: int) -> Iterator[Process]:
        """The process with this number.

        Raises:
            ProcessLookupError: There is none.
        """
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        if handle is None:
            os.kill(pid, 0)
        try:
            yield cls(pid, handle)
        finally:
            if handle is not None:
                os.close(handle)

    def terminate(self) -> None:
        """Ask it to end. One that has ended already is no error."""
        with contextlib.suppress(ProcessLookupError):
            if self._handle is None:
                os.kill(self.pid, signal.SIGTERM)
            else:
                signal.pidfd_send_signal(self._handle, signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; returns whether it came."""
        if self._handle is not None:
            ended, _, _ = select.select([self._handle], [], [], timeout_s)
            return bool(ended)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(_TICK_S)
        return False
