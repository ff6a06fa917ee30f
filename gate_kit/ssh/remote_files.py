"""What scripts/files.sh tells of files on a host, and the bytes that it sends of them."""

from __future__ import annotations

import dataclasses
import re
import stat
import tarfile
from collections.abc import AsyncIterator, Sequence

from gate_kit import errors
from gate_kit.ssh.answers import refused
from gate_kit.ssh.host import Host
from gate_kit.ssh.transport import Process

_READ_BYTES = 1 << 18
_RECORD_BYTES = 1 << 20
_HELD_BYTES = 4 << 20
"""Of one file of an archive, which holds small ones."""
_BLOCK = tarfile.BLOCKSIZE
_KINDS = {
    b"f": stat.S_IFREG,
    b"d": stat.S_IFDIR,
    b"l": stat.S_IFLNK,
    b"p": stat.S_IFIFO,
    b"s": stat.S_IFSOCK,
    b"b": stat.S_IFBLK,
    b"c": stat.S_IFCHR,
}
_PAX_PATH = re.compile(rb"(?:^|\n)\d+ path=([^\n]*)\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A file as it is on a host; links are not followed."""

    path: str
    """Relative, with surrogates for bytes that are not UTF-8; empty for the work folder itself."""
    mode: int
    """With its kind."""
    size: int
    modify_ns: int
    owner: int
    group: int
    link_target: str | None = None
    """Of a link; None where it could not be read."""

    @property
    def version(self) -> tuple[int, int]:
        """What changes when the file does: its size, and its time in nanoseconds."""
        return self.size, self.modify_ns


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: what it may read follows from modes."""

    user: int
    groups: frozenset[int]

    def may(self, record: Record, bits: int) -> bool:
        """Whether all of `bits` (4: read, 2: write, 1: search) are given."""
        if self.user == 0:
            return True
        shift = 6 if record.owner == self.user else 3 if record.group in self.groups else 0
        return record.mode >> shift & bits == bits


class RemoteFiles:
    """The work folder of an attempt on a host. Close it; one request at a time.

    Args:
        node: The host's node.
        process: The script, which has said who it is.
        reader: Who it is.
        by_find: Whether it makes records by find.
    """

    def __init__(self, node: str, process: Process, reader: Reader, *, by_find: bool) -> None:
        self.reader = reader
        self._node = node
        self._process = process
        self._parse = _found if by_find else _told
        self._buffer = bytearray()

    @classmethod
    async def open(cls, host: Host, key: str, root_uid: str) -> RemoteFiles:
        """Begin.

        Args:
            host: Where.
            key: The path of the attempt's key.
            root_uid: The place that is known; may be empty.

        Raises:
            HostRefused: JOB_NOT_FOUND, SITE_CHANGED.
            Refusal: As `Host.run`.
        """
        process = await host.run("files", key, root_uid)
        try:
            said = (await process.stdout.readline()).decode(errors="replace").rstrip("\n")
            if said.startswith("!"):
                raise refused(host.node, said[1:])
            style, user, *groups = said.removeprefix("=").split()
            reader = Reader(int(user), frozenset(map(int, groups)))
            return cls(host.node, process, reader, by_find=style == "find")
        except (OSError, ValueError) as error:
            process.close()
            raise _lost(host.node, process, error) from error
        except BaseException:
            process.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        self._process.close()

    async def walk(self, globs: Sequence[str]) -> AsyncIterator[list[Record]]:
        """What `globs` match, and all below it: no pattern but `*` in them, and `**` at the end."""
        lines = [f"list {len(globs)}".encode(), *map(_word, globs)]
        await self._send(b"\n".join(lines) + b"\n")
        async for records in self._records():
            yield records

    async def look(self, paths: Sequence[str]) -> tuple[str, dict[str, Record]]:
        """What becomes of files, a letter each as in the script; and records by path."""
        data = _listed(paths)
        await self._send(b"look %d\n" % len(data) + data)
        letters = (await self._line()).decode(errors="replace")
        if len(letters) != len(paths):
            error = ValueError(f"it tells of {len(letters)} files and not of {len(paths)}")
            raise _lost(self._node, self._process, error)
        return letters, await self._all_records()

    async def small(
        self, paths: Sequence[str]
    ) -> tuple[dict[str, Record], dict[str, bytes], dict[str, Record]]:
        """Records of small files, their contents as far as they could be read, records again."""
        data = _listed(paths)
        await self._send(b"small %d\n" % len(data) + data)
        before = await self._all_records()
        contents = await self._archive()
        return before, contents, await self._all_records()

    async def large(self, path: str) -> Record | None:
        """Begin with one file: its record. `send` has to follow."""
        data = _raw(path)
        await self._send(b"large %d\n" % len(data) + data)
        return (await self._all_records()).get(path)

    async def send(self, offset: int, length: int) -> AsyncIterator[bytes]:
        """So many bytes of the file that `large` began with. `sent` has to follow."""
        await self._send(b"%d %d\n" % (offset, length))
        while length:
            if not self._buffer:
                await self._fill()
            part = bytes(self._buffer[:length])
            del self._buffer[:length]
            length -= len(part)
            yield part

    async def sent(self, path: str) -> tuple[bool, Record | None]:
        """Whether it could be read to the end, and its record afterwards."""
        status = await self._line()
        # 141: it was longer than what was asked for.
        return status in {b"=0", b"=141"}, (await self._all_records()).get(path)

    # The stream.

    async def _send(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except OSError as error:
            raise _lost(self._node, self._process, error) from error

    async def _fill(self) -> None:
        try:
            data = await self._process.stdout.read(_READ_BYTES)
        except OSError as error:
            raise _lost(self._node, self._process, error) from error
        if not data:
            raise _lost(self._node, self._process, None)
        self._buffer += data

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _drop(self, size: int) -> None:
        while size:
            if not self._buffer:
                await self._fill()
            count = min(size, len(self._buffer))
            del self._buffer[:count]
            size -= count

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._check_size()
            await self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _records(self) -> AsyncIterator[list[Record]]:
        """Records up to a line with a dot, as they come."""
        while True:
            records: list[Record] = []
            start = 0
            while start < len(self._buffer) and self._buffer[start] != 0x2E:  # a dot
                try:
                    found = self._parse(self._buffer, start)
                except ValueError as error:
                    raise _lost(self._node, self._process, error) from error
                if found is None:
                    break
                record, start = found
                records.append(record)
            is_over = self._buffer[start : start + 2] == b".\n"
            del self._buffer[: start + 2 if is_over else start]
            if records:
                yield records
            if is_over:
                return
            self._check_size()
            await self._fill()

    def _check_size(self) -> None:
        """Raise where what has come is no record and no line, and never will be one."""
        if len(self._buffer) > _RECORD_BYTES:
            error = ValueError("it tells of files what can't be read")
            raise _lost(self._node, self._process, error)

    async def _all_records(self) -> dict[str, Record]:
        return {record.path: record async for records in self._records() for record in records}

    async def _archive(self) -> dict[str, bytes]:
        """The files of an archive, by path: those that are in it by themselves."""
        found: dict[str, bytes] = {}
        longer = b""
        while True:
            block = await self._exactly(_BLOCK)
            if not block.strip(b"\0"):
                break
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise _lost(self._node, self._process, error) from error
            # Only what is a file, or tells of the next entry, has content.
            has_data = info.type in {*tarfile.REGULAR_TYPES, b"L", b"K", b"x", b"g"}
            size = info.size if has_data else 0
            if not 0 <= size <= _HELD_BYTES:
                # Another file has taken the name of a small one: it is sent by itself.
                await self._drop(max(size, 0) + -size % _BLOCK)
                longer = b""
                continue
            data = (await self._exactly(size + -size % _BLOCK))[:size]
            if info.type == b"L":
                longer = data.rstrip(b"\0")
            elif info.type == b"x":
                path = _PAX_PATH.search(data)
                longer = path[1] if path else b""
            elif info.type not in {b"K", b"g"}:
                name = longer.decode(errors="surrogateescape") if longer else info.name
                longer = b""
                if info.type in tarfile.REGULAR_TYPES:
                    found[name.removeprefix("./")] = data
        # It is padded with zeros up to a size that depends on the program.
        while True:
            rest = self._buffer.lstrip(b"\0")
            if rest:
                self._buffer = rest
                return found
            self._buffer.clear()
            await self._fill()


def _raw(path: str) -> bytes:
    return b"./" + path.encode(errors="surrogateescape")


def _listed(paths: Sequence[str]) -> bytes:
    return b"".join(_raw(path) + b"\0" for path in paths)


def _word(text: str) -> bytes:
    """A word as `read_word` takes it."""
    raw = text.encode(errors="surrogateescape")
    return raw.replace(b"\\", b"\\0134").replace(b"\n", b"\\0012")


def _lost(node: str, process: Process, error: Exception | None) -> errors.Refusal:
    why = process.stderr.decode(errors="replace").strip()[-500:] or str(error or "")
    text = f"the link to {node} was lost{f': {why}' if why else ''}"
    return errors.node_unreachable(node, text)


# Records.


def _found(buffer: bytearray, start: int) -> tuple[Record, int] | None:
    """The record of find that begins at `start`, and where the next one does."""
    middle = buffer.find(b"\0", start)
    end = buffer.find(b"\0", middle + 1) if middle >= 0 else -1
    if end < 0:
        return None
    mode, size, time, owner, group, kind, path = bytes(buffer[start:middle]).split(b" ", 6)
    full = int(mode, 8) | _KINDS.get(kind, stat.S_IFCHR)
    target = buffer[middle + 1 : end].decode(errors="surrogateescape") if kind == b"l" else None
    return _record(path, full, size, time, owner, group, target), end + 1


def _told(buffer: bytearray, start: int) -> tuple[Record, int] | None:
    """The record of stat that begins at `start`, and where the next one does."""
    middle = buffer.find(b"//", start)
    if middle < 0 or len(buffer) <= middle + 2:
        return None
    mode, size, time, owner, group, path = bytes(buffer[start:middle]).split(b" ", 5)
    full = int(mode, 16)
    # busybox quotes with what names may hold as well; others do not quote at all.
    quote = b"'" if buffer[middle + 2 : middle + 3] == b"'" else b""
    end = middle + 2 + len(quote + path + quote)
    target = None
    if stat.S_ISLNK(full):
        begin = end + len(b" -> " + quote)
        stop = begin + int(size)
        end = stop + len(quote)
        target = buffer[begin:stop].decode(errors="surrogateescape")
    if len(buffer) < end + 3:
        return None
    if buffer[end : end + 3] != b"//\n":
        # A link that could not be read, or was made anew meanwhile.
        found = buffer.find(b"//\n", middle + 2)
        if found < 0:
            return None
        target, end = None, found
    return _record(path, full, size, time, owner, group, target), end + 3


def _record(
    path: bytes,
    mode: int,
    size: bytes,
    time: bytes,
    owner: bytes,
    group: bytes,
    target: str | None,
) -> Record:
    seconds, _, part = time.partition(b".")
    modify_ns = int(seconds) * 1_000_000_000 + int(part[:9].ljust(9, b"0") or 0)
    name = path.decode(errors="surrogateescape")
    name = "" if name == "." else name.removeprefix("./")
    return Record(name, mode, int(size), modify_ns, int(owner), int(group), target)
