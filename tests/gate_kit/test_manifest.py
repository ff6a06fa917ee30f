"""Manifests are checked while they arrive, and stored in the form that their digest is of."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate_kit import Refusal
from gate_kit.manifest import ManifestCheck, delimited, permission_bits, read_delimited
from skyport.common.v1 import manifest_pb2

_SCRIPT = b"#!/bin/sh\necho hello\n"
_EXAMPLE = [
    manifest_pb2.ManifestEntry(
        path="bin/run.sh",
        type=manifest_pb2.FILE_TYPE_FILE,
        size=len(_SCRIPT),
        mode=0o755,
        sha256=hashlib.sha256(_SCRIPT).digest(),
    ),
    manifest_pb2.ManifestEntry(path="empty", type=manifest_pb2.FILE_TYPE_DIRECTORY),
    manifest_pb2.ManifestEntry(
        path="latest.sh", type=manifest_pb2.FILE_TYPE_SYMLINK, link_target="bin/run.sh"
    ),
]
# From the specification.
_DIGEST = "8dec2b93472f46a39001d1e2c2a4fcfb67206c31160b2dbe7bdd6feab1e32d83"


def test_the_example_of_the_specification_has_its_digest() -> None:
    data = b"".join(delimited(entry) for entry in _EXAMPLE)
    assert len(data) == 90
    assert hashlib.sha256(data).hexdigest() == _DIGEST
    check = ManifestCheck()
    assert b"".join(check.add(entry) for entry in _EXAMPLE) == data
    check.finish(bytes.fromhex(_DIGEST), 3, len(_SCRIPT))


def test_the_empty_manifest_is_the_empty_file() -> None:
    ManifestCheck().finish(hashlib.sha256(b"").digest(), 0, 0)


def test_what_was_promised_and_did_not_come_is_a_mismatch() -> None:
    for digest, count, size in (
        (_DIGEST, 4, len(_SCRIPT)),
        (_DIGEST, 3, 1),
        ("00" * 32, 3, len(_SCRIPT)),
    ):
        check = ManifestCheck()
        for entry in _EXAMPLE:
            check.add(entry)
        with pytest.raises(Refusal) as found:
            check.finish(bytes.fromhex(digest), count, size)
        assert found.value.reason == "MANIFEST_MISMATCH"


@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"], ["a/b", "a.b"]])
def test_entries_come_in_byte_order_each_once(paths: list[str]) -> None:
    check = ManifestCheck()
    check.add(_folder(paths[0]))
    with pytest.raises(Refusal) as found:
        check.add(_folder(paths[1]))
    assert found.value.reason == "MANIFEST_MISMATCH"


def test_what_lies_between_does_not_hide_a_file_above() -> None:
    check = ManifestCheck()
    check.add(_file("a"))
    check.add(_file("a-b"))
    check.add(_file("a.b"))
    with pytest.raises(Refusal) as found:
        check.add(_file("a/c"))
    assert found.value.reason == "PATH_INVALID"


def test_a_folder_may_have_an_entry_and_files_below() -> None:
    check = ManifestCheck()
    for entry in (_folder("a"), _file("a.b"), _file("a/b"), _file("ab")):
        check.add(entry)
    assert check.count == 4


def test_modes_have_defaults() -> None:
    assert permission_bits(_file("a")) == 0o644
    assert permission_bits(_folder("a")) == 0o755
    assert permission_bits(_EXAMPLE[0]) == 0o755


@given(st.lists(st.text("abcü/", min_size=1, max_size=300), max_size=20), st.integers(1, 64))
def test_a_stored_manifest_is_read_back_whatever_the_pieces(paths: list[str], size: int) -> None:
    entries = [_folder(path) for path in paths]
    data = b"".join(delimited(entry) for entry in entries)
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert list(read_delimited(chunks)) == entries


def test_a_manifest_that_is_cut_is_not_taken_for_whole() -> None:
    data = b"".join(delimited(entry) for entry in _EXAMPLE)
    with pytest.raises(ValueError, match="ends within"):
        list(read_delimited([data[:-1]]))
    with pytest.raises(ValueError, match="impossible"):
        list(read_delimited([b"\xff" * 10]))


def _folder(path: str) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(path=path, type=manifest_pb2.FILE_TYPE_DIRECTORY)


def _file(path: str) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(
        path=path, type=manifest_pb2.FILE_TYPE_FILE, sha256=hashlib.sha256(b"").digest()
    )
