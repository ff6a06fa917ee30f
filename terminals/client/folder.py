"""Writes files under names that come from elsewhere, and never outside its folder.

A core is trusted to have what it says it has, not to name a path: `..`, absolute names and links
that are in the way are refused. Each file is written beside its place and renamed when it is whole
and its digest is right; a partial one is kept and continued by a later try for the same content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from terminals.client.errors import OutputRefused

_READ_BYTES = 1 << 20
_MAX_PATH_BYTES = 4096
_MAX_NAME_BYTES = 255
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def checked_name(name: str) -> str:
    """`name` itself, if it is a relative path that stays below where it begins.

    Raises:
        OutputRefused: It is not.
    """
    parts = name.split("/")
    data = name.encode(errors="surrogateescape")
    if (
        not name
        or "\0" in name
        or len(data) > _MAX_PATH_BYTES
        or any(part in ("", ".", "..") for part in parts)
        or any(len(part.encode(errors="surrogateescape")) > _MAX_NAME_BYTES for part in parts)
    ):
        raise OutputRefused(f"the core names an output {name!r}, which is no path below a folder")
    return name


def stays_inside(name: str, target: str) -> bool:
    """Whether a link called `name` with this target can't lead out of the folder."""
    if not target or target.startswith("/") or "\0" in target:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    rising = parts.count("..")
    # Only at the beginning: further on, ".." may lead anywhere by way of another link.
    return rising <= name.count("/") and ".." not in parts[rising:]


