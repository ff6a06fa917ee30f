"""What the standard library lacks of the C library: inotify, and writing out one file system.

The packages that wrap inotify either hold events back to gather more of them, or are not under a
permissive licence; it is three functions.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def inotify_open() -> int:
    """A new inotify descriptor that does not block.

    Raises:
        OSError: The system has none left, or no inotify.
    """
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_watch(descriptor: int, folder: Path, mask: int) -> int:
    """The number of a watch on `folder`; the same number again for the same folder.

    Raises:
        OSError: There is no such folder, or the system watches no more.
    """
    return _checked(_libc.inotify_add_watch(descriptor, os.fsencode(folder), mask))


def inotify_forget(descriptor: int, number: int) -> None:
    """End a watch. One that ended with its folder is no error."""
    _libc.inotify_rm_watch(descriptor, number)


def sync_file_system(folder: Path) -> None:
    """Wait until all that was written to the file system of `folder` is on the disk.

    One call for any number of files. Blocks on the disk.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _checked(_libc.syncfs(descriptor))
    finally:
        os.close(descriptor)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
