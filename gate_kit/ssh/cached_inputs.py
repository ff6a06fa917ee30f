"""The inputs of one attempt on its way into caches of accounts on hosts, and from there to the job.

All hosts get the same: the contents that one of them lacks, in archives if they are small and piece
by piece if they are large, then archives that make the tree of names out of them. scripts/put.sh is
the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any

from gate_kit import errors
from gate_kit.put_files import Arrived, Lack, entries_of
from gate_kit.ssh.answers import HostRefused
from gate_kit.ssh.conversation import Conversation, together
from gate_kit.ssh.host import Host
from gate_kit.ssh.tree_archive import BLOCK, Archive, Content, Contents, folder, tree
from skyport.gate.v1 import file_pb2

_SMALL_BYTES = 1 << 20
"""Contents up to this size travel in archives; a broken link costs the whole of one."""
_FLUSH_BYTES = 4 << 20
_THREAD_BYTES = 1 << 18
"""Hashing less than this takes less time than handing it to a thread."""
_ASKED_AT_ONCE = 10_000
_MOST_NAMES = 30_000
"""A file with more names than this in other trees is copied instead of getting further ones."""


@dataclasses.dataclass(eq=False, slots=True)
class _Lane:
    """One host on which the tree has to grow."""

    host: Host
    script: Conversation
    staged: Sequence[str]
    """What it told of itself at first."""
    sources: dict[bytes, str] = dataclasses.field(default_factory=dict)
    """Where its cache has contents: a folder, with a `+` before it if they take no more names."""
    parts: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Bytes that have come of others."""
    found: list[str] = dataclasses.field(default_factory=list)
    """Names in b/ of what came out of its cache, to be verified."""


@dataclasses.dataclass(slots=True)
class _Large:
    """A content of many pieces that is arriving."""

    sha256: bytes
    content: Content
    block: int
    """Where in the content what waits begins, in blocks."""
    digest: Any
    """Of all that has come; None if it did not begin at the beginning."""
    waiting: bytearray = dataclasses.field(default_factory=bytearray)


