"""Manifest files: entries in byte order of their paths, each preceded by its length as a varint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

from google.protobuf import message

from skyport.common.v1 import manifest_pb2
from swm_core.domain.paths import PathRefused, Tree, check_link
from swm_core.spool.errors import ManifestRefused

MAX_ENTRIES = 1_000_000
MAX_BYTES = 256 << 20
_DIGEST_BYTES = 32
_MAX_ENTRY_BYTES = 16 << 10
"""Two paths and a digest need less: more is no entry, and is not read into memory."""
_MAX_LENGTH_BYTES = 3
_CHUNK_BYTES = 1 << 20


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def read_manifest(file: BinaryIO) -> Iterator[manifest_pb2.ManifestEntry]:
    """The entries of a manifest, each checked as it comes.

    Raises:
        ManifestRefused: MANIFEST_INVALID, PATH_INVALID or PATH_CONFLICT, naming the entry.
    """
    tree = Tree()
    number = 0
    try:
        for encoded in _records(file):
            if number == MAX_ENTRIES:
                raise ManifestRefused(
                    "MANIFEST_INVALID", f"a manifest of more than {MAX_ENTRIES} entries"
                )
            entry = manifest_pb2.ManifestEntry.FromString(encoded)
            entry.DiscardUnknownFields()
            if entry.SerializeToString(deterministic=True) != encoded:
                raise ValueError("it is not in canonical form")
            check_entry(entry, tree)
            yield entry
            number += 1
    except (message.DecodeError, ValueError) as error:
        raise ManifestRefused(
            "MANIFEST_INVALID", f"entry {number} of the manifest cannot be read: {error}"
        ) from None


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
    if entry.link_target and entry.type != manifest_pb2.FILE_TYPE_SYMLINK:
        problem = "has a link target, and is no link"
    if entry.mode & ~0o777:
        problem = f"has mode {entry.mode:o}; only permission bits are taken"
    if problem:
        raise ManifestRefused("MANIFEST_INVALID", f"entry {entry.path!r} {problem}")


def write_manifest(entries: Iterable[manifest_pb2.ManifestEntry], file: _Sink) -> None:
    """Write `entries`, which are in order, to `file`, in pieces of about 1 MiB."""
    buffer = bytearray()
    for entry in entries:
        encoded = entry.SerializeToString(deterministic=True)
        length = len(encoded)
        while length > 0x7F:
            buffer.append(length & 0x7F | 0x80)
            length >>= 7
        buffer.append(length)
        buffer += encoded
        if len(buffer) >= _CHUNK_BYTES:
            file.write(bytes(buffer))
            buffer.clear()
    file.write(bytes(buffer))


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The encoded entries; ValueError tells what is wrong with the next one."""
    buffer = b""
    position = 0
    while True:
        if len(buffer) - position < _MAX_ENTRY_BYTES + _MAX_LENGTH_BYTES:
            buffer = buffer[position:] + file.read(_CHUNK_BYTES)
            position = 0
            if not buffer:
                return
        length, shift = 0, 0
        while True:
            if position == len(buffer):
                raise ValueError("it is cut off")
            byte = buffer[position]
            position += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift == 7 * _MAX_LENGTH_BYTES:
                raise ValueError("its length is not one")
        if byte == 0 and shift:
            raise ValueError("its length is not in canonical form")
        if length > _MAX_ENTRY_BYTES:
            raise ValueError(f"it has {length} bytes; at most {_MAX_ENTRY_BYTES} are taken")
        end = position + length
        if end > len(buffer):
            raise ValueError("it is cut off")
        yield buffer[position:end]
        position = end
