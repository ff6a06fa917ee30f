"""Disks that fail for real: small ones, and one whose storage runs out beneath it. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_MIB = 1 << 20


def run(*words: str) -> None:
    """A program that is to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def moved_onto_a_disk(folder: Path, *mount: str) -> Iterator[None]:
    """Have a folder lie on a disk of its own.

    Args:
        folder: With what is in it.
        mount: Arguments of mount, but for the place.
    """
    aside = folder.with_name(f"{folder.name}.aside")
    shutil.copytree(folder, aside)
    run("mount", *mount, str(folder))
    try:
        folder.chmod(0o700)
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield
    finally:
        run("umount", "-l", str(folder))


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[None]:
    """Have a folder lie on a disk of so many MiB."""
    with moved_onto_a_disk(folder, "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs"):
        yield


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Have no room on the disk of a folder meanwhile."""
    ballast = folder / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for size in (_MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    assert os.write(descriptor, bytes(size))
        yield
    finally:
        os.close(descriptor)
        ballast.unlink()


@contextlib.contextmanager
def hidden(folder: Path) -> Iterator[None]:
    """Have an empty disk in place of a folder meanwhile: its own one is away."""
    run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(folder))
    try:
        yield
        assert not list(folder.iterdir()), "something was written where the disk is away"
    finally:
        run("umount", "-l", str(folder))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Have nothing below a folder be writable meanwhile, by who opens it anew."""
    run("mount", "--bind", str(folder), str(folder))
    try:
        run("mount", "-o", "remount,bind,ro", str(folder))
        yield
    finally:
        run("umount", "-l", str(folder))


@contextlib.contextmanager
def _in_single_pages(folder: Path) -> Iterator[None]:
    """Have the loop device below a folder write one page at a time.

    It takes a write of which only the first part was kept for one that succeeded (lo_complete_rq of
    Linux 6), so the first fsync without storage would say that all is well. A page is kept or not.
    """
    found = subprocess.run(
        ["findmnt", "-no", "SOURCE", str(folder)], capture_output=True, text=True, check=True
    )
    most = Path("/sys/block", Path(found.stdout.strip()).name, "queue/max_sectors_kb")
    before = most.read_text()
    most.write_text("4")
    try:
        yield
    finally:
        most.write_text(before)


class ThinDisk:
    """A disk that promises more than it has, as thin volumes do.

    When its own storage runs out, it takes what is written, and reports at the fsync that this was
    not kept (EIO).

    Args:
        backing: A new folder, for that storage.
        size_mib: What that has; twice of what the disk promises.
    """

    def __init__(self, backing: Path, size_mib: int = 64) -> None:
        self._backing = backing
        self._size_mib = size_mib

    @contextlib.contextmanager
    def under(self, folder: Path) -> Iterator[None]:
        """Have a folder lie on it."""
        self._backing.mkdir()
        image = self._backing / "image"
        options = f"size={self._size_mib}m"
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._backing))
        try:
            with image.open("wb") as file:
                file.truncate(self._size_mib * _MIB // 2)
            # Its own tables are written now, and have no journal: what fails are the files alone,
            # and it is usable again as soon as there is storage.
            tables = ["-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", "-N", "64"]
            run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", *tables, str(image))
            with moved_onto_a_disk(folder, "-o", "loop", str(image)), _in_single_pages(folder):
                yield
        finally:
            run("umount", "-l", str(self._backing))

    def out_of_storage(self) -> contextlib.AbstractContextManager[None]:
        """Let it run out meanwhile."""
        return filled(self._backing)
