"""PutFiles: what is there is not sent again, what is wrong is never taken."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import grpc
import pytest

from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2, types_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import (
    STATIC,
    Gate,
    Tree,
    begin_request,
    drained,
    eventually,
    make_ref,
    pages,
    pieces,
    put_files,
    read_needed,
    refused,
)

_FILE = manifest_pb2.FILE_TYPE_FILE


async def _offer(gate: Gate, ref: types_pb2.JobRef, tree: Tree, **begin: Any) -> Any:
    """A call that has said what it brings."""
    call = gate.files.PutFiles()
    request = begin_request(ref, tree)
    for name, value in begin.items():
        setattr(request.begin, name, value)
    await call.write(request)
    for page in pages(tree):
        await call.write(page)
    return call


async def test_files_folders_links_and_modes_arrive_as_they_were(gate: Gate) -> None:
    ref = make_ref("job-1", "n1", "n2")
    tree = Tree(
        files={"a/b/data": b"data", "run.sh": b"#!/bin/sh\n", "empty": b"", "same": b"data"},
        links={"a/link": "b/data", "up": "a"},
        folders=["void", "a/locked"],
        modes={"run.sh": 0o755, "a/locked": 0o500, "same": 0o400},
    )
    staged = await gate.stage(ref, tree)
    # The empty one is made without asking; what two entries share comes once.
    assert len(staged.needed) == 2
    assert staged.result.received_bytes == len(b"data") + len(b"#!/bin/sh\n")
    for node in ("n1", "n2"):
        work = gate.attempt_folder(ref) / f"work.{node}"
        assert (work / "a/b/data").read_bytes() == b"data"
        assert (work / "empty").read_bytes() == b""
        assert str((work / "a/link").readlink()) == "b/data"
        assert (work / "up/link").read_bytes() == b"data"
        assert list((work / "void").iterdir()) == []
        modes = {
            name: (work / name).stat().st_mode & 0o777
            for name in ("run.sh", "a/locked", "same", "a/b/data", "void")
        }
        assert modes == {
            "run.sh": 0o755, "a/locked": 0o500, "same": 0o400, "a/b/data": 0o644, "void": 0o755
        }  # fmt: skip
        # A job may write to its inputs: no file shares its blocks by a hard link.
        assert (work / "a/b/data").stat().st_nlink == 1


async def test_what_the_account_has_sent_before_is_not_needed_again(gate: Gate) -> None:
    tree = Tree(files={f"f{number}": os.urandom(100) for number in range(5)})
    await gate.stage(make_ref("first"), tree)
    tree.files["f5"] = b"new"
    again = await gate.stage(make_ref("second"), tree)
    assert [want.sha256 for want in again.needed] == [hashlib.sha256(b"new").digest()]


async def test_another_account_has_to_send_it_itself(make_gate: MakeGate) -> None:
    gate = await make_gate(**STATIC, users={"ann": "u_ann", "bob": "u_bob"})
    tree = Tree(files={"a": b"known"})
    await gate.stage(make_ref("anns"), tree)
    staged = await gate.stage(make_ref("bobs", owner="bob"), tree)
    assert len(staged.needed) == 1


async def test_a_cut_upload_goes_on_where_it_was(gate: Gate) -> None:
    ref = make_ref()
    data = os.urandom(3_000_000)
    tree = Tree(files={"big": data, "small": b"s"})
    digest = hashlib.sha256(data).digest()
    call = await _offer(gate, ref, tree)
    await read_needed(call)
    for offset in (0, 1 << 20):
        await call.write(pieces((digest, offset, data[offset : offset + (1 << 20)], False)))
    # A progress that comes after the second piece would be luck; a break need not wait for one.
    await asyncio.sleep(0)
    call.cancel()
    again = await _offer(gate, ref, tree)
    needed = {want.sha256: want.offset for want in await read_needed(again)}
    again.cancel()
    assert needed[digest] in {0, 1 << 20, 2 << 20}
    staged = await put_files(gate.files, ref, tree)
    assert staged.result.received_bytes <= len(data) + 1
    assert (gate.attempt_folder(ref) / "work.n1/big").read_bytes() == data


async def test_a_killed_gate_loses_nothing_that_it_has_acknowledged(gate: Gate) -> None:
    ref = make_ref()
    data = os.urandom(20 << 20)
    tree = Tree(files={"big": data})
    digest = hashlib.sha256(data).digest()
    call = await _offer(gate, ref, tree)
    await read_needed(call)
    acknowledged = offset = 0
    while not acknowledged:
        part = data[offset : offset + (1 << 20)]
        await call.write(pieces((digest, offset, part, False)))
        offset += len(part)
        if offset == 12 << 20:
            acknowledged = (await call.read()).progress.received_bytes
    await gate.restart()
    again = await _offer(gate, ref, tree)
    (want,) = await read_needed(again)
    again.cancel()
    assert want.offset >= acknowledged > 0
    await put_files(gate.files, ref, tree)
    assert (gate.attempt_folder(ref) / "work.n1/big").read_bytes() == data


async def test_the_same_manifest_again_needs_nothing(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"a": b"a"})
    first = await gate.stage(ref, tree)
    again = await gate.stage(ref, tree)
    assert again.needed == []
    assert again.result.roots == first.result.roots


async def test_an_answer_lost_after_placing_is_given_again(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"a": b"a"})
    gate.faults({"kind": "lose", "method": "PutFiles", "times": 1})
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await gate.stage(ref, tree)
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await gate.stage(ref, tree)).needed == []


async def test_another_manifest_for_the_same_attempt_differs(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref, Tree(files={"a": b"a"}))
    await refused(
        gate.stage(ref, Tree(files={"b": b"b"})), "JOB_DIFFERS", grpc.StatusCode.ALREADY_EXISTS
    )


async def test_inputs_after_the_start_come_too_late(gate: Gate) -> None:
    ref, _ = await gate.start_job("sleep 60")
    await refused(gate.stage(ref, Tree()), "JOB_STARTED", grpc.StatusCode.FAILED_PRECONDITION)
    await gate.cancel(ref, 0)
    await refused(gate.stage(ref, Tree()), "JOB_CANCELLED", grpc.StatusCode.FAILED_PRECONDITION)


async def test_a_second_call_takes_over_and_the_first_is_replaced(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"a": b"a"})
    first = await _offer(gate, ref, tree)
    await read_needed(first)
    staged = await gate.stage(ref, tree)
    assert staged.result.received_bytes == 1
    await refused(drained(first), "REPLACED", grpc.StatusCode.ABORTED)


async def test_a_wrong_digest_is_data_loss_and_nothing_of_it_is_kept(gate: Gate) -> None:
    ref = make_ref()
    data = b"right" * 100
    tree = Tree(files={"a": data})
    digest = hashlib.sha256(data).digest()
    for parts in (
        [(digest, 0, b"wrong" * 100, True)],
        [(digest, 0, b"wrong" * 50, False), (digest, 250, b"wrong" * 50, True)],
    ):
        call = await _offer(gate, ref, tree)
        (want,) = await read_needed(call)
        assert want.offset == 0
        await call.write(pieces(*parts))
        found = await refused(drained(call), "DIGEST_MISMATCH", grpc.StatusCode.DATA_LOSS)
        assert found.metadata["sha256"] == digest.hex()
    assert (await gate.stage(ref, tree)).needed[0].offset == 0


async def test_a_content_that_the_cache_has_not_kept_well_is_asked_for_again(gate: Gate) -> None:
    tree = Tree(files={"a": b"right"})
    await gate.stage(make_ref("first"), tree)
    (kept,) = gate.site.glob("cache/*/whole/*/*")
    kept.write_bytes(b"wrong")
    ref = make_ref("second")
    await refused(gate.stage(ref, tree), "DIGEST_MISMATCH")
    assert len((await gate.stage(ref, tree)).needed) == 1
    assert (gate.attempt_folder(ref) / "work.n1/a").read_bytes() == b"right"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([(0, 5, False), (6, 9, True)], "OFFSET"),
        ([(1, 9, True)], "OFFSET"),
        ([(0, 12, True)], "DIGEST_MISMATCH"),
        ([(0, 5, True)], "DIGEST_MISMATCH"),
    ],
)
async def test_gaps_and_wrong_lengths_are_refused(
    gate: Gate, parts: list[tuple[int, int, bool]], reason: str
) -> None:
    data = b"0123456789"
    tree = Tree(files={"a": data})
    digest = hashlib.sha256(data).digest()
    call = await _offer(gate, make_ref(), tree)
    await read_needed(call)
    longer = data + b"more"
    await call.write(pieces(*((digest, b, longer[b:e], last) for b, e, last in parts)))
    await refused(drained(call), reason)


async def test_what_was_not_needed_is_refused(gate: Gate) -> None:
    call = await _offer(gate, make_ref(), Tree(files={"a": b"a"}))
    await read_needed(call)
    await call.write(pieces((hashlib.sha256(b"x").digest(), 0, b"x", True)))
    await refused(drained(call), "FIELD_MALFORMED")


async def test_a_call_out_of_order_is_refused(gate: Gate) -> None:
    tree = Tree(files={"a": b"a"})
    no_begin = gate.files.PutFiles()
    await no_begin.write(pages(tree)[0])
    await refused(drained(no_begin), "FIELD_REQUIRED")
    no_page = gate.files.PutFiles()
    await no_page.write(begin_request(make_ref("j2"), tree))
    await no_page.done_writing()
    await refused(drained(no_page), "FIELD_REQUIRED")
    no_data = await _offer(gate, make_ref("j3"), tree)
    await read_needed(no_data)
    await no_data.done_writing()
    await refused(drained(no_data), "FIELD_REQUIRED")


async def test_pages_that_do_not_make_the_manifest_are_refused(gate: Gate) -> None:
    tree = Tree(files={"a": b"a", "b": b"bb"})
    for name, value in (
        ("entry_count", 3),
        ("total_bytes", 4),
        ("manifest_sha256", b"\0" * 32),
    ):
        call = await _offer(gate, make_ref(), tree, **{name: value})
        await refused(drained(call), "MANIFEST_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT)
    # None of these counts as the attempt's manifest.
    await gate.stage(make_ref(), tree)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"path": "/etc/x"}, "PATH_INVALID"),
        ({"path": "a/../b"}, "PATH_INVALID"),
        ({"path": "a//b"}, "PATH_INVALID"),
        ({"path": "a/"}, "PATH_INVALID"),
        ({"path": "./a"}, "PATH_INVALID"),
        ({"path": ""}, "PATH_INVALID"),
        ({"path": "a\0"}, "PATH_INVALID"),
        ({"path": "x" * 256}, "PATH_INVALID"),
        ({"path": "/".join("ab" for _ in range(1_500))}, "PATH_INVALID"),
        ({"path": "l", "type": 3, "link_target": "../out"}, "PATH_INVALID"),
        ({"path": "l", "type": 3, "link_target": "/etc"}, "PATH_INVALID"),
        ({"path": "l", "type": 3, "link_target": ""}, "PATH_INVALID"),
        ({"path": "a", "type": 9}, "FIELD_MALFORMED"),
        ({"path": "a", "mode": 0o4755}, "FIELD_MALFORMED"),
        ({"path": "a", "sha256": b"x"}, "FIELD_MALFORMED"),
    ],
)
async def test_an_entry_that_breaks_the_rules_is_refused(
    gate: Gate, entry: dict[str, Any], reason: str
) -> None:
    full: dict[str, Any] = {"type": _FILE, **entry}
    if full["type"] == _FILE:
        full.setdefault("sha256", hashlib.sha256(b"").digest())
    call = gate.files.PutFiles()
    await call.write(begin_request(make_ref(), Tree(), ""))
    page = file_pb2.ManifestPage(entries=[manifest_pb2.ManifestEntry(**full)], last=True)
    await call.write(file_pb2.PutFilesRequest(page=page))
    await refused(drained(call), reason, grpc.StatusCode.INVALID_ARGUMENT)


async def test_no_entry_lies_below_a_file_or_a_link(gate: Gate) -> None:
    for above in (Tree(files={"a": b""}), Tree(links={"a": "b"})):
        tree = Tree(files={**above.files, "a.b": b"", "a/c": b""}, links=above.links)
        call = await _offer(gate, make_ref(), tree)
        await refused(drained(call), "PATH_INVALID")


async def test_many_small_files_arrive_and_a_repeat_asks_for_nothing(gate: Gate) -> None:
    files = {f"d{number % 50}/f{number}": f"{number}".encode() for number in range(3_000)}
    tree = Tree(files=files)
    ref = make_ref()
    call = await _offer(gate, ref, tree)
    needed = await read_needed(call)
    assert len(needed) == 3_000
    contents = tree.contents
    for start in range(0, 3_000, 100):
        batch = needed[start : start + 100]
        await call.write(pieces(*((w.sha256, 0, contents[w.sha256], True) for w in batch)))
    await drained(call)
    work = gate.attempt_folder(ref) / "work.n1"
    assert {str(p.relative_to(work)): p.read_bytes() for p in work.rglob("f*")} == files
    assert (await gate.stage(make_ref("second"), tree)).needed == []


async def test_the_cache_is_bounded(make_gate: MakeGate) -> None:
    gate = await make_gate(**STATIC, cache_bytes="2M")
    for number in range(6):
        tree = Tree(files={"a": os.urandom(1 << 20)})
        ref = make_ref(f"job-{number}")
        await gate.stage(ref, tree)
        assert (gate.attempt_folder(ref) / "work.n1/a").read_bytes() == tree.files["a"]

    def is_small() -> bool:
        return sum(path.stat().st_size for path in gate.site.glob("cache/*/*/*/*")) <= 2 << 20

    await eventually(is_small, "the cache is trimmed")


async def test_an_empty_manifest_makes_the_attempt_known(gate: Gate) -> None:
    ref = make_ref()
    staged = await gate.stage(ref)
    assert [root.node for root in staged.result.roots] == [""]
    assert (await gate.status(ref)).state == 1  # STAGED


async def test_a_caller_that_goes_in_the_middle_leaves_nothing_to_be_collected(gate: Gate) -> None:
    for number in range(5):
        tree = Tree(files={"f": os.urandom(100)})
        call = await _offer(gate, make_ref(f"job-{number}"), tree)
        await read_needed(call)
        await gate.connect()  # all that is open breaks
    await gate.stage(make_ref("last"), Tree(files={"f": b"whole"}))
    assert await gate.stop() == 0
    log = gate.log.read_text()
    assert "never retrieved" not in log
    assert "was destroyed" not in log