class OutputFolder:
    """A folder that outputs are written into. Close it in the end.

    Args:
        path: Where; it is made if missing.

    Raises:
        OutputRefused: It can't be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            # The folder that the user names may be reached through a link.
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise OutputRefused(f"{path}: {error.strerror}; choose another folder") from None
        self._umask = _umask()
        # The way to the folder that was used last: names come in order, so it is mostly the next.
        self._way: list[tuple[str, int]] = []

    def close(self) -> None:
        self._leave(0)
        os.close(self._top)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_folder(self, name: str) -> None:
        """Make a folder, and those above it, where they are missing."""
        self._enter(checked_name(name).split("/"))

    def has(self, name: str, size: int, sha256: bytes) -> bool:
        """Whether there is a file of this name with this content."""
        parent, last = self._parent(name)

        def opened(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)

        try:
            file = io.FileIO(last, opener=opened)
        except OSError:
            return False
        with file:
            told = os.fstat(file.fileno())
            if not stat.S_ISREG(told.st_mode) or told.st_size != size:
                return False
            digest = hashlib.sha256()
            while data := file.read(_READ_BYTES):
                digest.update(data)
            return digest.digest() == sha256

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link; what has the name is replaced, unless it is a folder.

        Ask `stays_inside` before.
        """
        parent, last = self._parent(name)
        draft = _draft_name(last, target.encode(errors="surrogateescape"))
        with self._told(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=parent)
            os.symlink(target, draft, dir_fd=parent)
            try:
                os.rename(draft, last, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                os.unlink(draft, dir_fd=parent)
                raise

    def part(self, name: str, content: bytes) -> Part:
        """Begin a file, or go on with a part of it from an earlier try.

        Args:
            name: Its name.
            content: What tells its content from any other, as a digest; empty if nothing does, then
                there is nothing to go on with.
        """
        parent, last = self._parent(name)
        draft = _draft_name(last, content)
        with self._told(name):
            # A descriptor of its own: the way may be left while the part is open.
            folder = os.dup(parent)
            try:
                file = self._draft(folder, draft, name)
            except BaseException:
                os.close(folder)
                raise
        part = Part(self, name, file, folder, draft, last, self._umask)
        try:
            part.begin(resume=bool(content))
        except BaseException:
            part.close()
            raise
        return part

    def _draft(self, folder: int, draft: str, name: str) -> io.FileIO:
        """A draft, opened and locked: of two that write to one, each would spoil the other's."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        while True:  # ends unless others finish it again and again
            file = io.FileIO(
                draft, "r+", opener=lambda path, _: os.open(path, flags, 0o600, dir_fd=folder)
            )
            try:
                if not _lock(file):
                    raise OutputRefused(
                        f"{self.path / name}: another swm is fetching it; wait for that one, or "
                        "choose another folder"
                    )
                if _leads_to(folder, draft, file):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()

    def _parent(self, name: str) -> tuple[int, str]:
        *folders, last = checked_name(name).split("/")
        return self._enter(folders), last

    def _enter(self, folders: list[str]) -> int:
        """A descriptor of the folder, made if missing; it is ours, and good until the next call."""
        common = 0
        for (known, _), wanted in zip(self._way, folders, strict=False):
            if known != wanted:
                break
            common += 1
        self._leave(common)
        for depth in range(common, len(folders)):
            above = self._way[-1][1] if self._way else self._top
            name = "/".join(folders[: depth + 1])
            with self._told(name):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folders[depth], 0o777, dir_fd=above)
                self._way.append(
                    (folders[depth], os.open(folders[depth], _FOLDER_FLAGS, dir_fd=above))
                )
        return self._way[-1][1] if self._way else self._top

    def _leave(self, depth: int) -> None:
        while len(self._way) > depth:
            os.close(self._way.pop()[1])

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turn what the system refuses into words."""
        try:
            yield
        except OSError as error:
            raise self.refused(name, error) from None

    def refused(self, name: str, error: OSError) -> OutputRefused:
        """The error for something below this folder that can't be written."""
        place = self.path / name
        if place.is_symlink():
            why = "it is a link, and outputs are never written through one; remove it"
        elif isinstance(error, NotADirectoryError):
            why = "a file is where a folder is needed; remove it"
        elif isinstance(error, IsADirectoryError):
            why = "a folder is where a file is needed; remove it"
        else:
            return OutputRefused(f"{place}: {error.strerror or error}; choose another folder")
        return OutputRefused(f"{place}: {why}, or choose another folder")


class Part:
    """A file on its way: written in order, then renamed. Close it in the end."""

    def __init__(
        self,
        folder: OutputFolder,
        name: str,
        file: io.FileIO,
        parent: int,
        draft: str,
        last: str,
        umask: int,
    ) -> None:
        self.name = name
        self._folder = folder
        self._file = file
        self._parent = parent
        self._draft = draft
        self._last = last
        self._umask = umask
        self._digest = hashlib.sha256()
        self._is_settled = False
        self.offset = 0
        """Bytes that are there."""

    def begin(self, *, resume: bool) -> None:
        """Read what is there of an earlier try, or drop it."""
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise OutputRefused(f"{self._folder.path / self._draft} is no file; remove it")
        if not resume:
            self.restart()
            return
        while data := self._file.read(_READ_BYTES):
            self._digest.update(data)
            self.offset += len(data)

    def restart(self) -> None:
        """Drop what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.offset = 0

    def write(self, data: bytes) -> None:
        """Add `data`.

        Raises:
            OutputRefused: The disk is full, for example.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._folder.refused(self.name, error) from None
        self._digest.update(data)
        self.offset += len(data)

    @property
    def sha256(self) -> bytes:
        """Digest of what is there."""
        return self._digest.digest()

    def finish(self, mode: int) -> None:
        """Give it its name and mode; what had the name is replaced, unless it is a folder.

        Args:
            mode: Permission bits; the umask applies.
        """
        try:
            os.fchmod(self._file.fileno(), mode & 0o777 & ~self._umask)
            os.rename(self._draft, self._last, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except OSError as error:
            raise self._folder.refused(self.name, error) from None
        self._is_settled = True

    def drop(self) -> None:
        """Remove it."""
        self._is_settled = True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._draft, dir_fd=self._parent)

    def close(self) -> None:
        """Let go of it; what is there stays for another try, if anything is."""
        if not self.offset and not self._is_settled:
            self.drop()
        self._file.close()
        os.close(self._parent)


def _lock(file: io.FileIO) -> bool:
    """Lock a file until it is closed; returns False if somebody else has it locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # this file system has no locks
    return True


def _leads_to(folder: int, name: str, file: io.FileIO) -> bool:
    """Whether a name is that of an open file still."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file.fileno()))


def _draft_name(last: str, key: bytes) -> str:
    """Where a file is written before it has its name: the same for the same content only."""
    mark = hashlib.sha256(last.encode(errors="surrogateescape") + b"\0" + key).hexdigest()[:16]
    name = f".{last}.{mark}.part"
    return name if len(os.fsencode(name)) <= _MAX_NAME_BYTES else f".swm-{mark}.part"


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
