"""Manifest files: entries in byte order of their paths, each preceded by its length as a varint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from google.protobuf import message
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from skyport.common.v1 import manifest_pb2
from swm_core.domain.paths import PathRefused, Tree, check_link
from swm_core.spool.errors import ManifestRefused

MAX_ENTRIES = 1_000_000
MAX_BYTES = 256 << 20
_DIGEST_BYTES = 32


def read_manifest(file: BinaryIO) -> Iterator[manifest_pb2.ManifestEntry]:
    """The entries of a manifest, each checked as it comes.

    Raises:
        ManifestRefused: MANIFEST_INVALID, PATH_INVALID or PATH_CONFLICT, naming the entry.
    """
    tree = Tree()
    for number in range(MAX_ENTRIES + 1):
        try:
            entry = parse_length_prefixed(manifest_pb2.ManifestEntry, file)  # type: ignore[arg-type]
        except (message.DecodeError, ValueError, EOFError, TypeError) as error:
            raise ManifestRefused(
                "MANIFEST_INVALID", f"entry {number} of the manifest cannot be read: {error}"
            ) from None
        if entry is None:
            return
        check_entry(entry, tree)
        yield entry
    raise ManifestRefused("MANIFEST_INVALID", f"a manifest of more than {MAX_ENTRIES} entries")


def check_entry(entry: manifest_pb2.ManifestEntry, tree: Tree) -> None:
    """Raise ManifestRefused unless the entry is whole and fits after those in `tree`."""
    try:
        tree.add(entry.path, folder=entry.type == manifest_pb2.FILE_TYPE_DIRECTORY)
        if entry.type == manifest_pb2.FILE_TYPE_SYMLINK:
            check_link(entry.path, entry.link_target)
    except PathRefused as refused:
        raise ManifestRefused(refused.reason, str(refused)) from None
    problem = ""
    if entry.type == manifest_pb2.FILE_TYPE_FILE:
        if len(entry.sha256) != _DIGEST_BYTES:
            problem = f"has a digest of {len(entry.sha256)} bytes; a SHA-256 has {_DIGEST_BYTES}"
    elif entry.type not in (manifest_pb2.FILE_TYPE_DIRECTORY, manifest_pb2.FILE_TYPE_SYMLINK):
        problem = f"has the unknown type {entry.type}"
    elif entry.size or entry.sha256:
        problem = "has size or digest, and is no file"
    if entry.mode & ~0o777:
        problem = f"has mode {entry.mode:o}; only permission bits are taken"
    if problem:
        raise ManifestRefused("MANIFEST_INVALID", f"entry {entry.path!r} {problem}")


def write_manifest(entries: Iterable[manifest_pb2.ManifestEntry], file: BinaryIO) -> None:
    """Write `entries`, which are in order, to `file`."""
    for entry in entries:
        serialize_length_prefixed(entry, file)  # type: ignore[arg-type]
