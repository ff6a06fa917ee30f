"""An open spool in a folder of its own, contents to put into it, and a small disk."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from swm_core.spool import Piece, Spool
from swm_core.spool.place import MARK

MAX_BYTES = 64 << 20
LOG_BYTES = 4 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(root: Path) -> Iterator[Spool]:
    opened = Spool.open(root, MAX_BYTES, LOG_BYTES)
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own, which takes root to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "swm-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def content(size: int, seed: int = 0) -> bytes:
    """`size` bytes, other ones for another seed."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - to be the same each time


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pieces(data: bytes, size: int = 1 << 20, begin: int = 0) -> list[Piece]:
    """`data` from `begin` on, in pieces of `size`."""
    starts = range(begin, len(data), size) or [begin]
    return [Piece(digest(data), at, data[at : at + size], at + size >= len(data)) for at in starts]


async def upload(spool: Spool, owner: str, *contents: bytes) -> None:
    async with spool.batch(owner) as batch:
        for data in contents:
            for piece in pieces(data):
                await batch.write([piece])
        await batch.commit()


def wanted(contents: Sequence[bytes]) -> list[tuple[str, int]]:
    """As `missing` is asked."""
    return [(digest(data), len(data)) for data in contents]


def stored(root: Path) -> set[str]:
    """Names of all contents of all owners, each checked against its bytes."""
    found = set()
    for path in root.glob("u-*/blobs/*/*"):
        assert digest(path.read_bytes()) == path.name
        found.add(path.name)
    return found


def counted(root: Path) -> int:
    """What the spool holds, as its files tell."""
    return sum(
        path.stat().st_size
        for path in root.rglob("*")
        if path.is_file() and path.name != MARK and not path.name.startswith("end")
    )
