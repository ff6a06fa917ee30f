"""ListFiles and GetFiles on hosts: what a job has made, by pattern, page and offset."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gate_kit import Refusal, page_of
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.downloads import Downloads
from gate_kit.ssh.host import Host
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.transport import Transport
from skyport.gate.v1 import file_pb2
from tests.fake_gate.harness import Tree
from tests.ssh.inputs import BusyboxTransport, OwnSites, Rig
from tests.ssh.sshd import Sshd

NAMES = (
    "plain",
    "with space",
    "-dash",
    "a'b\"c",
    "new\nline",
    "new\n3line",
    "back\\slash",
    "$HOME `id`;*?[x]",
    "é" * 127,
    "x" * 255,
    "~",
    " -> ",
)


class Files:
    """An attempt whose work folder a test fills."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ref = rig.ref()
        self.work = rig.work(self.ref)
        self.downloads = Downloads(OwnSites(rig.hosts))

    def make(self, *paths: str) -> None:
        """Make files, each with its path as content; folders end with a slash."""
        for path in paths:
            made = self.work / path
            if path.endswith("/"):
                made.mkdir(parents=True, exist_ok=True)
            else:
                made.parent.mkdir(parents=True, exist_ok=True)
                made.write_text(path)

    async def listed(self, *patterns: str, page_size: int = 0) -> file_pb2.ListFilesResponse:
        """All pages."""
        request = file_pb2.ListFilesRequest(ref=self.ref, patterns=patterns, page_size=page_size)
        whole = file_pb2.ListFilesResponse()
        while True:
            page = page_of(request, default_size=1_000, max_size=10_000)
            answer = await self.downloads.list(request, page)
            whole.MergeFrom(answer)
            if not answer.next_page_token:
                return whole
            request.page_token = answer.next_page_token

    async def paths(self, *patterns: str, page_size: int = 0) -> list[str]:
        """The paths of what is found."""
        answer = await self.listed(*patterns, page_size=page_size)
        return [file.entry.path for file in answer.files]

    async def get(self, *cursors: str | dict[str, Any]) -> list[file_pb2.SiteFilePiece]:
        """All pieces."""
        request = file_pb2.GetFilesRequest(ref=self.ref)
        for cursor in cursors:
            request.files.add(**({"path": cursor} if isinstance(cursor, str) else cursor))
        return [piece async for answer in self.downloads.get(request) for piece in answer.pieces]


@pytest.fixture(params=["ssh", "dash", "bash", "busybox"])
async def files(
    request: pytest.FixtureRequest, shared_sshd: Sshd, tmp_path: Path
) -> AsyncIterator[Files]:
    """One host, by SSH and in each of the shells."""
    transport: Transport
    shell = "/bin/sh"
    if request.param == "ssh":
        transport = SshTransport("n1", shared_sshd.target)
    elif request.param == "busybox":
        transport = busybox = BusyboxTransport("n1", tmp_path)
        shell = busybox.shell
    else:
        transport, shell = LocalTransport("n1"), f"/bin/{request.param}"
    root = tmp_path / "root"
    rig = Rig([Host(transport, "local", str(root), shell=shell)], [root])
    made = Files(rig)
    await rig.put(made.ref, Tree())
    made.work.mkdir()  # as the start does
    yield made
    made.downloads.close()
    await rig.close()


def _fill(files: Files) -> None:
    files.make(
        "out/deep/er/c.log", "out/empty/", "out/a.txt", "out/deep/b.txt", "out/.dot",
        ".hidden/h", "top.log", "lite*ral", "out.txt",
    )  # fmt: skip
    (files.work / "out/link").symlink_to("../top.log")
    (files.work / "out/outside").symlink_to("/etc/passwd")
    os.mkfifo(files.work / "out/pipe")


