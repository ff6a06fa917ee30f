"""The collector takes what nothing names any more, and never what somebody is about to name."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from swm_core.spool import PIN_S, LogKind, Spool, collector
from swm_core.spool.collector import References
from tests.core.spool.conftest import content, counted, digest, pieces, stored, upload, wanted
from tests.core.spool.test_manifests import file

LATER_S = PIN_S + 60


def later() -> float:
    return time.time() + LATER_S


def references(*kept: tuple[str, Sequence[str]]) -> References:
    return lambda: list(kept)


async def manifest_of(spool: Spool, owner: str, *contents: bytes) -> str:
    await upload(spool, owner, *contents)
    return await spool.write_manifest(
        owner, [file(f"{number:03}", data) for number, data in enumerate(contents)]
    )


@pytest.mark.parametrize("at_a_time", [1, 200_000])
async def test_what_a_kept_manifest_names_stays_and_the_rest_goes(
    spool: Spool, root: Path, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_MOST_CANDIDATES", at_a_time)
    kept = [content(1000, seed) for seed in range(30)]
    gone = [content(1000, seed) for seed in range(100, 130)]
    first = await manifest_of(spool, "alice", *kept[:20])
    second = await manifest_of(spool, "alice", *kept[10:])
    await manifest_of(spool, "alice", *gone, kept[0])
    await upload(spool, "bob", kept[0])
    freed = spool.collect(references(("alice", [first]), ("alice", [second])), later())
    assert stored(root) == {first, second, *map(digest, kept)}
    assert await spool.missing("bob", wanted(kept[:1])) == [(0, 0)]
    assert freed > 31_000
    assert spool.used_bytes == counted(root)
    await spool.check_manifest("alice", first)


async def test_what_was_written_or_asked_for_lately_stays(spool: Spool, root: Path) -> None:
    written, asked, old = (content(1000, seed) for seed in range(3))
    await upload(spool, "alice", written, asked, old)
    long_ago = time.time() - LATER_S
    for data in (asked, old):
        os.utime(spool.owner("alice").path(digest(data)), (long_ago, long_ago))
    assert await spool.missing("alice", wanted([asked])) == []
    spool.collect(references())
    assert stored(root) == {digest(written), digest(asked)}


async def test_outputs_that_were_there_before_are_pinned_like_new_ones(
    spool: Spool, root: Path
) -> None:
    """An equal content that nothing names any more, about to be collected."""
    data = content(1000)
    await upload(spool, "alice", data)
    long_ago = time.time() - LATER_S
    os.utime(spool.owner("alice").path(digest(data)), (long_ago, long_ago))
    await upload(spool, "alice", data)
    spool.collect(references())
    assert stored(root) == {digest(data)}


async def test_a_cut_upload_goes_after_its_time_but_not_while_it_is_under_way(
    spool: Spool, root: Path
) -> None:
    data, other = content(3 << 20), content(3 << 20, 1)
    async with spool.batch("alice") as batch:
        await batch.write(pieces(other)[:1])
    async with spool.batch("alice") as batch:
        await batch.write(pieces(data)[:2])
        await batch.write([])
        assert spool.collect(references(), later()) == 1 << 20
        await batch.write(pieces(data)[2:])
        await batch.commit()
    assert stored(root) == {digest(data)}
    assert spool.used_bytes == counted(root)


async def test_a_content_that_is_asked_for_during_a_collection_stays(
    spool: Spool, root: Path
) -> None:
    contents = [content(1000, seed) for seed in range(50)]
    await upload(spool, "alice", *contents)
    found, go_on = threading.Event(), threading.Event()
    # The collector has listed its candidates when it reads the first manifest.
    name = await manifest_of(spool, "alice", content(1000, 99))
    manifest = spool._collector._manifest

    def slowly(owner: str, sha256: str) -> object:
        found.set()
        assert go_on.wait(10)
        return manifest(owner, sha256)

    spool._collector._manifest = slowly  # type: ignore[assignment]
    long_ago = time.time() - LATER_S
    for path in root.glob("u-*/blobs/*/*"):
        os.utime(path, (long_ago, long_ago))
    collecting = asyncio.create_task(
        asyncio.to_thread(spool.collect, references(("alice", [name])))
    )
    assert await asyncio.to_thread(found.wait, 10)
    assert await spool.missing("alice", wanted(contents[:20])) == []
    go_on.set()
    await collecting
    assert {digest(data) for data in contents[:20]} <= stored(root)
    assert not {digest(data) for data in contents[20:]} & stored(root)


async def test_a_damaged_manifest_keeps_everything_of_its_owner(
    spool: Spool, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, gone = content(1000), content(1000, 1)
    name = await manifest_of(spool, "alice", data)
    await upload(spool, "bob", gone)
    path = spool.owner("alice").path(name)
    os.truncate(path, path.stat().st_size - 1)
    spool.collect(references(("alice", [name])), later())
    assert await spool.missing("alice", wanted([data])) == []
    assert await spool.missing("bob", wanted([gone])) == [(0, 0)]
    assert "no content of alice is deleted" in caplog.text


async def test_a_manifest_that_is_lost_does_not_stop_the_collection(
    spool: Spool, root: Path
) -> None:
    data = content(1000)
    name = await manifest_of(spool, "alice", data)
    spool.owner("alice").path(name).unlink()
    spool.collect(references(("alice", [name])), later())
    assert stored(root) == set()


async def test_a_collection_that_is_stopped_deletes_nothing_that_is_named(
    spool: Spool, root: Path
) -> None:
    name = await manifest_of(spool, "alice", content(1000))
    before = stored(root)
    spool._collector.stop()
    assert spool.collect(references(("alice", [name])), later()) == 0
    assert stored(root) == before


async def test_logs_of_jobs_that_are_no_more_go(spool: Spool, root: Path) -> None:
    for owner, job_id in (("alice", "kept"), ("alice", "gone"), ("bob", "kept")):
        await spool.log(owner, job_id, 1, "", LogKind.STDOUT).append(0, b"hello")
    known: Iterable[tuple[str, str]] = [("alice", "kept")]
    spool.collect_logs(lambda: known)
    assert spool.used_bytes == 15
    spool.collect_logs(lambda: known, later())
    assert [path.name for path in root.glob("u-*/jobs/*")] == ["kept"]
    assert spool.log("alice", "kept", 1, "", LogKind.STDOUT).read(0, 10) == (0, b"hello")
    assert spool.used_bytes == counted(root) == 5


async def test_what_a_long_transfer_has_brought_stays_until_it_can_be_named(
    spool: Spool, root: Path
) -> None:
    early, late = content(1000), content(1000, 1)
    async with spool.batch("alice") as batch:
        await batch.write(pieces(early))
        await batch.commit()
        # Hours later, and however the clock was set meanwhile.
        assert spool.collect(references(), later()) == 0
        await batch.write(pieces(late))
        await batch.commit()
    assert stored(root) == {digest(early), digest(late)}
    assert spool.collect(references(), later()) == 2000
