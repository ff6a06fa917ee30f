"""A manifest is read only as the contract writes it, and whoever wrote a bad one learns where."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import pytest

from skyport.common.v1 import manifest_pb2
from swm_core.spool import ContentMissing, ManifestRefused, Spool, read_manifest, write_manifest
from tests.core.spool.conftest import content, digest, upload

FILE = manifest_pb2.FILE_TYPE_FILE
FOLDER = manifest_pb2.FILE_TYPE_DIRECTORY
LINK = manifest_pb2.FILE_TYPE_SYMLINK
EMPTY = hashlib.sha256(b"").digest()


def file(path: str, data: bytes = b"", mode: int = 0) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(
        path=path, type=FILE, size=len(data), mode=mode, sha256=hashlib.sha256(data).digest()
    )


def folder(path: str) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(path=path, type=FOLDER)


def link(path: str, target: str) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(path=path, type=LINK, link_target=target)


def written(entries: Sequence[manifest_pb2.ManifestEntry]) -> bytes:
    out = io.BytesIO()
    write_manifest(entries, out)
    return out.getvalue()


def read(data: bytes) -> list[manifest_pb2.ManifestEntry]:
    return list(read_manifest(io.BytesIO(data)))


def test_the_example_of_the_specification_is_written_byte_by_byte() -> None:
    script = b"#!/bin/sh\necho hello\n"
    entries = [
        file("bin/run.sh", script, 0o755),
        folder("empty"),
        link("latest.sh", "bin/run.sh"),
    ]
    data = written(entries)
    assert len(data) == 90
    assert digest(data) == "8dec2b93472f46a39001d1e2c2a4fcfb67206c31160b2dbe7bdd6feab1e32d83"
    assert read(data) == entries
    assert written([]) == b""
    assert read(b"") == []


def test_many_entries_come_back_as_they_were() -> None:
    entries = [file(f"data/{n // 1000:03}/{n:06}", b"%d" % n) for n in range(20_000)]
    assert read(written(entries)) == entries


def test_entries_of_the_largest_paths_are_read_across_the_ends_of_chunks() -> None:
    long = "/".join(["d" * 255] * 15)
    entries = [link(f"{n:04}/{long}", "../" * 10 + "x" * 200) for n in range(400)]
    assert read(written(entries)) == entries


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "PATH_INVALID"),
        ("/etc/passwd", "PATH_INVALID"),
        ("..", "PATH_INVALID"),
        ("a/../b", "PATH_INVALID"),
        ("a/..", "PATH_INVALID"),
        ("./a", "PATH_INVALID"),
        ("a/.", "PATH_INVALID"),
        ("a//b", "PATH_INVALID"),
        ("a/", "PATH_INVALID"),
        ("a\0b", "PATH_INVALID"),
        ("x" * 256, "PATH_INVALID"),
        ("ä" * 128, "PATH_INVALID"),
        ("/".join(["d" * 200] * 21), "PATH_INVALID"),
    ],
)
def test_paths_that_lead_elsewhere_or_fit_nowhere_are_refused(path: str, reason: str) -> None:
    with pytest.raises(ManifestRefused) as caught:
        read(written([file(path)]))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "path", ["a", "...", "..a", "a..", "-rf", "a b", "a\\b", "C:\\x", "a\nb", "ä" * 127, "~", "%2e"]
)
def test_paths_that_only_look_odd_are_taken(path: str) -> None:
    assert read(written([file(path)])) == [file(path)]


@pytest.mark.parametrize(
    ("entries", "reason", "said"),
    [
        ([file("a"), file("a")], "PATH_CONFLICT", "'a'"),
        ([file("a"), folder("a")], "PATH_CONFLICT", "'a'"),
        ([file("a"), file("a/b")], "PATH_CONFLICT", "'a/b'"),
        ([link("a", "x"), file("a/b")], "PATH_CONFLICT", "'a/b'"),
        ([file("a"), file("a-b"), file("a.c"), file("a/b/c")], "PATH_CONFLICT", "'a/b/c'"),
        ([file("b"), file("a")], "MANIFEST_INVALID", "'a'"),
        ([file("a/b"), file("a-b")], "MANIFEST_INVALID", "'a-b'"),
        ([file("\U00010000"), file("\uffff")], "MANIFEST_INVALID", "order"),
    ],
)
def test_entries_that_do_not_make_one_tree_are_refused(
    entries: list[manifest_pb2.ManifestEntry], reason: str, said: str
) -> None:
    with pytest.raises(ManifestRefused) as caught:
        read(written(entries))
    assert caught.value.reason == reason
    assert said in str(caught.value)


def test_folders_and_what_lies_in_them_go_together() -> None:
    entries = [folder("a"), file("a-b"), folder("a/b"), file("a/b/c"), file("a0")]
    assert read(written(entries)) == entries


@pytest.mark.parametrize("target", ["", "/etc/passwd", "..", "../x", "b/../../../x", "x\0y"])
def test_links_that_lead_out_are_refused(target: str) -> None:
    with pytest.raises(ManifestRefused) as caught:
        read(written([link("a", target)]))
    assert caught.value.reason == "PATH_INVALID"


def test_links_that_stay_inside_are_taken() -> None:
    entries = [link("a/b/c", "../../d"), link("a/b/d", "."), link("e", "a/b")]
    assert read(written(entries)) == entries


@pytest.mark.parametrize(
    "entry",
    [
        manifest_pb2.ManifestEntry(path="a", type=FILE, sha256=b"short"),
        manifest_pb2.ManifestEntry(path="a", type=FILE),
        manifest_pb2.ManifestEntry(path="a", type=FILE, sha256=EMPTY, mode=0o4755),
        manifest_pb2.ManifestEntry(path="a", type=FILE, sha256=EMPTY, link_target="b"),
        manifest_pb2.ManifestEntry(path="a", type=FOLDER, size=1),
        manifest_pb2.ManifestEntry(path="a", type=FOLDER, sha256=EMPTY),
        manifest_pb2.ManifestEntry(path="a", type=FOLDER, link_target="b"),
        manifest_pb2.ManifestEntry(path="a", type=LINK, link_target="b", size=1),
        manifest_pb2.ManifestEntry(path="a", sha256=EMPTY),
    ],
)
def test_entries_that_are_not_whole_are_refused(entry: manifest_pb2.ManifestEntry) -> None:
    with pytest.raises(ManifestRefused, match="'a'") as caught:
        read(written([entry]))
    assert caught.value.reason == "MANIFEST_INVALID"


def test_a_manifest_that_is_cut_off_anywhere_is_refused() -> None:
    data = written([file("a"), file("b" * 200)])
    first = len(written([file("a")]))
    for length in range(1, len(data)):
        if length == first:
            continue
        with pytest.raises(ManifestRefused, match="cut off") as caught:
            read(data[:length])
        assert caught.value.reason == "MANIFEST_INVALID"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x0f",
        b"\x80\x80\x01" + bytes(20_000),
        b"\x05hello",
        b"\x83\x00\x0a\x01a",
        b"#!/bin/sh\nnot a manifest\n" * 100,
        # Fields out of order, and one that nobody knows.
        b"\x05\x10\x02\x0a\x01a",
        b"\x07\x0a\x01a\x10\x02\x78\x01",
        # A name that is not UTF-8.
        b"\x05\x0a\x01\xff\x10\x02",
    ],
)
def test_what_is_no_manifest_or_not_canonical_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestRefused, match="entry 0") as caught:
        read(data)
    assert caught.value.reason == "MANIFEST_INVALID"


async def test_a_job_is_taken_only_with_all_that_its_manifest_names(spool: Spool) -> None:
    there, missing = content(1000), content(1000, 1)
    data = written([folder("d"), file("d/missing", missing), file("d/there", there)])
    with pytest.raises(ContentMissing, match="manifest"):
        await spool.check_manifest("alice", digest(data))
    await upload(spool, "alice", data, there)
    with pytest.raises(ContentMissing, match="'d/missing'"):
        await spool.check_manifest("alice", digest(data))
    # That somebody else has it does not help.
    await upload(spool, "bob", missing)
    with pytest.raises(ContentMissing):
        await spool.check_manifest("alice", digest(data))
    await upload(spool, "alice", missing)
    await spool.check_manifest("alice", digest(data))
    with pytest.raises(ContentMissing):
        await spool.check_manifest("bob", digest(data))


async def test_a_size_that_is_not_that_of_the_content_is_refused(spool: Spool) -> None:
    entry = file("a", b"content")
    entry.size = 3
    data = written([entry])
    await upload(spool, "alice", data, b"content")
    with pytest.raises(ContentMissing, match="'a'"):
        await spool.check_manifest("alice", digest(data))


async def test_a_manifest_of_the_core_is_stored_as_any_content(spool: Spool) -> None:
    entries = [file(f"{n:05}") for n in range(30_000)]
    name = await spool.write_manifest("alice", iter(entries))
    assert name == digest(written(entries))
    assert list(spool.manifest("alice", name)) == entries
    assert await spool.write_manifest("alice", entries) == name
    assert spool.used_bytes == len(written(entries))
    assert list(spool.owner("alice").partial.iterdir()) == []


@pytest.mark.parametrize("target", ["b/../c", "../b/../c", "b/..", "./../b"])
def test_a_link_goes_up_at_its_beginning_only(target: str) -> None:
    # By text `b/../c` stays inside; where `b` is a link, a file system goes elsewhere.
    with pytest.raises(ManifestRefused, match="only leading ones"):
        read(written([link("a/x", target)]))
