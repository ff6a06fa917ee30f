"""Logs: the same bytes at any time, bounded for each job, and the end is always there."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from pathlib import Path

import pytest

from swm_core.spool import LogKind, LogMirror, Spool, logs
from swm_core.spool.partial import append_at
from tests.core.spool.conftest import LOG_BYTES, MAX_BYTES, content, counted

DEADLINE_S = 10
OUT, ERR = LogKind.STDOUT, LogKind.STDERR


def log_of(spool: Spool, *, attempt: int = 1, node: str = "", kind: LogKind = OUT) -> LogMirror:
    return spool.log("alice", "j1", attempt, node, kind)


def everything(log: LogMirror, begin: int = 0, limit: int = 100_000) -> dict[int, bytes]:
    """What is kept, by where it begins; neighbours joined."""
    found: dict[int, bytes] = {}
    offset, run = begin, begin
    while (piece := log.read(offset, limit)) is not None:
        assert piece.offset >= offset
        assert piece.data
        if piece.offset > offset or not found:
            run = piece.offset
        found[run] = found.get(run, b"") + piece.data
        offset = piece.offset + len(piece.data)
    return found


async def write(log: LogMirror, data: bytes, step: int = 30_000, begin: int = 0) -> None:
    for at in range(0, len(data), step):
        await log.append(begin + at, data[at : at + step])


async def test_what_is_written_is_read_from_any_offset(spool: Spool) -> None:
    log = log_of(spool)
    data = content(2_000_000)
    await write(log, data)
    assert log.size == len(data)
    assert everything(log) == {0: data}
    for offset in (1, 65_535, 65_536, 1_999_999):
        assert everything(log, offset) == {offset: data[offset:]}
    assert log.read(len(data), 10) is None
    assert log.read(len(data) + 5, 10) is None
    assert log.kept_bytes == len(data)


async def test_bytes_that_come_again_are_skipped(spool: Spool) -> None:
    """As after a broken stream, or from a core that was restarted."""
    log = log_of(spool)
    data = content(10_000)
    for begin, end in ((0, 4000), (0, 4000), (2000, 5000), (100, 200), (5000, 10_000)):
        await log.append(begin, data[begin:end])
    assert everything(log) == {0: data}


async def test_what_never_came_is_told_as_a_gap(spool: Spool, root: Path) -> None:
    log = log_of(spool)
    await log.append(0, b"begin")
    await log.append(100, b"middle")
    await log.append(106, b"end")
    assert everything(log) == {0: b"begin", 100: b"middleend"}
    assert everything(log, 50) == {100: b"middleend"}
    again = log_of(Spool.open(root, MAX_BYTES, LOG_BYTES))
    assert again.size == 109
    assert everything(again) == {0: b"begin", 100: b"middleend"}


async def test_it_goes_on_after_a_restart_where_it_was(spool: Spool, root: Path) -> None:
    data = content(900_000)
    await write(log_of(spool), data[:500_001])
    again = Spool.open(root, MAX_BYTES, LOG_BYTES)
    assert again.used_bytes == counted(root)
    log = log_of(again)
    assert log.size == 500_001
    await write(log, data[400_000:], begin=400_000)
    assert everything(log) == {0: data}
    assert again.used_bytes == counted(root) == len(data)


async def test_a_job_keeps_so_much_and_always_the_ends(spool: Spool, root: Path) -> None:
    data = content(3 * LOG_BYTES)
    streams = [log_of(spool, node=node, kind=kind) for node in ("", "n2") for kind in LogKind]
    for at in range(0, len(data), 100_000):
        for log in streams:
            await log.append(at, data[at : at + 100_000])
    assert counted(root) <= LOG_BYTES
    assert spool.used_bytes == counted(root)
    for log in streams:
        [(begin, kept)] = everything(log).items()
        assert kept == data[begin:]
        assert len(kept) >= 64 << 10
        # What was dropped is not remembered either.
        assert len(log._starts) == len(list(log._folder.glob("*.seg")))


async def test_a_quiet_stream_is_not_lost_to_a_loud_one(spool: Spool, root: Path) -> None:
    quiet, loud = log_of(spool, kind=ERR), log_of(spool)
    await quiet.append(0, b"error: this is what matters\n")
    await write(loud, content(3 * LOG_BYTES))
    assert everything(quiet) == {0: b"error: this is what matters\n"}
    assert counted(root) <= LOG_BYTES


async def test_a_stream_whose_last_segment_has_just_begun_keeps_the_one_before(
    spool: Spool,
) -> None:
    stream, loud = log_of(spool, kind=ERR), log_of(spool)
    await loud.append(0, b"x")
    data = content(LOG_BYTES // 2)
    # In small steps over the end of a segment, so that the last one holds a step only.
    for at in range(0, len(data), 1000):
        await stream.append(at, data[at : at + 1000])
        segments = sorted(stream._folder.glob("*.seg"))
        if len(segments) == 3 and segments[-1].stat().st_size <= 1000:
            break
    else:
        pytest.fail("no segment has just begun")
    await write(loud, content(3 * LOG_BYTES))
    [(begin, kept)] = everything(stream).items()
    assert kept == data[begin : stream.size]
    assert len(kept) >= 64 << 10


async def test_earlier_attempts_give_way_first(spool: Spool, root: Path) -> None:
    first, second = log_of(spool), log_of(spool, attempt=2)
    data = content(LOG_BYTES * 3 // 4)
    await write(first, data)
    await write(second, data)
    assert everything(second) == {0: data}
    [(begin, kept)] = everything(first).items()
    assert begin > 0
    assert kept == data[begin:]
    assert counted(root) <= LOG_BYTES


async def test_the_bound_holds_over_a_restart(spool: Spool, root: Path) -> None:
    data = content(3 * LOG_BYTES)
    await write(log_of(spool), data[: LOG_BYTES - 1000])
    again = Spool.open(root, MAX_BYTES, LOG_BYTES)
    log = log_of(again)
    await write(log, data[log.size :], begin=log.size)
    assert counted(root) <= LOG_BYTES
    assert again.used_bytes == counted(root)
    [(begin, kept)] = everything(log).items()
    assert kept == data[begin:]


async def test_many_streams_share_the_bound(root: Path) -> None:
    spool = Spool.open(root, MAX_BYTES, 2 << 20)
    streams = [log_of(spool, node=f"n{number}") for number in range(40)]
    data = content(400_000)
    for log in streams:
        await write(log, data, 64 << 10)
    # So many ends of at least two smallest segments are more than the bound.
    assert counted(root) <= 40 * 2 * (64 << 10)
    for log in streams:
        [(begin, kept)] = everything(log).items()
        assert kept == data[begin:]


async def test_the_end_is_told_after_a_restart(spool: Spool, root: Path) -> None:
    log = log_of(spool)
    data = content(300_000)
    sha256 = hashlib.sha256(data).digest()
    await write(log, data)
    await log.finish(len(data), sha256)
    await log.append(len(data), b"too late")
    again = log_of(Spool.open(root, MAX_BYTES, LOG_BYTES))
    assert again.end == (len(data), sha256)
    assert again.size == len(data)
    assert everything(again) == {0: data}
    await again.finish(5, b"")
    assert again.end == (len(data), sha256)


async def test_an_end_beyond_what_came_is_a_gap_at_the_end(spool: Spool) -> None:
    log = log_of(spool)
    await log.append(0, b"abc")
    await log.finish(10, b"")
    assert (log.size, log.end) == (10, (10, b""))
    assert everything(log) == {0: b"abc"}


async def test_a_stream_without_a_byte_can_be_complete(spool: Spool, root: Path) -> None:
    await log_of(spool).finish(0, hashlib.sha256(b"").digest())
    again = log_of(Spool.open(root, MAX_BYTES, LOG_BYTES))
    assert again.end is not None
    assert again.read(0, 10) is None


async def test_a_reader_is_woken_by_growth_by_the_end_and_by_nothing_else(spool: Spool) -> None:
    writer = log_of(spool)
    reader = log_of(spool)
    waiting = asyncio.create_task(reader.grown(3))
    await writer.append(0, b"abc")
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    await writer.append(3, b"d")
    await asyncio.wait_for(waiting, DEADLINE_S)
    waiting = asyncio.create_task(reader.grown(4))
    await writer.finish(4, b"")
    await asyncio.wait_for(waiting, DEADLINE_S)


async def test_readers_are_let_go_when_an_attempt_is_over(spool: Spool) -> None:
    mine, other = log_of(spool), log_of(spool, attempt=2)
    waiting = [asyncio.create_task(log.grown(0)) for log in (mine, other)]
    await asyncio.sleep(0)
    spool.close_logs("alice", "j1", 1)
    await asyncio.wait_for(waiting[0], DEADLINE_S)
    assert not waiting[1].done()
    waiting[1].cancel()


async def test_a_follower_sees_every_byte_once(spool: Spool) -> None:
    data = content(1_000_000)

    async def follow() -> bytes:
        log = log_of(spool)
        seen = b""
        while True:
            while (piece := log.read(len(seen), 50_000)) is not None:
                assert piece.offset == len(seen)
                seen += piece.data
            if log.end is not None:
                return seen
            await log.grown(len(seen))

    following = [asyncio.create_task(follow()) for _ in range(3)]
    writer = log_of(spool)
    await write(writer, data, 7_001)
    await writer.finish(len(data), b"")
    for task in following:
        assert await asyncio.wait_for(task, DEADLINE_S) == data


async def test_reading_while_old_output_is_dropped_goes_on_behind_it(spool: Spool) -> None:
    data = content(3 * LOG_BYTES)
    log = log_of(spool)
    offset = 0
    for at in range(0, len(data), 300_000):
        await log.append(at, data[at : at + 300_000])
        piece = log.read(offset, 20_000)
        assert piece is not None
        assert piece.data == data[piece.offset : piece.offset + len(piece.data)]
        offset = piece.offset + len(piece.data)


async def test_an_append_that_was_cancelled_is_not_overtaken_by_the_next(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that writes goes on, whatever became of its caller."""
    log = log_of(spool)
    data = content(400_000)
    under_way, go_on = threading.Event(), threading.Event()

    def slowly(path: str, offset: int, part: memoryview) -> None:
        if not under_way.is_set():
            under_way.set()
            assert go_on.wait(DEADLINE_S)
        append_at(path, offset, part)

    monkeypatch.setattr(logs, "append_at", slowly)
    task = asyncio.create_task(log.append(0, data[:300_000]))
    assert await asyncio.to_thread(under_way.wait, DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = asyncio.create_task(log.append(0, data))
    done, _ = await asyncio.wait([again], timeout=0.05)
    assert not done
    go_on.set()
    await asyncio.wait_for(again, DEADLINE_S)
    assert everything(log) == {0: data}
    assert log.size == log.kept_bytes == len(data)


async def test_forgetting_a_job_takes_all_of_its_logs(spool: Spool, root: Path) -> None:
    for attempt in (1, 2):
        for node in ("", "n/../../etc"):
            log = log_of(spool, attempt=attempt, node=node)
            await log.append(0, b"hello")
            await log.finish(5, b"")
    assert spool.used_bytes == 20
    await spool.forget_job("alice", "j1")
    await spool.forget_job("alice", "never-was")
    assert list(root.glob("u-alice/jobs/*")) == []
    assert spool.used_bytes == counted(root) == 0


async def test_one_sync_serves_all_who_wait_for_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    under_way, go_on = threading.Event(), threading.Event()

    def sync() -> None:
        nonlocal syncs
        syncs += 1
        under_way.set()
        assert go_on.wait(DEADLINE_S)

    monkeypatch.setattr(spool._sync._disk, "sync", sync)
    first = asyncio.create_task(spool.sync())
    assert await asyncio.to_thread(under_way.wait, DEADLINE_S)
    # What these have written may have come too late for the one that is under way.
    later = [asyncio.create_task(spool.sync()) for _ in range(20)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *later)
    assert syncs == 2


async def test_a_sync_that_fails_is_told_to_all_who_waited_and_to_no_other(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([OSError(5, "broken disk"), None])

    def sync() -> None:
        if (outcome := next(outcomes)) is not None:
            raise outcome

    monkeypatch.setattr(spool._sync._disk, "sync", sync)
    results = await asyncio.gather(spool.sync(), spool.sync(), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]
    await spool.sync()


async def test_logs_that_nobody_holds_are_not_held(spool: Spool) -> None:
    for number in range(100):
        await spool.log("alice", f"j{number}", 1, "", OUT).append(0, b"x")
    gc.collect()
    assert len(spool._logs._open) <= 1
    assert len(spool._logs._jobs) <= 1
