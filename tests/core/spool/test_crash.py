"""What kill -9 leaves, and what a disk without room does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swm_core.spool import LogKind, Spool, SpoolFull
from tests.core.spool.conftest import content, counted, digest, pieces, stored, upload, wanted

# Uploads small and large contents for ever; what is committed is told in one atomic write.
_WRITER = """
import asyncio, hashlib, itertools, os, random, sys
from pathlib import Path
from swm_core.spool import Piece, Spool

async def stream(spool, random):
    while True:
        names = []
        async with spool.batch("alice") as batch:
            for _ in range(20):
                data = random.randbytes(random.choice([0, 100, 4096, 70_000, 400_000]))
                name = hashlib.sha256(data).hexdigest()
                size = 100_000
                for at in range(0, len(data), size) or [0]:
                    last = at + size >= len(data)
                    await batch.write([Piece(name, at, data[at : at + size], last)])
                names.append(name)
            await batch.commit()
        os.write(1, (" ".join(names) + "\\n").encode())

async def main():
    spool = Spool.open(Path(sys.argv[1]), 1 << 40, 1 << 20)
    seed = sys.argv[2]
    await asyncio.gather(*(stream(spool, random.Random(seed + str(n))) for n in range(3)))

asyncio.run(main())
"""


def committed_before_kill_9(root: Path, seed: str, enough: int) -> set[str]:
    """Let the writer commit at least `enough` batches, kill it, and return what it committed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(root), seed], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(enough)]
        process.send_signal(signal.SIGKILL)
        lines.extend(process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL
    return {name for line in lines for name in line.split()}


async def test_kill_9_loses_nothing_that_was_committed_and_shows_nothing_torn(root: Path) -> None:
    committed: set[str] = set()
    for seed, enough in (("a", 1), ("b", 4), ("c", 9)):
        committed |= await asyncio.to_thread(committed_before_kill_9, root, seed, enough)
        # `stored` compares every content with its name.
        assert committed <= stored(root)
        spool = Spool.open(root, 1 << 40, 1 << 20)
        assert spool.used_bytes == counted(root)
        for path in spool.owner("alice").partial.iterdir():
            assert not path.name.startswith("tmp-")


@pytest.fixture
def small_spool(small_disk: Path) -> Iterator[Spool]:
    spool = Spool.open(small_disk, 1 << 40, 8 << 20)
    yield spool
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
class TestSmallDisk:
    async def test_an_upload_larger_than_the_disk_is_refused_and_can_go_on_later(
        self, small_disk: Path, small_spool: Spool
    ) -> None:
        spool = small_spool
        kept, large = content(500_000), content(4 << 20, 1)
        await upload(spool, "alice", kept)
        with pytest.raises(SpoolFull, match="disk"):
            await upload(spool, "alice", large)
        assert stored(small_disk) == {digest(kept)}
        assert spool.used_bytes == counted(small_disk)

        await asyncio.to_thread(
            subprocess.run, ["mount", "-o", "remount,size=16m", str(small_disk)], check=True
        )
        [(_, offset)] = await spool.missing("alice", wanted([large]))
        assert offset > 0
        async with spool.batch("alice") as batch:
            await batch.write(pieces(large, begin=offset))
            await batch.commit()
        assert stored(small_disk) == {digest(kept), digest(large)}
        assert spool.used_bytes == counted(small_disk)

    async def test_small_files_beyond_the_disk_are_refused_one_by_one(
        self, small_disk: Path, small_spool: Spool
    ) -> None:
        spool = small_spool
        contents = [content(10_000, seed) for seed in range(400)]
        with pytest.raises(SpoolFull):
            await upload(spool, "alice", *contents)
        assert 50 < len(stored(small_disk)) < 400
        assert spool.used_bytes == counted(small_disk)

    async def test_logs_keep_their_end_when_the_disk_is_full(
        self, small_disk: Path, small_spool: Spool
    ) -> None:
        spool = small_spool
        written = content(6 << 20)
        log = spool.log("alice", "j1", 1, "", LogKind.STDOUT)
        for at in range(0, len(written), 50_000):
            await log.append(at, written[at : at + 50_000])
        await log.finish(len(written), b"")
        spool.close_logs("alice", "j1", 1)
        again = spool.log("alice", "j1", 1, "", LogKind.STDOUT)
        piece = again.read(len(written) - 100_000, 1 << 20)
        assert piece is not None
        assert piece.offset == len(written) - 100_000
        assert piece.data == written[piece.offset : piece.offset + len(piece.data)]
        assert spool.used_bytes == counted(small_disk)

    async def test_logs_that_find_no_room_at_all_have_a_gap_and_go_on(
        self, small_disk: Path, small_spool: Spool
    ) -> None:
        spool = small_spool
        log = spool.log("alice", "j1", 1, "", LogKind.STDOUT)
        await log.append(0, b"begin")
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(4 << 20))
        await log.append(5, bytes(10_000))
        ballast.unlink()
        await log.append(10_005, b"end")
        assert log.size == 10_008
        first = log.read(0, 100)
        assert first is not None
        assert first.data.startswith(b"begin")
        assert set(first.data[5:]) <= {0}
        last = log.read(10_005, 100)
        assert last == (10_005, b"end")


_LIMITED = """
import asyncio, resource, signal, sys
from pathlib import Path
from swm_core.spool import Piece, Spool, SpoolFull
import hashlib

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
    spool = Spool.open(Path(sys.argv[1]), 1 << 40, 1 << 20)
    data = bytes(300_000)
    name = hashlib.sha256(data).hexdigest()
    for step in (300_000, 100_000):
        try:
            async with spool.batch("alice") as batch:
                for at in range(0, len(data), step):
                    piece = Piece(name, at, data[at : at + step], at + step >= len(data))
                    await batch.write([piece])
                await batch.commit()
        except SpoolFull as error:
            print("full", await spool.missing("alice", [(name, len(data))]), spool.used_bytes)

asyncio.run(main())
"""


async def test_a_piece_that_does_not_fit_leaves_no_part_of_itself(root: Path) -> None:
    """The limit on file sizes stands for the disk, so that this needs no root."""
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _LIMITED, str(root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "full [(0, 0)] 0\nfull [(0, 100000)] 100000\n"
    assert counted(root) == 100_000
