"""Puts the inputs of an attempt into its work folders, and takes back what lies in a user's own.

A work folder of our own is made anew from the manifest. One that the user named may hold files of
theirs: what we make there is noted before it is made, so that a removal takes nothing else away.
All of it blocks on the disk: call it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from gate_kit import errors
from gate_kit.manifest import permission_bits
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.cache import Cache
from skyport.common.v1 import manifest_pb2

_FILE = manifest_pb2.FILE_TYPE_FILE
_DIRECTORY = manifest_pb2.FILE_TYPE_DIRECTORY


class Stopped(Exception):
    """The placing was told to stop."""


def place(
    attempt: Attempt,
    entries: Iterable[manifest_pb2.ManifestEntry],
    cache: Cache,
    folders: Sequence[Path],
    *,
    own: bool,
    stop: threading.Event,
) -> None:
    """Make `entries` in each of `folders`.

    Args:
        attempt: Whose inputs they are.
        entries: A checked manifest, in its order.
        cache: Has all their contents.
        folders: The work folders.
        own: Whether they are the gate's; if not, what is made is noted in `placed`.
        stop: Ends it early when set.

    Raises:
        Refusal: FILE_DIFFERS where something of the user's is in the way; DIGEST_MISMATCH for a
            content that the cache has not kept well.
        Stopped: `stop` was set.
    """
    directories: list[tuple[Path, int]] = []
    with Noted(attempt, own=own) as noted:
        for folder in folders:
            if own and folder.exists():
                shutil.rmtree(folder)
            noted.make_folder(folder)
        for entry in entries:
            if stop.is_set():
                raise Stopped
            for folder in folders:
                path = folder / entry.path
                if entry.type == _DIRECTORY:
                    noted.make_folder(path)
                    directories.append((path, permission_bits(entry)))
                    continue
                noted.make_folder(path.parent)
                if not own and _is_there(path, entry, noted):
                    continue
                noted.note(path)
                if entry.type == _FILE:
                    draft = folder / f".swm-{attempt.folder.name}"
                    noted.note(draft)
                    cache.copy_to(entry.sha256, path, permission_bits(entry), draft=draft)
                else:
                    path.unlink(missing_ok=True)
                    path.symlink_to(entry.link_target)
    # Last, and from below: a folder may be one that nobody writes to.
    for path, mode in reversed(directories):
        path.chmod(mode)


def make_named_folder(attempt: Attempt, folder: Path) -> None:
    """Make a work folder that the user named, unless it is there."""
    with Noted(attempt, own=False) as noted:
        noted.make_folder(folder)


def take_back(attempt: Attempt) -> None:
    """Remove what was made in a work folder of the user's; the rest there stays."""
    names = _noted(attempt.folder)
    others = _noted_by_others(attempt)
    # Folders were noted before what lies in them, so from the end.
    for name in reversed(names):
        if name in others:
            continue
        path = Path(os.fsdecode(name))
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()  # only when empty
            else:
                path.unlink()
    (attempt.folder / "placed").unlink(missing_ok=True)


class Noted:
    """Makes folders, and notes what is made outside our own, before it is made."""

    def __init__(self, attempt: Attempt, *, own: bool) -> None:
        self._attempt = attempt
        self._own = own
        self._file = None if own else (attempt.folder / "placed").open("ab")
        self._known: set[Path] = set()
        self._seen = set() if own else set(_noted(attempt.folder))
        self._others: set[bytes] | None = None

    def __enter__(self) -> Noted:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def note(self, path: Path) -> None:
        """Say that `path` is being made by us."""
        if self._file is None:
            return
        name = os.fsencode(path)
        if name not in self._seen:
            self._seen.add(name)
            self._file.write(name + b"\0")
            self._file.flush()

    def is_ours(self, path: Path) -> bool:
        """Whether this attempt, or another of its job, has made `path`."""
        name = os.fsencode(path)
        if self._others is None:
            self._others = _noted_by_others(self._attempt)
        return name in self._seen or name in self._others

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it.

        Raises:
            Refusal: FILE_DIFFERS where something else is in its place, a link for one: it could
                lead anywhere.
        """
        missing = []
        while path not in self._known:
            self._known.add(path)
            if not path.is_dir() or path.is_symlink():
                missing.append(path)
            elif self._file is not None and self.is_ours(path):
                self.note(path)  # an earlier attempt made it; the last of them takes it back
            else:
                break
            path = path.parent
        for folder in reversed(missing):
            if folder.is_symlink() or folder.exists():
                raise errors.file_differs(str(folder))
            self.note(folder)
            folder.mkdir(mode=0o777 if self._own else 0o700)


def _is_there(path: Path, entry: manifest_pb2.ManifestEntry, noted: Noted) -> bool:
    """Whether the user has the same already.

    Raises:
        Refusal: FILE_DIFFERS: they have something else, that no attempt of this job made.
    """
    try:
        told = path.lstat()
    except FileNotFoundError:
        return False
    if noted.is_ours(path):
        return False
    if stat.S_ISLNK(told.st_mode):
        same = entry.type != _FILE and str(path.readlink()) == entry.link_target
    elif stat.S_ISREG(told.st_mode) and entry.type == _FILE and told.st_size == entry.size:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").digest() == entry.sha256
    else:
        same = False
    if not same:
        raise errors.file_differs(str(path))
    return True


def _noted(folder: Path) -> list[bytes]:
    try:
        return (folder / "placed").read_bytes().split(b"\0")[:-1]
    except FileNotFoundError:
        return []


def _noted_by_others(attempt: Attempt) -> set[bytes]:
    """What other attempts of the same job have made in folders of the user's."""
    others = attempt.folder.parent.glob(f"{attempt.key.job_id}.*")
    return {name for other in others if other != attempt.folder for name in _noted(other)}
