"""Make many files durable with one system call."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_syncfs = getattr(_libc, "syncfs", None)


class FileSystem:
    """The file system of a folder. Open it before what it has to sync is written: see `sync`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def sync(self) -> None:
        """Return when all that was written to the file system is on disk.

        Linux has syncfs(2), which since 5.8 reports what went wrong since its descriptor was
        opened, also in the background; elsewhere all file systems are synced.
        """
        if _syncfs is None:
            os.sync()
        elif _syncfs(self._descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self._folder))

    def close(self) -> None:
        """Let go of it; the same again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sync_file_system(folder: Path) -> None:
    """Return when all that was written to the file system of `folder` is on disk."""
    system = FileSystem(folder)
    try:
        system.sync()
    finally:
        system.close()


def sync_path(path: Path) -> None:
    """Return when a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
