"""ListFiles on hosts: a host tells what may match, the gate sorts, and keeps pages in a file.

So a list is made once, however many pages it has, and is the same on all of them.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gate_kit import Page, errors
from gate_kit.patterns import Matcher, Pattern, compile_pattern
from gate_kit.scratch import Scratch
from gate_kit.site_files import UNREADABLE, name_mistake, site_file, skip_reason
from gate_kit.ssh.remote_files import Reader, Record, RemoteFiles
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2

_PAGE_BYTES = 1 << 20
_KEPT_S = 3600.0
"""A page token works for so long."""
_KEPT = 200
_HEAD = struct.Struct(">BI")
_READ = 4
_SEARCH = 1


class Listings:
    """Lists that have further pages. Call `close` at the end."""

    def __init__(self) -> None:
        self._folder = Scratch("lists")
        self._kept: collections.OrderedDict[str, float] = collections.OrderedDict()

    def close(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._folder.close()

    def first(self, matches: Matches, page: Page) -> file_pb2.ListFilesResponse:
        """The first page of a list. Blocks on the disk."""
        self._forget()
        name = secrets.token_hex(8)
        path = self._folder.path / name
        with path.open("xb") as file:
            for kind, data in matches.sorted():
                file.write(_HEAD.pack(kind, len(data)) + data)
        answer = self._page(name, path, 0, page)
        answer.unmatched_patterns.extend(matches.unmatched())
        if answer.next_page_token:
            self._kept[name] = time.monotonic()
        else:
            path.unlink()
        return answer

    def next(self, page: Page) -> file_pb2.ListFilesResponse:
        """A further page. Blocks on the disk.

        Raises:
            Refusal: PAGE_TOKEN_INVALID for a list that is not kept any more.
        """
        name, _, offset = page.after.partition(" ")
        path = self._folder.path / name
        if name not in self._kept:
            raise errors.invalid(
                "page_token is too old; list from the beginning",
                field="page_token",
                reason="PAGE_TOKEN_INVALID",
            )
        return self._page(name, path, int(offset), page)

    def _page(self, name: str, path: Path, offset: int, page: Page) -> file_pb2.ListFilesResponse:
        answer = file_pb2.ListFilesResponse()
        room = _PAGE_BYTES
        with path.open("rb") as file:
            file.seek(offset)
            while head := file.read(_HEAD.size):
                if len(answer.files) + len(answer.skipped) >= page.size or room <= 0:
                    position = file.tell() - _HEAD.size
                    answer.next_page_token = page.token(f"{name} {position}")
                    break
                kind, size = _HEAD.unpack(head)
                data = file.read(size)
                if kind == _FILE:
                    answer.files.add().ParseFromString(data)
                else:
                    answer.skipped.add().ParseFromString(data)
                room -= size
        return answer

    def _forget(self) -> None:
        oldest = time.monotonic() - _KEPT_S
        while self._kept:
            name, made = next(iter(self._kept.items()))
            if made > oldest and len(self._kept) < _KEPT:
                return
            del self._kept[name]
            (self._folder.path / name).unlink(missing_ok=True)


_FILE, _SKIPPED = 0, 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Folder:
    """Where the patterns stand in a folder; `taken` if all that is in it is matched."""

    matcher: Matcher
    taken: bool


class Matches:
    """What of the records of a host is matched.

    Args:
        patterns: As they were given.
        reader: Who reads on the host.

    Raises:
        Refusal: PATH_INVALID.
    """

    def __init__(self, patterns: Sequence[str], reader: Reader | None = None) -> None:
        self.reader = reader
        self._texts = patterns
        self._compiled = [compile_pattern(pattern) for pattern in patterns]
        top = Matcher(self._compiled)
        self._seen = set(top.matched)
        self._folders: dict[str, _Folder | None] = {"": _Folder(top, bool(top.matched))}
        self._found: dict[tuple[bytes, int], bytes] = {}

    def globs(self) -> list[str]:
        """What the host has to look at: at least what is matched."""
        globs = {_widened(pattern) for pattern in self._compiled}
        return ["."] if "." in globs else sorted(globs)

    def add(self, records: Iterable[Record]) -> None:
        """Take what the host has told."""
        for record in records:
            if record.path:
                self._add(record)

    def sorted(self) -> Iterator[tuple[int, bytes]]:
        """What is matched, in byte order of paths."""
        for key in sorted(self._found):
            yield key[1], self._found[key]

    def unmatched(self) -> Iterator[str]:
        """The patterns that have matched nothing."""
        return (text for index, text in enumerate(self._texts) if index not in self._seen)

    def _add(self, record: Record) -> None:
        above, _, name = record.path.rpartition("/")
        folder = self._folder(above)
        if folder is None:
            return
        inner = folder.matcher.enter(name)
        self._seen |= inner.matched
        if not folder.taken and not inner.matched:
            return
        assert self.reader is not None  # noqa: S101 - for the type only
        raw = os.fsencode(record.path)
        is_readable = self.reader.may(record, _READ)
        reason = skip_reason(
            record.path, record.mode, is_readable=is_readable, link_target=record.link_target
        )
        if reason:
            self._skip(raw, reason)
            return
        file = site_file(
            record.path,
            record.mode,
            size=record.size,
            modify_ns=record.modify_ns,
            link_target=record.link_target or "",
        )
        self._found[raw, _FILE] = file.SerializeToString()
        if stat.S_ISDIR(record.mode) and not self.reader.may(record, _READ | _SEARCH):
            self._skip(raw, UNREADABLE)

    def _skip(self, raw: bytes, reason: str) -> None:
        skipped = manifest_pb2.SkippedFile(path=raw.decode(errors="replace"), reason=reason)
        self._found[raw, _SKIPPED] = skipped.SerializeToString()

    def _folder(self, path: str) -> _Folder | None:
        """Where the patterns stand in a folder; None if what is in it can't be named."""
        if path in self._folders:
            return self._folders[path]
        above, _, name = path.rpartition("/")
        outer = self._folder(above)
        found = None
        if outer is not None and not name_mistake(path):
            inner = outer.matcher.enter(name)
            found = _Folder(inner, outer.taken or bool(inner.matched))
        self._folders[path] = found
        return found


async def matches(files: RemoteFiles, patterns: Sequence[str]) -> Matches:
    """What `patterns` match in a work folder.

    Raises:
        Refusal: PATH_INVALID; NODE_UNREACHABLE.
    """
    found = Matches(patterns, files.reader)
    async for records in files.walk(found.globs()):
        await asyncio.to_thread(found.add, records)
    return found


def _widened(pattern: Pattern) -> str:
    """A pattern of nothing but letters and stars for all that is matched, and maybe more."""
    text = pattern.text.rstrip("/")
    while text.startswith("./"):
        text = text[2:]
    parts = []
    for part in text.split("/"):
        if part == "**":
            parts.append(part)
            break
        # What a set stands for, and how long a letter is, are not judged there.
        literal, is_set, _ = part.partition("[")
        parts.append(literal.replace("?", "*").replace("\\", "*") + ("*" if is_set else ""))
    return "/".join(parts)
