"""A manifest as archives that make its tree out of contents that lie beside it. Pure.

b/MODE/HEX       a content; b/MODE.N/HEX are further files of it, since a file takes only so many
                 names
t/PATH           the tree: folders, and names of those files
l/PATH           its links. They lie apart since busybox, unless it follows links, copies several
                 names of a file as several names of its copy
odd/N.MODE       paths, each ended by NUL, that get that mode once the tree has been copied: with it
                 they could not be copied. In this order: a folder may let nobody into it
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from gate_kit.manifest import permission_bits
from gate_kit.ssh import tar_entries
from skyport.common.v1 import manifest_pb2

BLOCK = 1 << 16
"""Archives are sent in blocks of so many bytes."""

_FILE = manifest_pb2.FILE_TYPE_FILE
_DIRECTORY = manifest_pb2.FILE_TYPE_DIRECTORY
_NAMES = 10_000
"""So many names a file gets: ext4 takes 65,000, and other trees share it."""
_ARCHIVE_BYTES = 2 << 20
_LIST_BYTES = 1 << 20
_IMPLIED_MODE = 0o755


@dataclasses.dataclass(slots=True)
class Content:
    """A content of a manifest: its size, the mode of its first file, and how many have that."""

    size: int
    mode: int
    count: int = 1


class Contents:
    """All contents of a manifest, in its order.

    Args:
        entries: The manifest.
    """

    def __init__(self, entries: Iterable[manifest_pb2.ManifestEntry]) -> None:
        self.all: dict[bytes, Content] = {}
        self.further: dict[tuple[bytes, int], int] = {}
        """Of contents that files of several modes have: the other modes, and how many have them."""
        for entry in entries:
            if entry.type != _FILE:
                continue
            mode = kept_mode(entry)
            content = self.all.setdefault(entry.sha256, Content(entry.size, mode, 0))
            if content.mode == mode:
                content.count += 1
            else:
                key = (entry.sha256, mode)
                self.further[key] = self.further.get(key, 0) + 1

    def copies(self) -> dict[tuple[str, str, int], list[bytes]]:
        """What has to be copied beside b/MODE of the first mode.

        Returns:
            For each (folder to copy from, folder to copy to, mode): digests.
        """
        found: dict[tuple[str, str, int], list[bytes]] = {}
        many = (
            (digest, content.mode, content.count)
            for digest, content in self.all.items()
            if content.count > _NAMES
        )
        others = ((digest, mode, count) for (digest, mode), count in self.further.items())
        for digest, mode, count in itertools.chain(many, others):
            first = self.all[digest].mode
            for number in range(1 if mode == first else 0, -(-count // _NAMES)):
                key = (folder(first), folder(mode, number), mode)
                found.setdefault(key, []).append(digest)
        return found


def kept_mode(entry: manifest_pb2.ManifestEntry) -> int:
    """The mode with which a file or folder lies in the cache, where we have to read it."""
    return permission_bits(entry) | (0o700 if entry.type == _DIRECTORY else 0o400)


def folder(mode: int, number: int = 0) -> str:
    """The folder in b/ for files of a mode."""
    return f"{mode:o}.{number}" if number else f"{mode:o}"


class Archive:
    """Entries on their way into an archive."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_empty(self) -> bool:
        """Whether there are no entries."""
        return not self._parts

    @property
    def is_full(self) -> bool:
        """Whether it should be sent."""
        return self._size >= _ARCHIVE_BYTES

    def add(self, *parts: bytes) -> None:
        """Append parts of an entry."""
        self._parts += parts
        self._size += sum(map(len, parts))

    def add_file(self, name: bytes, mode: int, data: bytes) -> None:
        """Append a file."""
        header = tar_entries.entry(name, tar_entries.FILE, mode=mode, size=len(data))
        self.add(header, data, tar_entries.padding(len(data)))

    def add_content(self, sha256: bytes, mode: int, data: bytes) -> None:
        """Append a content."""
        self.add_file(f"b/{folder(mode)}/{sha256.hex()}".encode(), mode, data)

    def take(self) -> tuple[int, bytes]:
        """The archive so far, as a number of blocks and the blocks; it is empty afterwards."""
        self.add(tar_entries.END)
        self.add(bytes(-self._size % BLOCK))
        blocks, data = self._size // BLOCK, b"".join(self._parts)
        self._parts, self._size = [], 0
        return blocks, data


def tree(entries: Iterable[manifest_pb2.ManifestEntry]) -> Iterator[tuple[int, bytes]]:
    """The archives that make t/, l/ and odd/ once b/ is there: numbers of blocks, and blocks."""
    archive = Archive()
    names = _Names()
    odd_files: list[tuple[int, bytes]] = []
    odd_folders: list[tuple[int, bytes]] = []
    seen: set[bytes] = {b""}
    last = b""
    for entry in entries:
        path = entry.path.encode()
        above, _, _ = path.rpartition(b"/")
        if above != last:
            for parent in _missing(above, seen):
                archive.add(
                    tar_entries.entry(b"t/" + parent, tar_entries.FOLDER, mode=_IMPLIED_MODE)
                )
            last = above
        mode = permission_bits(entry)
        if entry.type == _DIRECTORY:
            seen.add(path)
            kept = kept_mode(entry)
            archive.add(tar_entries.entry(b"t/" + path, tar_entries.FOLDER, mode=kept))
            if kept != mode:
                odd_folders.append((mode, path))
        elif entry.type == _FILE:
            kept = kept_mode(entry)
            target = names.next(entry.sha256, kept)
            archive.add(tar_entries.entry(b"t/" + path, tar_entries.HARD_LINK, target=target))
            if kept != mode:
                odd_files.append((mode, path))
        else:
            target = entry.link_target.encode()
            archive.add(tar_entries.entry(b"l/" + path, tar_entries.SYMLINK, target=target))
        if archive.is_full:
            yield archive.take()
    for name, data in _lists([*odd_files, *reversed(odd_folders)]):
        archive.add_file(name, 0o600, data)
        if archive.is_full:
            yield archive.take()
    if not archive.is_empty:
        yield archive.take()


class _Names:
    """Which of the files of a content gets the next name."""

    def __init__(self) -> None:
        self._counts: dict[tuple[bytes, int], int] = {}

    def next(self, sha256: bytes, mode: int) -> bytes:
        key = (sha256, mode)
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        return f"b/{folder(mode, count // _NAMES)}/{sha256.hex()}".encode()


def _missing(path: bytes, seen: set[bytes]) -> list[bytes]:
    """The folders on the way to `path`, itself included, that were not seen before."""
    missing = []
    while path not in seen:
        seen.add(path)
        missing.append(path)
        path = path.rpartition(b"/")[0]
    return missing[::-1]


def _lists(odd: list[tuple[int, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    number = 0
    for mode, same in itertools.groupby(odd, key=lambda found: found[0]):
        paths: list[bytes] = []
        size = 0
        for _, path in same:
            paths.append(b"./%b\0" % path)
            size += len(path)
            if size >= _LIST_BYTES:
                yield b"odd/%08d.%o" % (number, mode), b"".join(paths)
                number, paths, size = number + 1, [], 0
        if paths:
            yield b"odd/%08d.%o" % (number, mode), b"".join(paths)
            number += 1
