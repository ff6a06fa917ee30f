"""Inputs in a work folder of the user's own, which may hold files of theirs.

What is made there is noted before it is made, so that a removal takes nothing else away. Nothing of
the user's is written over, and nothing is written through a link. The other end is named.sh.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path

from gate_kit import errors
from gate_kit.manifest import permission_bits
from gate_kit.put_files import entries_of
from gate_kit.ssh.conversation import Conversation
from gate_kit.ssh.host import Host
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.tree_archive import kept_mode
from skyport.common.v1 import manifest_pb2

_FILE = manifest_pb2.FILE_TYPE_FILE
_DIRECTORY = manifest_pb2.FILE_TYPE_DIRECTORY
_SYMLINK = manifest_pb2.FILE_TYPE_SYMLINK
_LIST_BYTES = 1 << 20
_MOVE_BYTES = 20_000
"""With a folder before them, they have to fit on one command line anywhere."""
_CODE = re.compile(r"\\0(134|012)")


@dataclasses.dataclass(slots=True)
class _Entry:
    """Something that belongs into the work folder."""

    path: str
    type: int
    mode: int
    odd: bool
    """Whether it gets its mode only when it is in its place."""
    comes: bool = False
    """Whether it is made, alone or with the folder that it is in."""


async def place(
    host: Host, words: Sequence[str], manifest: Path, copy: Callable[[], Awaitable[None]]
) -> None:
    """Put a tree that the cache has into a named work folder.

    Args:
        host: Where.
        words: The arguments of the scripts.
        manifest: The manifest.
        copy: Makes the verified draft, beside the place of each file.

    Raises:
        Refusal: FILE_DIFFERS; as `Conversation`.
        HostRefused: JOB_STARTED, JOB_CANCELLED; what `copy` raises.
    """
    script = await Conversation.begin(host, "named", *words)
    try:
        await _Placing(script, words[1], words[4].rstrip("/")).place(manifest, copy)
    finally:
        await script.close()


async def take_back(host: Host, key: AttemptKey) -> None:
    """Remove what was put into a work folder of the user's own; the rest there stays.

    Args:
        host: Where.
        key: Whose.

    Raises:
        Refusal: As `Conversation`.
    """
    name = key.path.replace("/", ",")
    script = await Conversation.begin(host, "named", key.path, name, "", "", "")
    try:
        await script.ask("take_back")
    finally:
        await script.close()


class _Placing:
    def __init__(self, script: Conversation, name: str, workdir: str) -> None:
        self._script = script
        self._name = name
        self._workdir = workdir
        self._own: set[str] = set()
        self._others: set[str] = set()

    async def place(self, manifest: Path, copy: Callable[[], Awaitable[None]]) -> None:
        for line in await self._script.ask("open"):
            kind, _, path = line.partition(" ")
            (self._own if kind == "own" else self._others).add(_decoded(path))
        await self._make_workdir()
        entries = await asyncio.to_thread(lambda: _entries(manifest))
        moved = await self._judge(entries)
        await self._note([*(entry.path for entry in _noted(entries))], f".swm-{self._name}")
        await copy()
        await self._move(moved)
        await self._set_modes(entries)
        await self._script.ask("done")

    async def _make_workdir(self) -> None:
        """Make the work folder and those above it, as far as they lack."""
        parts = self._workdir.split("/")
        chain = ["/".join(parts[:count]) for count in range(2, len(parts) + 1)]
        missing: list[str] = []
        for path, letter in reversed(list(zip(chain, await self._see("/", chain), strict=True))):
            if letter == "d":
                if path not in self._own | self._others:
                    break
                missing += [] if path in self._own else [path]  # the last attempt takes it back
            elif letter == "n":
                missing.append(path)
            else:
                raise errors.file_differs(path)
        made = [path for path in missing if path not in self._others]
        if missing:
            data = _listed(missing)
            await self._script.ask(f"note {len(data)}", data)
        if made:
            data = _listed(reversed(made))
            await self._script.ask(f"mkdir {len(data)}", data)

    async def _judge(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Say of each entry whether it comes; returns what has to be moved for that.

        Raises:
            Refusal: FILE_DIFFERS.
        """
        letters = await self._see(".", [f"./{entry.path}" for entry in entries])
        whole: set[str] = set()
        """Folders that come with all that is in them."""
        moved: list[_Entry] = []
        compared: list[_Entry] = []
        for entry, letter in zip(entries, letters, strict=True):
            above = entry.path.rpartition("/")[0]
            full = f"{self._workdir}/{entry.path}"
            is_ours = full in self._own or full in self._others
            if above in whole:
                entry.comes = True
                if entry.type == _DIRECTORY:
                    whole.add(entry.path)
            elif letter == "n":
                entry.comes = True
                moved.append(entry)
                if entry.type == _DIRECTORY:
                    whole.add(entry.path)
            elif entry.type == _DIRECTORY:
                if letter != "d":
                    raise errors.file_differs(full)
                entry.comes = is_ours
            elif letter in "do":
                raise errors.file_differs(full)
            elif is_ours:
                entry.comes = True
                moved.append(entry)
            elif letter == ("f" if entry.type == _FILE else "l"):
                compared.append(entry)
            else:
                raise errors.file_differs(full)
        paths = [f"./{entry.path}" for entry in compared]
        for entry, answer in zip(compared, await self._ask_each("same", paths), strict=True):
            if answer != "y":
                raise errors.file_differs(f"{self._workdir}/{entry.path}")
        return moved

    async def _note(self, paths: Iterable[str], *more: str) -> None:
        full = [f"{self._workdir}/{path}" for path in (*more, *paths)]
        new = [path for path in full if path not in self._own]
        for chunk in _chunks(new, _LIST_BYTES):
            data = _listed(chunk)
            await self._script.ask(f"note {len(data)}", data)

    async def _move(self, moved: Sequence[_Entry]) -> None:
        """Give what has been made its place, by folders."""
        split = [entry.path.rpartition("/") for entry in moved]
        for above, same in itertools.groupby(sorted(split), key=lambda parts: parts[0]):
            for names in _chunks([f"./{name}" for _, _, name in same], _MOVE_BYTES):
                data = _listed([f"./{above}" if above else ".", *names])
                await self._script.post(f"move {len(data)}", data)

    async def _set_modes(self, entries: Sequence[_Entry]) -> None:
        odd = [entry for entry in entries if entry.comes and entry.odd]
        files = [entry for entry in odd if entry.type == _FILE]
        folders = [entry for entry in odd if entry.type == _DIRECTORY]
        # From below: a folder may let nobody into it.
        ordered = [*files, *reversed(folders)]
        for mode, same in itertools.groupby(ordered, key=lambda entry: entry.mode):
            for chunk in _chunks([f"./{entry.path}" for entry in same], _LIST_BYTES):
                data = _listed(chunk)
                await self._script.post(f"chmod {mode:o} {len(data)}", data)

    async def _see(self, top: str, paths: Sequence[str]) -> list[str]:
        return await self._ask_each(f"see {top}", paths)

    async def _ask_each(self, request: str, paths: Sequence[str]) -> list[str]:
        """An answer for each path."""
        answers: list[str] = []
        for chunk in _chunks(paths, _LIST_BYTES):
            data = _listed(chunk)
            answers += await self._script.ask(f"{request} {len(data)}", data)
        return answers