class CachedInputs:
    """Grows the tree of one manifest on hosts that lack it. Close it."""

    def __init__(self) -> None:
        self._name = ""
        self._scripts: dict[Host, Conversation] = {}
        self._has_tree: set[Host] = set()
        self._lanes: list[_Lane] = []
        self._contents = Contents(())
        self._archive = Archive()
        self._archive_counts = (0, 0)
        self._small: dict[bytes, list[bytes]] = {}
        self._large: _Large | None = None
        self._is_grown = False

    async def look(
        self, manifest: Path, hosts: Mapping[Host, Sequence[str]]
    ) -> Mapping[bytes, Lack]:
        """What has to come, in the order in which it is wanted.

        Args:
            manifest: The manifest, whole and checked.
            hosts: With the arguments of put.sh for each.

        Raises:
            HostRefused, Refusal: A host refused something, or can't be reached.
        """
        told = await together(self._begin(host, words) for host, words in hosts.items())
        for (host, words), lines in zip(hosts.items(), told, strict=True):
            self._name = words[1]
            if "tree" in lines:
                self._has_tree.add(host)
            else:
                self._lanes.append(_Lane(host, self._scripts[host], staged=lines))
        if not self._lanes:
            self._is_grown = True
            return {}
        self._contents = await asyncio.to_thread(lambda: Contents(entries_of(manifest)))
        await together(self._find(lane) for lane in self._lanes)
        return await self._lacking()

    async def _begin(self, host: Host, words: Sequence[str]) -> list[str]:
        script = self._scripts[host] = await Conversation.begin(host, "put", *words)
        return await script.ask("open")

    async def take(self, pieces: Sequence[file_pb2.FilePiece], arrived: Arrived) -> None:
        """Pass pieces on to the hosts.

        Raises:
            HostRefused, Refusal: As `look`; DIGEST_MISMATCH.
        """
        for piece in pieces:
            content = self._contents.all[piece.sha256]
            if content.size <= _SMALL_BYTES:
                await self._take_small(piece, content, arrived)
            else:
                await self._take_large(piece, content, arrived)

    async def grow(self, manifest: Path) -> None:
        """Make the tree out of the contents, once all are there.

        Raises:
            HostRefused, Refusal: As `look`.
        """
        if self._is_grown:
            return
        await self._send_archive(Arrived())
        for (source, target, mode), digests in self._contents.copies().items():
            for data in _lists(digests):
                line = f"copy in/{self._name}/b/{source} {target} {mode:o} {len(data)}"
                await self._post(line, data)
        archives = tree(entries_of(manifest))
        while (archive := await asyncio.to_thread(next, archives, None)) is not None:
            blocks, data = archive
            await self._post(f"tar {blocks}", data)
        await together(lane.script.ask("tree") for lane in self._lanes)
        self._is_grown = True

    async def copy(self, *hosts: Host) -> None:
        """Copy the tree to where the work folder grows, verified: on `hosts`, or on all.

        Raises:
            HostRefused, Refusal: As `look`; DIGEST_MISMATCH for what was not kept well.
        """
        await together(self._copy(host) for host in hosts or self._scripts)

    async def appear(self) -> None:
        """Have what has grown be the work folder, durably. Comes last, after `copy`.

        Raises:
            HostRefused, Refusal: As `look`; JOB_STARTED and JOB_CANCELLED.
        """
        await together(script.ask("\nappear") for script in self._scripts.values())

    async def _copy(self, host: Host) -> None:
        script = self._scripts[host]
        if host in self._has_tree:
            await script.ask("work all 0")
            return
        (lane,) = (lane for lane in self._lanes if lane.host is host)
        data = "".join(f"{name}\n" for name in lane.found).encode()
        await script.ask(
            f"work {'some' if data else 'none'} {len(data)}", *([data] if data else [])
        )

    async def close(self) -> None:
        """Let go of the hosts. What has come stays."""
        await asyncio.gather(*(script.close() for script in self._scripts.values()))

    # What is there.

    async def _find(self, lane: _Lane) -> None:
        """Find out what a host has."""
        modes = False
        for line in lane.staged:
            kind, _, rest = line.partition(" ")
            if kind == "mode":
                modes = True
                continue
            size, _, path = rest.partition(" ")
            place, _, name = path.rpartition("/")
            try:
                sha256 = bytes.fromhex(name)
            except ValueError:
                continue  # a network file system has names of its own for what is still open
            content = self._contents.all.get(sha256)
            if content is None:
                continue
            if kind == "part":
                # From the beginning of a block, and never from the end: a last piece has to come.
                whole = min(int(size), content.size - 1)
                lane.parts[sha256] = whole // BLOCK * BLOCK
            elif int(size) == content.size and place == f"b/{folder(content.mode)}":
                lane.sources[sha256] = ""
        if not modes:
            return
        digests = [digest for digest in self._contents.all if digest not in lane.sources]
        for data in _lists(digests):
            for line in await lane.script.ask(f"find {len(data)}", data):
                self._note_found(lane, line)

    def _note_found(self, lane: _Lane, line: str) -> None:
        _, size, names, path = line.split(" ")
        mode, _, name = path.partition("/")
        sha256 = bytes.fromhex(name)
        content = self._contents.all[sha256]
        if int(size) != content.size:
            return
        wanted = folder(content.mode)
        is_full = int(names) + content.count > _MOST_NAMES
        if sha256 not in lane.sources or (mode == wanted and not is_full):
            lane.sources[sha256] = f"+{mode}" if is_full else mode

    async def _lacking(self) -> dict[bytes, Lack]:
        small: dict[bytes, Lack] = {}
        large: dict[bytes, Lack] = {}
        for sha256, content in self._contents.all.items():
            lacking = [lane for lane in self._lanes if sha256 not in lane.sources]
            if not content.size:
                self._archive.add_content(sha256, content.mode, b"")
            elif lacking and content.size <= _SMALL_BYTES:
                small[sha256] = Lack(content.size)
            elif lacking:
                offset = min(lane.parts.get(sha256, 0) for lane in lacking)
                large[sha256] = Lack(content.size, offset)
        for lane in self._lanes:
            await self._use_found(lane, small)
        # Small ones first: what lacks after a break is then little.
        return small | large

    async def _use_found(self, lane: _Lane, coming: Mapping[bytes, Lack]) -> None:
        """Take what a cache has, but for what comes to all."""
        groups: dict[tuple[str, int], list[bytes]] = {}
        for sha256, source in lane.sources.items():
            content = self._contents.all[sha256]
            if sha256 in coming or not content.size:
                continue
            lane.found.append(f"{folder(content.mode)}/{sha256.hex()}")
            if source:
                groups.setdefault((source, content.mode), []).append(sha256)
        for (source, mode), digests in groups.items():
            target = folder(mode)
            for data in _lists(digests):
                if source == target:
                    await lane.script.post(f"link whole/{source} {target} {len(data)}", data)
                else:
                    place = source.removeprefix("+")
                    line = f"copy whole/{place} {target} {mode:o} {len(data)}"
                    await lane.script.post(line, data)

    # What comes.

    async def _take_small(
        self, piece: file_pb2.FilePiece, content: Content, arrived: Arrived
    ) -> None:
        data = piece.data
        if not piece.last:
            self._small.setdefault(piece.sha256, []).append(data)
            return
        if piece.offset:
            data = b"".join([*self._small.pop(piece.sha256, ()), data])
        if hashlib.sha256(data).digest() != piece.sha256:
            raise _mismatch(piece.sha256)
        self._archive.add_content(piece.sha256, content.mode, data)
        count, files = self._archive_counts
        self._archive_counts = (count + len(data), files + 1)
        if self._archive.is_full:
            await self._send_archive(arrived)

    async def _send_archive(self, arrived: Arrived) -> None:
        if self._archive.is_empty:
            return
        counts, self._archive_counts = self._archive_counts, (0, 0)
        blocks, data = self._archive.take()
        await self._post(f"tar {blocks}", data, then=lambda: arrived.add(*counts))

    async def _take_large(
        self, piece: file_pb2.FilePiece, content: Content, arrived: Arrived
    ) -> None:
        large = self._large
        if large is None or large.sha256 != piece.sha256:
            digest = None if piece.offset else hashlib.sha256()
            block = piece.offset // BLOCK
            large = self._large = _Large(piece.sha256, content, block, digest)
        if large.digest is not None:
            if len(piece.data) >= _THREAD_BYTES:
                await asyncio.to_thread(large.digest.update, piece.data)
            else:
                large.digest.update(piece.data)
        large.waiting += piece.data
        if piece.last:
            self._large = None
            await self._finish(large, arrived)
        elif len(large.waiting) >= _FLUSH_BYTES:
            await self._flush(large, arrived, len(large.waiting) // BLOCK)

    async def _flush(self, large: _Large, arrived: Arrived, blocks: int, rest: int = 0) -> None:
        size = blocks * BLOCK + rest
        with memoryview(large.waiting) as waiting:
            data = bytes(waiting[:size])
        del large.waiting[:size]
        line = f"part {large.sha256.hex()} {large.block} {blocks} {rest}"
        large.block += blocks
        lanes = [lane for lane in self._lanes if large.sha256 not in lane.sources]
        await self._post(line, data, then=lambda: arrived.add(size), lanes=lanes)

    async def _finish(self, large: _Large, arrived: Arrived) -> None:
        name = large.sha256.hex()
        lanes = [lane for lane in self._lanes if large.sha256 not in lane.sources]
        if large.digest is not None and large.digest.digest() != large.sha256:
            await self._post(f"drop {name}", lanes=lanes)
            raise _mismatch(large.sha256)
        await self._flush(large, arrived, *divmod(len(large.waiting), BLOCK))
        verify = "verify" if large.digest is None else "sure"
        line = f"whole {name} {large.content.mode:o} {verify}"
        await self._post(line, then=lambda: arrived.add(0, 1), lanes=lanes)

    async def _post(
        self,
        line: str,
        data: bytes = b"",
        *,
        then: Callable[[], None] | None = None,
        lanes: Sequence[_Lane] | None = None,
    ) -> None:
        """Send a request to hosts, the same to all; `then` is called when all have done it."""
        chosen = self._lanes if lanes is None else lanes
        parts = (data,) if data else ()
        futures = await together(lane.script.post(line, *parts) for lane in chosen)
        left = len(futures)

        def done(future: asyncio.Future[list[str]]) -> None:
            nonlocal left
            if not future.cancelled() and future.exception() is None:
                left -= 1
                if not left and then is not None:
                    then()

        for future in futures:
            future.add_done_callback(done)


@contextlib.asynccontextmanager
async def mismatches() -> AsyncIterator[None]:
    """Tell a content that a host has not kept well as the contract has it.

    Raises:
        Refusal: DIGEST_MISMATCH, instead of `HostRefused`.
    """
    try:
        yield
    except HostRefused as error:
        if error.reason != "DIGEST_MISMATCH":
            raise
        try:
            sha256 = bytes.fromhex(error.text)
        except ValueError:
            sha256 = b""
        raise _mismatch(sha256) from error


def _lists(digests: Sequence[bytes]) -> Iterator[bytes]:
    """Digests as scripts take them, not too many at once."""
    for start in range(0, len(digests), _ASKED_AT_ONCE):
        chosen = digests[start : start + _ASKED_AT_ONCE]
        yield "".join(f"{digest.hex()}\n" for digest in chosen).encode()


def _mismatch(sha256: bytes) -> errors.Refusal:
    text = f"what there is of content {sha256.hex()} is another; send it again"
    return errors.digest_mismatch(text, sha256)
