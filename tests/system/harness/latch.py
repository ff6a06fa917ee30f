"""Holds a script of a job where a test wants it, without anybody asking again and again."""

from __future__ import annotations

import os
from pathlib import Path


class Latch:
    """A pipe with a name: a script that reads a line from it waits until the test writes one.

    Args:
        path: Where to make it.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        # Open for both: a script opens it at once, and what was written stays while nobody reads.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def wait(self) -> str:
        """The line of shell that waits."""
        return f"read -r _ < '{self.path}'"

    def release(self, times: int = 1) -> None:
        """Let so many scripts go on."""
        os.write(self._descriptor, b"\n" * times)

    def close(self) -> None:
        os.close(self._descriptor)
