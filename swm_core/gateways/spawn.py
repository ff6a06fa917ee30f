"""Become a gate that dies with the core, even when the core is killed.

    python -I -S spawn.py CORE_PID PROGRAM [ARGUMENT...]

A program of its own, because the death signal has to be set in the child, and code between fork and
exec of a process with threads may deadlock. Linux only; elsewhere a gate notices the end of its
standard input (SKYPORT_SUPERVISED) and this only runs the program.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Never returns: the process becomes the program."""
    core_pid, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The core may have died before the call above: then no signal will ever come.
        if os.getppid() != core_pid:
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execvp(program[0], program)  # noqa: S606  the command is the administrator's own  # nosec B606
    except OSError as error:
        print(f"cannot run {program[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        os._exit(127)


if __name__ == "__main__":
    main()
