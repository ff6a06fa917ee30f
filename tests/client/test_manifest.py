from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest

from skyport.common.v1 import manifest_pb2
from terminals.client.errors import InputChanged, InputsInvalid
from terminals.client.inputs import Input, Kind, Selection, select
from terminals.client.manifest import read_manifest
from terminals.client.progress import Progress
from tests.client.fake_jobs import read_manifest as decode


def test_the_manifest_names_each_entry_as_the_contract_says(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "d/run").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "d/run").chmod(0o750)
    (tmp_path / "d/zero").write_bytes(b"")
    (tmp_path / "d/zero").chmod(0o600)
    (tmp_path / "d/link").symlink_to("run")
    manifest = read_manifest(select(["d", "empty"], tmp_path))
    assert decode(manifest.data) == [
        manifest_pb2.ManifestEntry(
            path="d/link", type=manifest_pb2.FILE_TYPE_SYMLINK, link_target="run"
        ),
        manifest_pb2.ManifestEntry(
            path="d/run",
            type=manifest_pb2.FILE_TYPE_FILE,
            size=10,
            mode=0o750,
            sha256=hashlib.sha256(b"#!/bin/sh\n").digest(),
        ),
        manifest_pb2.ManifestEntry(
            path="d/zero",
            type=manifest_pb2.FILE_TYPE_FILE,
            mode=0o600,
            sha256=hashlib.sha256(b"").digest(),
        ),
        manifest_pb2.ManifestEntry(path="empty", type=manifest_pb2.FILE_TYPE_DIRECTORY),
    ]
    assert manifest.sha256 == hashlib.sha256(manifest.data).digest()
    assert [content.size for content in manifest.contents] == [10, 0]


def test_the_same_tree_has_the_same_manifest(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text("x" * number)
    first = read_manifest(select(["."], tmp_path))
    assert first == read_manifest(select(["*.txt"], tmp_path))


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(256 << 20)
    tracemalloc.start()
    try:
        manifest = read_manifest(select(["large"], tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert manifest.contents[0].size == 256 << 20
    assert peak < 8 << 20


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}").write_bytes(b"x" * 1000)
    (tmp_path / "large").write_bytes(b"y" * (3 << 20))
    told: list[Progress] = []
    read_manifest(select(["."], tmp_path), told.append)
    last = max(told, key=lambda progress: progress.done_files)
    assert (last.done_files, last.total_files) == (201, 201)
    assert last.total_bytes == 200_000 + (3 << 20)
    assert max(progress.done_bytes for progress in told) == last.total_bytes


def test_a_file_that_grows_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (3 << 20))

    def grow(_: Progress) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(InputChanged, match="log changed while"):
        read_manifest(select(["log"], tmp_path), grow)


def test_files_that_vanished_are_all_named(tmp_path: Path) -> None:
    gone = [Input(name, Kind.FILE, f"{tmp_path}/{name}") for name in ("a", "b")]
    with pytest.raises(InputsInvalid) as caught:
        read_manifest(Selection(tuple(gone), ()))
    assert len(caught.value.problems) == 2
