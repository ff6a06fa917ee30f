"""Reads the inputs once: size, digest, and the manifest that names them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from skyport.common.v1 import manifest_pb2
from terminals.client.errors import InputChanged, InputsInvalid
from terminals.client.inputs import Input, Kind, Selection
from terminals.client.progress import Progress, Report, silent

_READ_BYTES = 1 << 20
_BATCH_FILES = 64
_TYPES = {
    Kind.FILE: manifest_pb2.FILE_TYPE_FILE,
    Kind.FOLDER: manifest_pb2.FILE_TYPE_DIRECTORY,
    Kind.LINK: manifest_pb2.FILE_TYPE_SYMLINK,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """Some bytes with their digest: a file as it was when it was read, or `data` itself."""

    sha256: bytes
    size: int
    path: str = ""
    modified_ns: int = 0
    data: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a selection, and what it names."""

    data: bytes
    """As it is stored: each entry after its length as a varint."""
    sha256: bytes
    contents: tuple[Content, ...]
    """One for each file, in the order of their names."""


def read_manifest(selection: Selection, report: Report = silent) -> Manifest:
    """Read all files of a selection, several at once, and make their manifest.

    Memory does not grow with their sizes.

    Raises:
        InputsInvalid: Files can't be read.
        InputChanged: One is being written to.
    """
    files = [entry for entry in selection.inputs if entry.kind is Kind.FILE]
    contents = _Reading(files, report).run()
    digests = dict(zip((entry.name for entry in files), contents, strict=True))
    data = encode(_entry(entry, digests.get(entry.name)) for entry in selection.inputs)
    return Manifest(data, hashlib.sha256(data).digest(), tuple(contents))


def encode(entries: Iterable[manifest_pb2.ManifestEntry]) -> bytes:
    """The file that a manifest is: each entry after its length as a varint."""
    out = bytearray()
    for entry in entries:
        data = entry.SerializeToString(deterministic=True)
        length = len(data)
        while length > 0x7F:
            out.append(length & 0x7F | 0x80)
            length >>= 7
        out.append(length)
        out += data
    return bytes(out)


def _entry(entry: Input, content: Content | None) -> manifest_pb2.ManifestEntry:
    return manifest_pb2.ManifestEntry(
        path=entry.name,
        type=_TYPES[entry.kind],
        size=content.size if content else 0,
        mode=entry.mode,
        sha256=content.sha256 if content else b"",
        link_target=entry.link_target,
    )


class _Reading:
    """Hashes files in threads: hashing lets other threads run, and disks like several readers."""

    def __init__(self, files: Sequence[Input], report: Report) -> None:
        self._files = files
        self._report = report
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._done_files = 0
        self._total_bytes = sum(entry.size for entry in files)
        self._problems: list[str] = []
        self._stop = threading.Event()

    def run(self) -> list[Content]:
        batches = _batches(self._files)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "hash") as pool:
            try:
                found = [content for batch in pool.map(self._batch, batches) for content in batch]
            except BaseException:
                self._stop.set()
                raise
        if self._problems:
            raise InputsInvalid(self._problems)
        return found

    def _batch(self, files: Sequence[Input]) -> list[Content]:
        buffer = memoryview(bytearray(min(_READ_BYTES, max(entry.size for entry in files) + 1)))
        found = []
        for entry in files:
            if self._stop.is_set():
                break
            try:
                found.append(self._content(entry, buffer))
            except OSError as error:
                with self._lock:
                    self._problems.append(f"{entry.source}: can't be read: {error.strerror}")
        self._tell(0, len(files))
        return found

    def _content(self, entry: Input, buffer: memoryview) -> Content:
        with open_input(entry.source) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise InputChanged(f"{entry.source} was replaced by something that is no file")
            digest = hashlib.sha256()
            size = 0
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                size += count
                if size > before.st_size or self._stop.is_set():
                    break
                if count == _READ_BYTES:
                    self._tell(count, 0)
            after = os.fstat(file.fileno())
        if size != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
            if self._stop.is_set():
                raise InputChanged("stopped")  # nobody sees it: another error was first
            raise changed(entry.source)
        self._tell(size % _READ_BYTES, 0)
        return Content(digest.digest(), size, entry.source, before.st_mtime_ns)

    def _tell(self, more_bytes: int, more_files: int) -> None:
        with self._lock:
            self._done_bytes += more_bytes
            self._done_files += more_files
            if more_files or more_bytes == _READ_BYTES:
                self._report(
                    Progress(
                        "reading",
                        self._done_bytes,
                        self._total_bytes,
                        self._done_files,
                        len(self._files),
                    )
                )


def open_input(path: str) -> io.FileIO:
    """The file at `path`, to be read; a pipe that took its place does not block."""
    return io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def changed(path: str) -> InputChanged:
    """The error for a file that is not what it was when it was read."""
    return InputChanged(
        f"{path} changed while it was read or sent; submit again when nothing writes to it"
    )


def _batches(files: Sequence[Input]) -> list[list[Input]]:
    """Small files together, so that a thread has something to do; a large one alone."""
    batches: list[list[Input]] = []
    room_files = room_bytes = 0
    for entry in files:
        if room_files == 0 or entry.size > room_bytes:
            batches.append([])
            room_files, room_bytes = _BATCH_FILES, 4 * _READ_BYTES
        batches[-1].append(entry)
        room_files -= 1
        room_bytes -= entry.size
    return batches
