"""How much the spool holds, how much it may, and what a disk without room is called."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator

from swm_core.spool.errors import SpoolFull

# EFBIG: a limit on the size of files is a disk without room, too.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Room:
    """How much the spool holds, and how much it may. Safe from any thread."""

    def __init__(self, max_bytes: int, used_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = used_bytes
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count `size` bytes more, before they are written.

        Raises:
            SpoolFull: They would be too many.
        """
        with self._lock:
            if self.used_bytes + size > self.max_bytes:
                raise SpoolFull(
                    f"the spool holds {self.used_bytes} of {self.max_bytes} bytes; delete jobs, or "
                    "raise spool.max_size"
                )
            self.used_bytes += size

    def add(self, size: int) -> None:
        """Count `size` bytes more, whatever there is room for."""
        with self._lock:
            self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Count `size` bytes less."""
        with self._lock:
            self.used_bytes = max(0, self.used_bytes - size)


@contextlib.contextmanager
def full_disk_refuses() -> Iterator[None]:
    """Have a disk or a quota without room raise SpoolFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise SpoolFull(f"the disk of the spool is full: {error.strerror}") from error
        raise
