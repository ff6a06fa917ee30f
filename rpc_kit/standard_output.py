"""What commands do when their standard output takes nothing more, as on a disk that is full."""

from __future__ import annotations

import io
import os
import sys


def failure_of(error: BaseException) -> str:
    """One line that says why standard output took no more; empty if `error` has another cause."""
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError) or error.filename:
        return ""
    # With PYTHONUNBUFFERED there is no buffer. Who writes elsewhere names the file, so it is this.
    is_it = not isinstance(sys.stdout.buffer, io.BufferedIOBase)
    try:
        # What could not be written is in its buffer still.
        sys.stdout.flush()
    except OSError as again:
        is_it = again.errno == error.errno
    return f"standard output can't be written: {error.strerror}" if is_it else ""


def drop() -> None:
    """Forget what it did not take: the interpreter would complain of it when it ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
