"""Waiting for what tells no event of its own: bounded, and in one place."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import TypeVar

WITHIN_S = 20.0
"""What is waited for takes milliseconds; this is for a machine that is busy with other things."""

_TICK_S = 0.02

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, *, within_s: float = WITHIN_S) -> T:
    """The first true answer of `look`.

    Raises:
        AssertionError: There was none in time; it tells the last answer.
    """
    until = time.monotonic() + within_s
    never = threading.Event()
    while not (found := look()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {within_s:g} s: {what} (last: {found!r})")
        never.wait(_TICK_S)
    return found


def gone(pid: int, *, within_s: float = WITHIN_S) -> bool:
    """Wait until a process, of whomever, has ended; returns False if it does not in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(within_s * 1000))
    finally:
        os.close(descriptor)
