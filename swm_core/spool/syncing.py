"""Make many files durable with one system call."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_syncfs = getattr(_libc, "syncfs", None)


def sync_file_system(folder: Path) -> None:
    """Return when all that was written to the file system of `folder` is on disk.

    Linux has syncfs(2) for one file system, which reports write errors since 5.8; elsewhere all are
    synced.
    """
    if _syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