async def test_patterns_mean_what_the_contract_says(files: Files) -> None:
    _fill(files)
    below = [
        "out/a.txt", "out/deep", "out/deep/b.txt", "out/deep/er", "out/deep/er/c.log",
        "out/empty", "out/link",
    ]  # fmt: skip
    for patterns, expected in (
        (["top.log"], ["top.log"]),
        (["*.log"], ["top.log"]),
        (["**/*.log"], ["out/deep/er/c.log", "top.log"]),
        (["out/*.txt"], ["out/a.txt"]),
        (["out/?.txt", "out/[a-c].txt"], ["out/a.txt"]),
        (["out/[!a].txt"], []),
        (["out/deep"], ["out/deep", "out/deep/b.txt", "out/deep/er", "out/deep/er/c.log"]),
        (["out/deep/"], ["out/deep", "out/deep/b.txt", "out/deep/er", "out/deep/er/c.log"]),
        (["out/**/*.txt"], ["out/a.txt", "out/deep/b.txt"]),
        (["./out/a.txt", "out/a.txt"], ["out/a.txt"]),
        (["lite[*]ral"], ["lite*ral"]),
        ([".hidden"], [".hidden", ".hidden/h"]),
        ([".h*/h"], [".hidden/h"]),
        ([".*"], [".hidden", ".hidden/h"]),
        (["*/h"], []),
        (["**/h"], []),
        (["out/*"], below),
        (["out"], ["out", "out/.dot", *below]),
        (["o*"], ["out", "out.txt", "out/.dot", *below]),
    ):
        assert await files.paths(*patterns) == expected, patterns
        for size in (1, 3):
            assert await files.paths(*patterns, page_size=size) == expected, patterns
    everything = [str(path.relative_to(files.work)) for path in files.work.rglob("*")]
    expected = [path for path in everything if path not in {"out/pipe", "out/outside"}]
    assert await files.paths(".") == sorted(expected, key=str.encode)


async def test_unmatched_and_skipped_are_told_with_their_reasons(files: Files) -> None:
    _fill(files)
    with socket.socket(socket.AF_UNIX) as made:
        there = os.open(files.work / "out", os.O_RDONLY)
        made.bind(f"/proc/self/fd/{there}/sock")
        os.close(there)
    os.close(os.open(os.fsencode(files.work) + b"/out/bad\xff", os.O_CREAT | os.O_WRONLY))
    for size in (0, 1):
        answer = await files.listed("out", "nothing.txt", "no/*.png", "out/p*", page_size=size)
        assert list(answer.unmatched_patterns) == ["nothing.txt", "no/*.png"]
        assert {(skipped.path, skipped.reason) for skipped in answer.skipped} == {
            ("out/pipe", "fifo"),
            ("out/sock", "socket"),
            ("out/outside", "link that leads out"),
            ("out/bad\ufffd", "name is not UTF-8"),
        }


async def test_links_are_never_followed(files: Files) -> None:
    files.make("d/f")
    (files.work / "l").symlink_to("d")
    (files.work / "root").symlink_to("/")
    assert await files.paths("l") == ["l"]
    assert await files.paths("l/f", "root/etc/passwd", "*/f") == ["d/f"]
    found = await files.get("l/f", "l", "root/etc/passwd", "d")
    assert [piece.end.failure.reason for piece in found] == ["PATH_INVALID"] * 4


async def test_any_name_is_told_and_read(files: Files) -> None:
    for name in NAMES:
        (files.work / name).mkdir()
        (files.work / name / name).write_text(name)
        (files.work / name / "link").symlink_to(name)
    expected = [path for n in NAMES for path in (n, f"{n}/{n}", f"{n}/link")]
    assert await files.paths(".") == sorted(expected, key=str.encode)
    answer = await files.listed("*/link")
    assert {file.entry.link_target for file in answer.files} == set(NAMES)
    found = await files.get(*(f"{name}/{name}" for name in NAMES))
    assert [piece.data.decode() for piece in found] == list(NAMES)


async def test_files_come_in_order_each_with_size_digest_and_time(files: Files) -> None:
    sizes = (1, 0, 3_000_000, 200_000, 262_144, 262_145, 5)
    for index, size in enumerate(sizes):
        (files.work / f"f{index}").write_bytes(os.urandom(size))
    os.link(files.work / "f0", files.work / "same")
    names = [*(f"f{index}" for index in range(len(sizes))), "same"]
    listed = {file.entry.path: file for file in (await files.listed("*")).files}
    found = await files.get(*names)
    assert [piece.index for piece in found] == sorted(piece.index for piece in found)
    for index, name in enumerate(names):
        parts = [piece for piece in found if piece.index == index]
        data = b"".join(piece.data for piece in parts)
        assert hashlib.sha256(data).digest() == parts[-1].end.sha256, name
        assert len(data) == parts[-1].end.size == listed[name].entry.size
        assert parts[-1].end.sha256 == hashlib.sha256((files.work / name).read_bytes()).digest()
        assert parts[-1].end.modify_time == listed[name].modify_time
        assert not parts[-1].end.HasField("failure")


