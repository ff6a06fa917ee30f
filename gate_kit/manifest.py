"""Checks a manifest while its pages arrive: paths, order, totals and digest. Pure.

The rules are those of `skyport.common.v1.ManifestEntry`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from gate_kit.errors import invalid, manifest_mismatch, path_invalid
from gate_kit.validation import link_mistake, path_mistake
from skyport.common.v1 import manifest_pb2

MODE_MASK = 0o777

_FILE = manifest_pb2.FILE_TYPE_FILE
_DIRECTORY = manifest_pb2.FILE_TYPE_DIRECTORY
_SYMLINK = manifest_pb2.FILE_TYPE_SYMLINK


def delimited(entry: manifest_pb2.ManifestEntry) -> bytes:
    """The entry as it stands in a manifest that is stored or hashed: its length, then itself."""
    data = entry.SerializeToString(deterministic=True)
    length = len(data)
    head = bytearray()
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + data


def permission_bits(entry: manifest_pb2.ManifestEntry) -> int:
    """The mode that the entry's file or directory gets."""
    return entry.mode or (0o755 if entry.type == _DIRECTORY else 0o644)


class ManifestCheck:
    """One manifest on its way in. It holds no entries, only what later ones are compared with."""

    def __init__(self) -> None:
        self.count = 0
        self.total_bytes = 0
        self._digest = hashlib.sha256()
        self._last = b""
        # Files and links whose path begins the current one: none may be a parent of what follows.
        self._above: list[bytes] = []

    def add(self, entry: manifest_pb2.ManifestEntry) -> bytes:
        """Check the next entry.

        Returns:
            The entry in delimited form.

        Raises:
            Refusal: PATH_INVALID, FIELD_* or MANIFEST_MISMATCH.
        """
        self._check_path(entry)
        self._check_type(entry)
        data = delimited(entry)
        self._digest.update(data)
        self.count += 1
        self.total_bytes += entry.size
        return data

    def finish(self, sha256: bytes, count: int, total_bytes: int) -> None:
        """Compare the whole with what was promised.

        Raises:
            Refusal: MANIFEST_MISMATCH.
        """
        if (self.count, self.total_bytes) != (count, total_bytes):
            raise manifest_mismatch(
                f"the manifest has {self.count} entries of {self.total_bytes} bytes, "
                f"not {count} of {total_bytes}"
            )
        if self._digest.digest() != sha256:
            raise manifest_mismatch(
                f"the manifest's digest is {self._digest.hexdigest()}, not {sha256.hex()}"
            )

    def _check_path(self, entry: manifest_pb2.ManifestEntry) -> None:
        shown = entry.path[:200]
        if mistake := path_mistake(entry.path):
            raise path_invalid(f'path "{shown}" {mistake}', field="path")
        path = entry.path.encode()
        if path <= self._last:
            raise manifest_mismatch(f'"{shown}" is named twice, or not in byte order')
        self._last = path
        while self._above and not path.startswith(self._above[-1]):
            self._above.pop()
        for above in self._above:
            if path[len(above) : len(above) + 1] == b"/":
                raise path_invalid(f'"{shown}" lies below a file or link', field="path")
        if entry.type != _DIRECTORY:
            self._above.append(path)

    def _check_type(self, entry: manifest_pb2.ManifestEntry) -> None:
        shown = entry.path[:200]
        if entry.type not in {_FILE, _DIRECTORY, _SYMLINK}:
            raise invalid(f'"{shown}" is of type {entry.type}, which is not known', field="type")
        if entry.mode & ~MODE_MASK:
            raise invalid(f'"{shown}" has mode {entry.mode:o}; 777 is the most', field="mode")
        is_file, is_link = entry.type == _FILE, entry.type == _SYMLINK
        if len(entry.sha256) != (32 if is_file else 0) or (entry.size and not is_file):
            raise invalid(f'"{shown}": files, and only they, have a size and a digest')
        if is_link:
            if mistake := link_mistake(entry.path, entry.link_target):
                raise path_invalid(f'the target of link "{shown}" {mistake}', field="link_target")
        elif entry.link_target:
            raise invalid(f'"{shown}": only links have a target', field="link_target")


def read_delimited(chunks: Iterable[bytes]) -> Iterable[manifest_pb2.ManifestEntry]:
    """The entries of a stored manifest, read piece by piece.

    Raises:
        ValueError: It ends within an entry, or is not a manifest.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start = 0
        while (found := _frame(buffer, start)) is not None:
            begin, end = found
            yield manifest_pb2.ManifestEntry.FromString(bytes(buffer[begin:end]))
            start = end
        del buffer[:start]
    if buffer:
        raise ValueError("the manifest ends within an entry")


def _frame(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Where the entry at `start` begins and ends; None while it is not whole."""
    length = shift = 0
    for position in range(start, min(start + 5, len(buffer))):
        byte = buffer[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            end = position + 1 + length
            return (position + 1, end) if end <= len(buffer) else None
        shift += 7
    if len(buffer) - start >= 5:
        raise ValueError("the manifest has an entry of impossible length")
    return None
