"""ListFiles and GetFiles: what a job has made, by pattern, page and offset."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from skyport.gate.v1 import file_pb2, types_pb2
from tests.fake_gate.harness import Gate, make_ref, refused

_MAKE = """
mkdir -p out/deep/er out/empty .hidden
echo a > out/a.txt; echo b > out/deep/b.txt; echo c > out/deep/er/c.log
echo x > out/.dot; echo h > .hidden/h; echo top > top.log; echo star > 'lite*ral'
ln -s ../top.log out/link; ln -s /etc/passwd out/outside
: > out.txt
mkfifo out/pipe
"""


async def _made(gate: Gate, script: str = _MAKE) -> tuple[types_pb2.JobRef, Path]:
    ref, _ = await gate.start_job(script)
    assert (await gate.ended(ref)).exit_code == 0
    return ref, gate.attempt_folder(ref) / "work.n1"


async def _list(
    gate: Gate, ref: types_pb2.JobRef, *patterns: str, page_size: int = 0
) -> file_pb2.ListFilesResponse:
    request = file_pb2.ListFilesRequest(ref=ref, patterns=patterns, page_size=page_size)
    whole = file_pb2.ListFilesResponse()
    while True:
        answer = await gate.files.ListFiles(request)
        whole.MergeFrom(answer)
        if not answer.next_page_token:
            return whole
        request.page_token = answer.next_page_token


def _paths(answer: file_pb2.ListFilesResponse) -> list[str]:
    return [file.entry.path for file in answer.files]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["top.log"], ["top.log"]),
        (["*.log"], ["top.log"]),
        (["**/*.log"], ["out/deep/er/c.log", "top.log"]),
        (["out/*.txt"], ["out/a.txt"]),
        (["out/?.txt", "out/[a-c].txt"], ["out/a.txt"]),
        (["out/[!a].txt"], []),
        (["out/deep"], ["out/deep", "out/deep/b.txt", "out/deep/er", "out/deep/er/c.log"]),
        (["out/deep/"], ["out/deep", "out/deep/b.txt", "out/deep/er", "out/deep/er/c.log"]),
        (["out/**/*.txt"], ["out/a.txt", "out/deep/b.txt"]),
        (["lite[*]ral"], ["lite*ral"]),
        ([".hidden"], [".hidden", ".hidden/h"]),
        (["*/h"], []),
        (["**/h"], []),
        (["out/*"], [
            "out/a.txt", "out/deep", "out/deep/b.txt", "out/deep/er", "out/deep/er/c.log",
            "out/empty", "out/link",
        ]),
        (["out"], [
            "out", "out/.dot", "out/a.txt", "out/deep", "out/deep/b.txt", "out/deep/er",
            "out/deep/er/c.log", "out/empty", "out/link",
        ]),
        (["o*"], [
            "out", "out.txt", "out/.dot", "out/a.txt", "out/deep", "out/deep/b.txt", "out/deep/er",
            "out/deep/er/c.log", "out/empty", "out/link",
        ]),
    ],
)  # fmt: skip
async def test_patterns_mean_what_the_contract_says(
    gate: Gate, patterns: list[str], expected: list[str]
) -> None:
    ref, _ = await _made(gate)
    answer = await _list(gate, ref, *patterns)
    assert _paths(answer) == expected
    # Byte order, across pages of any size.
    assert expected == sorted(expected, key=str.encode)
    for size in (1, 2, 3):
        assert _paths(await _list(gate, ref, *patterns, page_size=size)) == expected


async def test_everything_is_dot(gate: Gate) -> None:
    ref, work = await _made(gate)
    found = _paths(await _list(gate, ref, "."))
    on_disk = [str(path.relative_to(work)) for path in work.rglob("*")]
    expected = [path for path in on_disk if path not in {"out/pipe", "out/outside"}]
    assert found == sorted(expected, key=str.encode)


async def test_unmatched_and_skipped_are_told_with_their_reasons(gate: Gate) -> None:
    ref, work = await _made(gate)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(work / "out" / "sock"))
    os.close(os.open(os.fsencode(work) + b"/out/bad\xff", os.O_CREAT | os.O_WRONLY))
    answer = await _list(gate, ref, "out", "nothing.txt", "no/*.png", "out/p*")
    assert list(answer.unmatched_patterns) == ["nothing.txt", "no/*.png"]
    assert {(skipped.path, skipped.reason) for skipped in answer.skipped} == {
        ("out/pipe", "fifo"),
        ("out/sock", "socket"),
        ("out/outside", "link that leads out"),
        ("out/bad�", "name is not UTF-8"),
    }
    paged = await _list(gate, ref, "out", "nothing.txt", "no/*.png", "out/p*", page_size=1)
    assert paged.skipped == answer.skipped
    assert paged.unmatched_patterns == answer.unmatched_patterns


async def test_links_are_never_followed(gate: Gate) -> None:
    ref, _ = await _made(gate, "mkdir d; echo 1 > d/f; ln -s d l; ln -s / root")
    assert _paths(await _list(gate, ref, "l")) == ["l"]
    assert _paths(await _list(gate, ref, "l/f", "root/etc/passwd", "*/f")) == ["d/f"]
    (piece,) = await _get(gate, ref, {"path": "l/f"})
    assert piece.end.failure.reason in {"PATH_INVALID", "FILE_NOT_FOUND"}
    (piece,) = await _get(gate, ref, {"path": "l"})
    assert piece.end.failure.reason == "PATH_INVALID"


async def test_invalid_patterns_are_refused(gate: Gate) -> None:
    ref, _ = await _made(gate)
    for pattern in ("/etc/*", "../x", "a/../b", "x" * 4_097, "[z-a]"):
        request = file_pb2.ListFilesRequest(ref=ref, patterns=[pattern])
        await refused(gate.files.ListFiles(request), "PATH_INVALID")
    none = file_pb2.ListFilesRequest(ref=ref)
    await refused(gate.files.ListFiles(none), "FIELD_MALFORMED")


async def test_a_page_token_belongs_to_its_question(gate: Gate) -> None:
    ref, _ = await _made(gate)
    first = file_pb2.ListFilesRequest(ref=ref, patterns=["out"], page_size=1)
    token = (await gate.files.ListFiles(first)).next_page_token
    other = file_pb2.ListFilesRequest(ref=ref, patterns=["*"], page_token=token)
    await refused(gate.files.ListFiles(other), "PAGE_TOKEN_INVALID")
    negative = file_pb2.ListFilesRequest(ref=ref, patterns=["*"], page_size=-1)
    await refused(gate.files.ListFiles(negative), "FIELD_OUT_OF_RANGE")


async def _get(
    gate: Gate, ref: types_pb2.JobRef, *cursors: dict[str, Any]
) -> list[file_pb2.SiteFilePiece]:
    request = file_pb2.GetFilesRequest(ref=ref)
    for cursor in cursors:
        request.files.add(**cursor)
    return [piece async for answer in gate.files.GetFiles(request) for piece in answer.pieces]


async def test_files_come_in_order_each_with_size_digest_and_time(gate: Gate) -> None:
    ref, work = await _made(gate, "head -c 3000000 /dev/urandom > big; echo s > small; : > void")
    listed = {file.entry.path: file for file in (await _list(gate, ref, "*")).files}
    found = await _get(gate, ref, {"path": "small"}, {"path": "big"}, {"path": "void"})
    assert [piece.index for piece in found] == sorted(piece.index for piece in found)
    for index, name in enumerate(("small", "big", "void")):
        parts = [piece for piece in found if piece.index == index]
        data = b"".join(piece.data for piece in parts)
        assert data == (work / name).read_bytes()
        end = parts[-1].end
        assert end.size == len(data) == listed[name].entry.size
        assert end.sha256 == hashlib.sha256(data).digest()
        assert end.modify_time == listed[name].modify_time
        assert not end.HasField("failure")


async def test_a_broken_download_resumes_unless_the_file_has_changed(gate: Gate) -> None:
    ref, work = await _made(gate, "head -c 1000000 /dev/urandom > big")
    (listed,) = (await _list(gate, ref, "big")).files
    cursor: dict[str, Any] = {
        "path": "big",
        "offset": 900_000,
        "size": 1_000_000,
        "modify_time": listed.modify_time,
    }
    data = (work / "big").read_bytes()
    pieces = await _get(gate, ref, cursor)
    assert pieces[0].offset == 900_000
    assert b"".join(piece.data for piece in pieces) == data[900_000:]
    (done,) = await _get(gate, ref, {**cursor, "offset": 1_000_000})
    assert (done.offset, done.data, done.end.size) == (1_000_000, b"", 1_000_000)
    past = file_pb2.GetFilesRequest(ref=ref)
    past.files.add(**{**cursor, "offset": 1_000_001})
    await refused(gate.files.GetFiles(past), "OFFSET", grpc.StatusCode.OUT_OF_RANGE)
    os.utime(work / "big", (1, 1))
    anew = await _get(gate, ref, cursor)
    assert anew[0].offset == 0
    assert b"".join(piece.data for piece in anew) == data


async def test_one_missing_file_does_not_end_the_call(gate: Gate) -> None:
    ref, _ = await _made(gate, "echo one > one; echo two > two; mkdir d; mkfifo p")
    found = await _get(gate, ref, *({"path": name} for name in ("one", "gone", "d", "p", "two")))
    assert [piece.end.failure.reason for piece in found] == [
        "", "FILE_NOT_FOUND", "PATH_INVALID", "PATH_INVALID", ""
    ]  # fmt: skip
    assert [piece.data for piece in found if piece.data] == [b"one\n", b"two\n"]


async def test_paths_that_leave_the_folder_are_refused(gate: Gate) -> None:
    ref, _ = await _made(gate)
    for path in ("/etc/passwd", "../spec", "a/../../b", ""):
        request = file_pb2.GetFilesRequest(ref=ref)
        request.files.add(path=path)
        await refused(gate.files.GetFiles(request), "PATH_INVALID")
    await refused(gate.files.GetFiles(file_pb2.GetFilesRequest(ref=ref)), "FIELD_MALFORMED")


async def test_files_of_each_node_are_its_own(gate: Gate) -> None:
    ref = make_ref("job-1", "n1", "n2")
    await gate.stage(ref)
    await gate.start_job('echo "$SWM_NODE_RANK" > rank', ref, every=True)
    await gate.ended(ref)
    for rank, node in enumerate(("n1", "n2")):
        request = file_pb2.GetFilesRequest(ref=ref, node=node)
        request.files.add(path="rank")
        found = [p async for answer in gate.files.GetFiles(request) for p in answer.pieces]
        assert found[0].data == f"{rank}\n".encode()
    elsewhere = file_pb2.ListFilesRequest(ref=ref, node="n9", patterns=["*"])
    await refused(gate.files.ListFiles(elsewhere), "FIELD_MALFORMED")


async def test_a_list_of_thousands_is_told_whole_in_pages(gate: Gate) -> None:
    ref, _ = await _made(
        gate,
        "mkdir d0 d1 d2 d3 d4 d5 d6; i=0; while [ $i -lt 2500 ]; do"
        ' : > "d$((i % 7))/f$i"; i=$((i+1)); done',
    )
    whole = await _list(gate, ref, "*")
    paths = _paths(whole)
    assert len(paths) == 2_507
    assert paths == sorted(paths, key=str.encode)
    assert len(set(paths)) == len(paths)


async def test_files_of_the_never_seen_are_not_found(gate: Gate) -> None:
    request = file_pb2.ListFilesRequest(ref=make_ref(), patterns=["*"])
    await refused(gate.files.ListFiles(request), "JOB_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