def _entries(manifest: Path) -> list[_Entry]:
    """What a manifest names, with the folders that it implies, each after the one it is in."""
    found: list[_Entry] = []
    seen = {""}
    for entry in entries_of(manifest):
        above = entry.path.rpartition("/")[0]
        missing = []
        while above not in seen:
            seen.add(above)
            missing.append(_Entry(above, _DIRECTORY, 0o755, odd=False))
            above = above.rpartition("/")[0]
        found += reversed(missing)
        if entry.type == _DIRECTORY:
            seen.add(entry.path)
        mode = permission_bits(entry)
        odd = entry.type != _SYMLINK and mode != kept_mode(entry)
        found.append(_Entry(entry.path, entry.type, mode, odd))
    return found


def _noted(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """What is to be taken back, in that order: files, then folders from below."""
    yield from (entry for entry in entries if entry.comes and entry.type != _DIRECTORY)
    yield from (entry for entry in reversed(entries) if entry.comes and entry.type == _DIRECTORY)


def _chunks(paths: Sequence[str], most: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for path in paths:
        chunk.append(path)
        size += len(path.encode(errors="surrogateescape")) + 1
        if size >= most:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _listed(paths: Iterable[str]) -> bytes:
    """Paths as scripts take them. They take no empty list."""
    return b"".join(path.encode(errors="surrogateescape") + b"\0" for path in paths)


def _decoded(path: str) -> str:
    return _CODE.sub(lambda code: "\\" if code[1] == "134" else "\n", path[:-1])
