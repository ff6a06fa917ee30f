"""Which processes came from which, and waiting for what nothing tells of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

_WITHIN_S = 20.0


def children(pid: int) -> list[int]:
    """Those that a process has started, and that it still has."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it, or a thread of it, has ended by now
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def only_child(pid: int) -> int:
    """The one that a process has."""
    (child,) = children(pid)
    return child


def until(is_so: Callable[[], bool], otherwise: str, *, within_s: float = _WITHIN_S) -> None:
    """Wait until something is so; fail with `otherwise` if it takes too long."""
    last = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < last, otherwise
        time.sleep(0.02)
