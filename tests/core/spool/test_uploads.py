"""Contents come whole or not at all, resume where they were cut, and stay with their owner."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from swm_core.spool import (
    ContentMissing,
    DigestMismatch,
    OffsetRefused,
    Piece,
    Spool,
    SpoolFull,
    Writer,
)
from swm_core.spool.batch import Batch
from swm_core.spool.syncing import FileSystem
from tests.core.spool.conftest import (
    MAX_BYTES,
    content,
    counted,
    digest,
    pieces,
    stored,
    upload,
    wanted,
)


async def test_contents_are_there_once_committed_and_not_before(spool: Spool, root: Path) -> None:
    contents = [b"", b"x", content(4096), content(3 << 20, 1)]
    assert await spool.missing("alice", wanted(contents)) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    async with spool.batch("alice") as batch:
        for data in contents:
            await batch.write(pieces(data, 1 << 20))
        assert stored(root) == set()
        await batch.commit()
        assert stored(root) == {digest(data) for data in contents}
        assert batch.contents == 4
        assert batch.received_bytes == sum(map(len, contents))
    assert await spool.missing("alice", wanted(contents)) == []
    for data in contents:
        with spool.owner("alice").open(digest(data)) as file:
            assert file.read() == data
    assert spool.used_bytes == counted(root)


async def test_a_digest_known_to_one_owner_is_unknown_to_another(spool: Spool) -> None:
    data = content(10_000)
    await upload(spool, "alice", data)
    for other in ("bob", "Alice", "alice ", "../alice", "u-alice", "алиса"):
        assert await spool.missing(other, wanted([data])) == [(0, 0)]
        with pytest.raises(ContentMissing):
            spool.owner(other).open(digest(data))


async def test_a_content_of_another_size_does_not_count_as_there(spool: Spool, root: Path) -> None:
    """As a crash of the machine may leave it."""
    data = content(10_000)
    await upload(spool, "alice", data)
    os.truncate(spool.owner("alice").path(digest(data)), 5_000)
    again = Spool.open(root, MAX_BYTES, 1 << 20)
    assert await again.missing("alice", wanted([data])) == [(0, 0)]
    await upload(again, "alice", data)
    assert await again.missing("alice", wanted([data])) == []
    assert stored(root) == {digest(data)}
    assert again.used_bytes == counted(root) == len(data)


async def test_a_cut_upload_resumes_where_it_was_also_after_a_restart(
    spool: Spool, root: Path
) -> None:
    data = content(5 << 20)
    async with spool.batch("alice") as batch:
        for piece in pieces(data)[:3]:
            await batch.write([piece])
    assert await spool.missing("alice", wanted([data])) == [(0, 3 << 20)]

    again = Spool.open(root, MAX_BYTES, 1 << 20)
    assert again.used_bytes == 3 << 20
    [(_, offset)] = await again.missing("alice", wanted([data]))
    async with again.batch("alice") as batch:
        await batch.write(pieces(data, begin=offset))
        await batch.commit()
    assert stored(root) == {digest(data)}
    assert again.used_bytes == counted(root) == len(data)


async def test_what_is_whole_when_a_stream_breaks_is_not_asked_for_again(
    spool: Spool, root: Path
) -> None:
    contents = [content(100, seed) for seed in range(50)]
    large = content(3 << 20, 99)

    async def broken() -> None:
        async with spool.batch("alice") as batch:
            await batch.write([piece for data in contents for piece in pieces(data)])
            await batch.write(pieces(large))
            raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await broken()
    assert await spool.missing("alice", wanted([*contents, large])) == []
    assert spool.used_bytes == counted(root)


async def test_a_content_that_is_all_there_but_was_never_ended_ends_with_its_last_byte(
    spool: Spool, root: Path
) -> None:
    data = content(2 << 20)
    whole = [Piece(piece.sha256, piece.offset, piece.data, False) for piece in pieces(data)]
    async with spool.batch("alice") as batch:
        await batch.write(whole)
    [(_, offset)] = await spool.missing("alice", wanted([data]))
    assert offset == len(data) - 1
    async with spool.batch("alice") as batch:
        await batch.write(pieces(data, begin=offset))
        await batch.commit()
    assert stored(root) == {digest(data)}


async def test_a_gap_is_refused_with_where_to_go_on(spool: Spool) -> None:
    data = content(3 << 20)
    first, _, third = pieces(data)
    async with spool.batch("alice") as batch:
        await batch.write([first])
        await batch.write([third])
        with pytest.raises(OffsetRefused, match=f"{1 << 20} are there"):
            await batch.commit()
    assert await spool.missing("alice", wanted([data])) == [(0, 1 << 20)]


@pytest.mark.parametrize("size", [1000, 3 << 20], ids=["small", "large"])
async def test_a_wrong_digest_is_refused_and_leaves_nothing(
    spool: Spool, root: Path, size: int
) -> None:
    data, other = content(size), content(size, 1)
    wrong = [Piece(digest(other), each.offset, each.data, each.last) for each in pieces(data)]
    async with spool.batch("alice") as batch:
        await batch.write(wrong)
        with pytest.raises(DigestMismatch, match=digest(data)):
            await batch.commit()
    assert stored(root) == set()
    assert await spool.missing("alice", wanted([other])) == [(0, 0)]
    assert spool.used_bytes == counted(root) == 0


async def test_what_came_before_a_refused_piece_is_kept(spool: Spool, root: Path) -> None:
    good = [content(500, seed) for seed in range(5)]
    async with spool.batch("alice") as batch:
        await batch.write([piece for data in good for piece in pieces(data)])
        await batch.write([Piece(digest(b"a"), 0, b"b", True)])
        with pytest.raises(DigestMismatch):
            await batch.write(pieces(content(500, 9)))
    assert stored(root) == {digest(data) for data in good}


async def test_two_streams_may_bring_the_same_content_at_once(spool: Spool, root: Path) -> None:
    large, small = content(4 << 20), content(2000)
    parts = pieces(large)
    async with spool.batch("alice") as one, spool.batch("alice") as two:
        await one.write(parts[:2])
        await one.write([])
        # A second stream, as of a client that lost the first, goes on where that one was.
        [(_, offset)] = await spool.missing("alice", wanted([large]))
        assert offset == 2 << 20
        await two.write(pieces(large, begin=offset))
        await asyncio.gather(one.write(pieces(small)), two.write(pieces(small)))
        await one.write(parts[2:])
        await asyncio.gather(one.commit(), two.commit())
    assert stored(root) == {digest(large), digest(small)}
    assert spool.used_bytes == counted(root) == len(large) + len(small)
    assert list(spool.owner("alice").partial.iterdir()) == []


async def test_many_streams_of_the_same_contents_end_with_one_of_each(
    spool: Spool, root: Path
) -> None:
    contents = [content(200_000, seed) for seed in range(8)]

    async def bring(order: list[bytes]) -> None:
        async with spool.batch("alice") as batch:
            for data in order:
                for piece in pieces(data, 64 << 10):
                    await batch.write([piece])
            await batch.commit()

    await asyncio.gather(*(bring(contents[n:] + contents[:n]) for n in range(8)))
    assert stored(root) == {digest(data) for data in contents}
    assert spool.used_bytes == counted(root)


async def test_a_content_sent_twice_in_one_stream_is_stored_once(spool: Spool, root: Path) -> None:
    large, small = content(2 << 20), content(100)
    async with spool.batch("alice") as batch:
        for _ in range(2):
            await batch.write([*pieces(small), *pieces(large)])
        await batch.commit()
        await batch.write([*pieces(small), *pieces(large)])
        await batch.commit()
    assert spool.used_bytes == counted(root) == len(large) + len(small)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_stream_may_begin_a_thousand_contents_at_once(spool: Spool, root: Path) -> None:
    """Without a descriptor for each of them."""
    contents = [content(20, seed) for seed in range(1500)]
    parts = [pieces(data, 10) for data in contents]
    before = open_descriptors()
    async with spool.batch("alice") as batch:
        await batch.write([first for first, _ in parts])
        await batch.write([])
        assert open_descriptors() < before + 50
        await batch.write([last for _, last in parts])
        await batch.commit()
    assert len(stored(root)) == 1500
    assert open_descriptors() <= before


async def test_a_spool_that_is_full_refuses_and_keeps_what_it_has(
    root: Path,
) -> None:
    spool = Spool.open(root, 1_000_000, 1 << 20)
    kept, large = content(600_000), content(600_000, 1)
    await upload(spool, "alice", kept)
    with pytest.raises(SpoolFull, match=r"raise spool\.max_size"):
        await upload(spool, "alice", large)
    with pytest.raises(SpoolFull):
        await upload(spool, "bob", *(content(100_000, seed) for seed in range(6)))
    assert digest(kept) in stored(root)
    assert digest(large) not in stored(root)
    assert spool.used_bytes == counted(root) <= 1_000_000


async def test_a_writer_learns_the_digest_and_begins_anew_when_its_source_does(
    spool: Spool, root: Path
) -> None:
    owner = spool.owner("alice")
    writer = Writer(owner)
    writer.write(0, b"old content")
    writer.write(11, b", half of it")
    with pytest.raises(OffsetRefused):
        writer.write(5, b"where is this from?")
    writer.write(0, b"new")
    writer.write(3, b" content")
    name = writer.finish()
    assert name == digest(b"new content")
    writer.place(name)
    abandoned = Writer(owner)
    abandoned.write(0, b"never mind")
    abandoned.close()
    abandoned.close()
    dropped = Writer(owner)
    dropped.write(0, b"x")
    dropped.discard()
    assert stored(root) == {name}
    assert spool.used_bytes == counted(root) == 11


async def test_a_file_that_is_taken_away_meanwhile_never_comes_back_with_a_hole(
    spool: Spool, root: Path
) -> None:
    data = content(2 << 20)
    first, second = pieces(data)
    async with spool.batch("alice") as batch:
        await batch.write([first])
        await batch.write([])
        (spool.owner("alice").partial / digest(data)).unlink()
        await batch.write([second])
        with pytest.raises(FileNotFoundError):
            await batch.commit()
    assert stored(root) == set()
    await upload(spool, "alice", data)
    assert stored(root) == {digest(data)}


async def test_a_cancelled_upload_lets_go_of_everything(spool: Spool, root: Path) -> None:
    data = content(4 << 20)
    begun = asyncio.Event()

    async def bring() -> None:
        async with spool.batch("alice") as batch:
            await batch.write(pieces(data)[:2])
            await batch.write(pieces(content(10)))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(bring())
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spool.owner("alice")._in_use == {}
    assert await spool.missing("alice", wanted([data])) == [(0, 2 << 20)]
    await upload(spool, "alice", data)
    assert digest(data) in stored(root)


async def test_leftovers_of_a_crash_are_removed_at_the_next_start(root: Path) -> None:
    spool = Spool.open(root, MAX_BYTES, 1 << 20)
    await upload(spool, "alice", content(1000))
    (spool.owner("alice").partial / "tmp-of-another-life").write_bytes(bytes(5000))
    (spool.owner("alice").partial / digest(b"half")).write_bytes(b"ha")
    again = Spool.open(root, MAX_BYTES, 1 << 20)
    assert again.used_bytes == counted(root) == 1002


@pytest.fixture
def names_at_sync(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The contents that had their names at each sync so far. The third sync fails."""
    seen: list[set[str]] = []
    sync = FileSystem.sync

    def watched(disk: FileSystem) -> None:
        seen.append(stored(root))
        if len(seen) == 3:
            raise OSError(5, "broken disk")
        sync(disk)

    monkeypatch.setattr(FileSystem, "sync", watched)
    return seen


async def test_data_is_synced_before_names_are_given_and_names_before_it_is_told(
    spool: Spool, root: Path, names_at_sync: list[set[str]]
) -> None:
    first, second = [content(100), content(2 << 20)], content(100, 1)
    names = {digest(data) for data in first}
    await upload(spool, "alice", *first)
    assert names_at_sync == [set(), names]

    batch = Batch(spool.owner("alice"))
    batch.write(pieces(second))
    with pytest.raises(OSError, match="broken disk"):
        batch.commit()
    assert stored(root) == names
    batch.commit()
    assert names_at_sync[2:] == [names, names, {*names, digest(second)}]
    batch.close()


async def test_everything_is_for_its_owner_only(spool: Spool, root: Path) -> None:
    await upload(spool, "alice", content(1000), content(3 << 20))
    for path in (root / "u-alice").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
