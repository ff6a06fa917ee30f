"""SIGTERM and SIGINT end a long run in the same way: all that it has started goes with it.

    ending.heed()                   # once, in the main thread of each process
    with ending.held():             # what must not be left half-way
        ...

The first signal ends the process by SystemExit, so that `finally` and contexts clean up. Those that
come afterwards change nothing: `timeout`, make and a terminal tell whole groups, some twice.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Ending:
    def __init__(self) -> None:
        self._held = 0
        self._number = 0
        self._has_raised = False

    def told(self, number: int, _: FrameType | None) -> None:
        # Not ignored by the system: that would be passed on to the programs that clean up.
        self._number = self._number or number
        if not self._held:
            self._raise()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._number and not self._held:
            self._raise()

    def _raise(self) -> None:
        if not self._has_raised:
            self._has_raised = True
            raise SystemExit(128 + self._number)


_ending = _Ending()
held = _ending.held
"""What is inside goes its whole way; a signal that came meanwhile ends the process after it."""


def heed() -> None:
    """Have both signals end this process so from now on."""
    for number in SIGNALS:
        signal.signal(number, _ending.told)
