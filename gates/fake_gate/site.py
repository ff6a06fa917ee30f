"""The folder that plays the site: where everything lies, and how it is written.

root_uid                                  who this site is
jobs/PARTITION/INSTALLATION/JOB.ATTEMPT/  an attempt; see `attempt`
tombstones/…                              the same path: an empty file says never again
partitions/ID/                            a dynamic partition; see `partitions`
gone_partitions/ID                        an empty file: was deleted
cache/ACCOUNT/                            contents by digest; see `cache`
runner-HASH.sh                            what runs attempts
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from gate_kit import errors
from gate_kit.ssh.layout import AttemptPath
from gate_kit.ssh.runner import Runner

TOMBSTONES_KEPT_S = 7 * 86_400

_REMOVED = ".removed."
_SAFE = re.compile(r"[^A-Za-z0-9_.-]")


class Site:
    """Paths and the few ways in which something is made there.

    Args:
        root: The folder that plays the site.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / "jobs"
        self.partitions = root / "partitions"
        self.fault_counts = root / "faults"
        self.runner = root / "runner.sh"
        self._tombstones = root / "tombstones"
        self._gone = root / "gone_partitions"
        self._root_uid = f"{root}/root_uid"
        self._scope_uid = root / "scope_uid"

    def open(self, runner: Runner) -> None:
        """Make what is missing, and clear away what a gate that died was about to.

        Args:
            runner: What runs attempts.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.jobs, self.partitions, self._tombstones, self._gone):
            folder.mkdir(exist_ok=True)
        write_new(self._scope_uid, secrets.token_hex(16).encode())
        self.runner = self.root / runner.name
        if not self.runner.exists():
            write_whole(self.runner, runner.text)
        for pattern in (f"{_REMOVED}*", f"*/*/{_REMOVED}*"):  # of partitions, and of attempts
            for left in (*self.jobs.glob(pattern), *self._tombstones.glob(pattern)):
                shutil.rmtree(left, ignore_errors=True)
        for left in self.partitions.glob(".*"):  # what was going, or not whole yet
            shutil.rmtree(left, ignore_errors=True)
        oldest = time.time() - TOMBSTONES_KEPT_S
        for tombstone in (*self._tombstones.glob("*/*/*"), *self._gone.iterdir()):
            if tombstone.stat().st_mtime < oldest:
                tombstone.unlink()

    def root_uid(self) -> str:
        """The identity of this place; empty if nothing was ever written here.

        It is read each time: another disk may be mounted there meanwhile.

        Raises:
            Refusal: SITE_UNREACHABLE when the folder is not there.
        """
        found = read(self._root_uid)
        if found is None:
            if not self.jobs.is_dir():
                raise errors.site_unreachable(f"{self.root} is not there; is it mounted?")
            return ""
        return found[0].decode()

    def make_root_uid(self) -> str:
        """The identity of this place, made if there is none."""
        write_new(Path(self._root_uid), secrets.token_hex(16).encode())
        return self.root_uid()

    def scope_uid(self) -> str:
        """The identity of the account in whose name partitions are made."""
        try:
            return self._scope_uid.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def attempt_folder(self, key: AttemptPath) -> Path:
        return self.jobs / key.path

    def tombstone(self, key: AttemptPath) -> Path:
        return self._tombstones / key.path

    def bury(self, key: AttemptPath) -> None:
        """Say that the attempt never starts, or never again."""
        _touch(self.tombstone(key))

    def is_buried(self, key: AttemptPath) -> bool:
        return os.path.exists(f"{self._tombstones}/{key.path}")  # noqa: PTH110 - asked at each read

    def attempts(self, installation: str = "*", partition_id: str = "*") -> Iterator[AttemptPath]:
        """Those that have a folder, in no order."""
        for folder in self.jobs.glob(f"{partition_id}/{installation}/*.*"):
            if not folder.name.startswith("."):
                yield AttemptPath.parse(str(folder.relative_to(self.jobs)))

    def bury_partition(self, partition_id: str) -> None:
        _touch(self._gone / partition_id)

    def is_partition_buried(self, partition_id: str) -> bool:
        return (self._gone / partition_id).exists()

    def drop_partition(self, partition_id: str) -> None:
        """Remove the attempts of a partition, with their tombstones."""
        discard(self.jobs / partition_id)
        discard(self._tombstones / partition_id)

    def cache(self, account: str) -> Path:
        """Where the contents of one account are kept."""
        # An account is a name of the site, not of ours: it must not lead elsewhere.
        safe = _SAFE.sub("_", account).lstrip(".") or "_"
        return self.root / "cache" / safe


def read(path: str) -> tuple[bytes, int] | None:
    """A small file's content, and its time in nanoseconds; None if there is no such file.

    Without the layers of `open`: some are read many times in the milliseconds of a start.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        told = os.fstat(descriptor)
        return os.read(descriptor, told.st_size + 1), told.st_mtime_ns
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    """Write a file that nobody looks at before it is named in another."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`: on a disk that is nearly full the system takes a part without a word."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is seen whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(draft, data, mode)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_new(path: Path, data: bytes) -> bool:
    """As `write_whole`, unless there is one; returns whether it was written."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(draft, data, 0o600)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def discard(folder: Path) -> None:
    """Remove a tree. It goes out of sight at once: nothing ever sees a half of it."""
    aside = folder.with_name(f"{_REMOVED}{folder.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    _remove_tree(aside)


def _remove_tree(folder: Path) -> None:
    def make_writable(function: object, path: str, error: object) -> None:
        # A job may have taken its own right to write; only its owner can stand in the way here.
        with contextlib.suppress(OSError):
            parent = Path(path).parent
            parent.chmod(0o700)
            Path(path).chmod(0o700)
            if Path(path).is_dir() and not Path(path).is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink()

    if folder.exists():
        shutil.rmtree(folder, onerror=make_writable)


def _write(path: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