async def test_a_broken_download_resumes_unless_the_file_has_changed(files: Files) -> None:
    data = os.urandom(1_000_000)
    (files.work / "big").write_bytes(data)
    (listed,) = (await files.listed("big")).files
    cursor: dict[str, Any] = {
        "path": "big",
        "offset": 900_000,
        "size": 1_000_000,
        "modify_time": listed.modify_time,
    }
    found = await files.get(cursor)
    assert found[0].offset == 900_000
    assert b"".join(piece.data for piece in found) == data[900_000:]
    (done,) = await files.get({**cursor, "offset": 1_000_000})
    assert (done.offset, done.data, done.end.size) == (1_000_000, b"", 1_000_000)
    with pytest.raises(Refusal) as caught:
        await files.get({**cursor, "offset": 1_000_001})
    assert caught.value.reason == "OFFSET"
    os.utime(files.work / "big", (1, 1))
    anew = await files.get(cursor)
    assert anew[0].offset == 0
    assert b"".join(piece.data for piece in anew) == data


async def test_one_missing_file_does_not_end_the_call(files: Files) -> None:
    files.make("one", "two", "d/")
    os.mkfifo(files.work / "p")
    found = await files.get("one", "gone", "gone/x", "one/x", "d", "p", "two")
    assert [piece.end.failure.reason for piece in found] == [
        "", "FILE_NOT_FOUND", "FILE_NOT_FOUND", "FILE_NOT_FOUND", "PATH_INVALID", "PATH_INVALID",
        "",
    ]  # fmt: skip
    assert [piece.data for piece in found if piece.data] == [b"one", b"two"]


async def test_a_file_that_grows_is_sent_as_it_was_and_one_that_is_rewritten_failed(
    files: Files,
) -> None:
    size = 64 << 20
    for change, reason in (("ab", ""), ("wb", "FILE_CHANGED")):
        path = files.work / "big"
        path.write_bytes(bytes(size))
        request = file_pb2.GetFilesRequest(ref=files.ref)
        request.files.add(path="big")
        total, last = 0, file_pb2.SiteFilePiece()
        async for answer in files.downloads.get(request):
            if not total:
                with path.open(change) as file:
                    file.write(b"more")
            total += sum(len(piece.data) for piece in answer.pieces)
            last = answer.pieces[-1]
        assert last.end.failure.reason == reason
        assert last.end.size == size
        assert total == size


async def test_a_work_folder_that_the_job_removed_is_empty(files: Files) -> None:
    files.work.rmdir()
    answer = await files.listed("*", "x")
    assert list(answer.files) == []
    assert list(answer.unmatched_patterns) == ["*", "x"]
    found = await files.get("etc/passwd", "x")
    assert [piece.end.failure.reason for piece in found] == ["FILE_NOT_FOUND"] * 2


async def test_what_is_not_there_or_elsewhere_is_refused(files: Files) -> None:
    files.ref.attempt = 9
    with pytest.raises(Refusal) as caught:
        await files.listed("*")
    assert caught.value.reason == "JOB_NOT_FOUND"
    files.ref.roots.add(node="n1", root_uid="another")
    with pytest.raises(Refusal) as caught:
        await files.get("x")
    assert caught.value.reason == "SITE_CHANGED"


async def test_thousands_of_files_are_listed_and_read(files: Files) -> None:
    files.make(*(f"d{number % 7}/f{number}" for number in range(2_500)))
    paths = await files.paths("*")
    assert len(paths) == 2_507
    assert paths == sorted(paths, key=str.encode)
    wanted = [path for path in paths if "/" in path]
    found = await asyncio.wait_for(files.get(*wanted), 60)
    assert [piece.data.decode() for piece in found] == wanted
