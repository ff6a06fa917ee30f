"""Make many files durable with one system call."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_syncfs = getattr(_libc, "syncfs", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of sync_file_range(2)


def start_writing(descriptor: int, offset: int, size: int) -> None:
    """Have the system begin to write a part of a file to disk, and do not wait for it.

    Otherwise the disk rests while a large file comes, and its sync in the end takes as long again.
    It promises nothing; where the system can't, nothing happens.
    """
    if _sync_file_range is not None:
        _sync_file_range(
            descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(_WRITE)
        )


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


class GroupSync:
    """Syncs a file system for many callers at once.

    Whoever asks while one sync runs shares the next: what was written before the call is durable
    when it returns.

    Args:
        folder: Any folder of the file system.
    """

    def __init__(self, folder: Path) -> None:
        # Kept open, so that it hears also of writes that fail between two syncs.
        self._disk = FileSystem(folder)
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def sync(self) -> None:
        """Return when all that was written before is on disk.

        Raises:
            OSError: It could not be written.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running))
        await asyncio.shield(self._next)

    def close(self) -> None:
        """Let go of the file system; nobody syncs any more."""
        self._disk.close()

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        self._running, self._next = self._next, None
        await asyncio.to_thread(self._disk.sync)
