"""Files and folders that only their owner may read: keys, bundles, sockets, configuration."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without links say, among them FAT."""


def make_folder(path: Path) -> Path:
    """Make `path`, 0700, and what is missing above it; or check that it is ours alone.

    Raises:
        PermissionError: It was there, and belongs to somebody else, is open to others, or is a
            link. It is left as it is: who named `/tmp` did not mean to close it.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    told = path.lstat()
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a folder of this user; choose another")
    if told.st_mode & 0o077:
        raise PermissionError(f"{path} is open to other users; choose another, or chmod 700 it")
    return path


def write_new(path: Path, data: bytes) -> bool:
    """Write a file, 0600, whole or not at all, unless there is one.

    Returns:
        Whether it was written; False leaves what was there as it is.
    """
    with _beside(path, data) as draft:
        if not give_name(draft, path):
            return False
    _sync_folder(path.parent)
    return True


def give_name(draft: Path, path: Path) -> bool:
    """Let a whole file have its name too, or instead, unless there is a file of that name.

    Returns:
        Whether it has; of two writers one wins.
    """
    try:
        # Unlike a rename, a link never replaces.
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    # As on a memory stick. An empty file takes the name, and is replaced at once.
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    draft.replace(path)
    return True


def replace(path: Path, data: bytes) -> None:
    """Write a file, 0600; readers see the old content or the new, never a part."""
    with _beside(path, data) as draft:
        draft.replace(path)
    _sync_folder(path.parent)


def remove_drafts(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder.

    Only for who knows that nobody else writes there now.
    """
    for path in folder.iterdir():
        if _DRAFT.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside(path: Path, data: bytes) -> Iterator[Path]:
    """A synced file with `data` in the folder of `path`, removed afterwards if still there."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
