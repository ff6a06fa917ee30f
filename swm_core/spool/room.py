"""How much the spool holds, how much it may, and what a disk without room is called."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator

from swm_core.spool.errors import QuotaReached, SpoolFull

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


class OwnerRoom(Room):
    """How much of a spool one owner takes, and how much they may. Safe from any thread.

    Args:
        whole: Of the spool; what is counted here is counted there too.
        max_bytes: Of this owner; 0: as much as there is room for.
        used_bytes: What of them is there; `whole` counts it already.
    """

    def __init__(self, whole: Room, max_bytes: int = 0, used_bytes: int = 0) -> None:
        super().__init__(max_bytes, used_bytes)
        self._whole = whole

    def take(self, size: int) -> None:
        """As `Room.take`.

        Raises:
            QuotaReached: They would be too many for this owner.
            SpoolFull: They would be too many for the spool.
        """
        with self._lock:
            if self.max_bytes and self.used_bytes + size > self.max_bytes:
                raise QuotaReached(
                    f"your files and results take {self.used_bytes} of {self.max_bytes} bytes, and "
                    f"{size} more do not fit; delete jobs (what only they used goes within 70 "
                    "minutes), or have an administrator raise limits.spool_bytes_per_user"
                )
            self._whole.take(size)
            self.used_bytes += size

    def add(self, size: int) -> None:
        super().add(size)
        self._whole.add(size)

    def give_back(self, size: int) -> None:
        super().give_back(size)
        self._whole.give_back(size)


@contextlib.contextmanager
def full_disk_refuses() -> Iterator[None]:
    """Have a disk or a quota without room raise SpoolFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise SpoolFull(f"the disk of the spool is full: {error.strerror}") from error
        raise
