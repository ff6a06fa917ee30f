"""Which files a job takes along, and under which names.

A pattern is a path here, or a glob (`*`, `?`, `[...]`; `**` stands for any number of folders). What
it names lands in the work folder: a relative path with its folders, an absolute one, or one from a
home folder (`~`), under its last name. A folder means everything below it.

Links: one that a pattern names is followed. One that is found below a folder stays a link if it
leads to something in that folder; otherwise what it leads to is taken in its place, since no link
may leave the tree on the wire. A dangling link that leads out is an error.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from terminals.client.errors import InputsInvalid

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_INPUTS = 1_000_000

_MAGIC = re.compile(r"[*?[]")


class Kind(enum.Enum):
    """What an input is in the work folder."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One file, empty folder or link that is taken along."""

    name: str
    """Where it lands: relative to the work folder."""
    kind: Kind
    source: str
    """Where it is here."""
    mode: int = 0
    size: int = 0
    """Bytes, when it was looked at; zero for folders and links."""
    link_target: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """What the patterns select, in byte order of the names."""

    inputs: tuple[Input, ...]
    skipped: tuple[str, ...]
    """One line for each thing below a folder that can't be taken: sockets, devices and the like."""

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.inputs)


def select(patterns: Iterable[str], base: Path | None = None) -> Selection:
    """What `patterns` select.

    Args:
        patterns: As a script's input-files names them.
        base: Where relative ones begin; None means the current folder.

    Raises:
        InputsInvalid: Something is missing, can't be taken, or two things land on one name. It
            names all of them.
    """
    selecting = _Selecting(os.fspath(base or Path.cwd()))
    for pattern in patterns:
        selecting.take(pattern)
    return selecting.result()


class _Selecting:
    def __init__(self, base: str) -> None:
        self._base = base
        self._found: dict[str, Input] = {}
        self._problems: list[str] = []
        self._skipped: list[str] = []

    def result(self) -> Selection:
        inputs = sorted(self._found.values(), key=lambda entry: os.fsencode(entry.name))
        for entry in inputs:
            self._check_parents(entry)
        if self._problems:
            raise InputsInvalid(self._problems)
        return Selection(tuple(inputs), tuple(self._skipped))

    def _check_parents(self, entry: Input) -> None:
        """Report a file that lands where another input needs a folder."""
        parent = entry.name.rpartition("/")[0]
        while parent:
            other = self._found.get(parent)
            if other is not None and other.kind is not Kind.FOLDER:
                self._problems.append(
                    f"{other.source} lands on {parent}, which {entry.source} needs as a folder; "
                    "rename one of them"
                )
                return
            parent = parent.rpartition("/")[0]

    def take(self, pattern: str) -> None:
        if not pattern or "\0" in pattern:
            self._problems.append("an input has an empty name, or one with a NUL; name a file")
            return
        path = os.path.expanduser(pattern) if pattern.startswith("~") else pattern  # noqa: PTH111
        if path.startswith("/"):
            path = _without_rises(path)
        landing = self._landing(path)
        if not path.startswith("/") and ".." in path.split("/"):
            self._problems.append(
                f'{pattern} would land outside the work folder because of its ".."; '
                "give the absolute path: it lands under its last name"
            )
        elif os.path.lexists(self._full(path)):
            self._named(self._full(path), pattern, landing)
        elif _MAGIC.search(path):
            self._globbed(path, pattern)
        else:
            self._problems.append(f"{pattern}: there is no such file or folder{self._where(path)}")

    def _full(self, path: str) -> str:
        return os.path.normpath(path if path.startswith("/") else f"{self._base}/{path}")

    @staticmethod
    def _landing(path: str) -> str:
        """The name in the work folder; empty for the work folder itself."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/"):
            return os.path.normpath(path).rpartition("/")[2]
        return "/".join(parts)

    def _where(self, path: str) -> str:
        return "" if path.startswith("/") else f" in {self._base}"

    def _globbed(self, path: str, pattern: str) -> None:
        start = "/" if path.startswith("/") else self._base
        parts = [part for part in path.split("/") if part not in ("", ".")]
        matches = sorted(set(_matches(start, "", parts)))
        for match in matches:
            landing = match.rpartition("/")[2] if path.startswith("/") else match
            self._named(f"{start.rstrip('/')}/{match}", match, landing)
        if not matches:
            self._problems.append(f"{pattern} matches nothing{self._where(path)}")

    def _named(self, source: str, shown: str, landing: str) -> None:
        """Take what a pattern names; a link is followed."""
        try:
            told = os.stat(source)  # noqa: PTH116 - 100,000 Path objects cost a second
        except OSError as error:
            self._problems.append(f"{shown}: {_words(error)}")
            return
        if stat.S_ISDIR(told.st_mode):
            if not landing and source == "/":
                self._problems.append("/ has no last name to land under; name a folder in it")
            else:
                self._walk(source, landing)
        elif stat.S_ISREG(told.st_mode):
            self._add(Input(landing, Kind.FILE, source, _mode(told), told.st_size))
        else:
            self._problems.append(f"{shown} is a {_special(told.st_mode)}, which can't be taken")

    def _walk(self, top: str, landing: str) -> None:
        """Take everything below a folder."""
        real_top = os.path.realpath(top)
        # A folder, its name in the work folder, and the real paths of the links that led to it.
        folders: list[tuple[str, str, tuple[str, ...]]] = [(top, landing, (real_top,))]
        while folders:
            folder, name, above = folders.pop()
            try:
                with os.scandir(folder) as listing:
                    entries = list(listing)
            except OSError as error:
                self._problems.append(f"{folder}: {_words(error)}")
                continue
            if not entries and name:
                self._add(Input(name, Kind.FOLDER, folder, 0))
            for entry in entries:
                below = f"{name}/{entry.name}" if name else entry.name
                try:
                    deeper = self._below(entry, below, top, real_top, landing, above)
                except OSError as error:
                    self._problems.append(f"{entry.path}: {_words(error)}")
                    continue
                if deeper is not None:
                    folders.append((entry.path, below, deeper))

    def _below(
        self,
        entry: os.DirEntry[str],
        name: str,
        top: str,
        real_top: str,
        landing: str,
        above: tuple[str, ...],
    ) -> tuple[str, ...] | None:
        """Take one thing below a folder; returns what is above it if it is to be walked."""
        if entry.is_symlink():
            target = os.readlink(entry.path)  # noqa: PTH115
            real = os.path.realpath(entry.path)
            if _stays(target, name, landing) and _is_within(real, real_top):
                self._add(Input(name, Kind.LINK, entry.path, link_target=target))
                return None
            if not os.path.lexists(real):
                self._problems.append(
                    f"{entry.path} is a link to {target}, which is not there; remove it"
                )
                return None
            # Outside a folder that contains it, or itself: it would never end.
            here = os.path.realpath(entry.path.rpartition("/")[0])
            if any(_is_within(parent, real) for parent in (*above, here)):
                self._problems.append(
                    f"{entry.path} is a link to {target}, a folder that it lies in; remove it"
                )
                return None
            above = (*above, real)
        if entry.is_dir():
            return above
        told = entry.stat()
        if stat.S_ISREG(told.st_mode):
            self._add(Input(name, Kind.FILE, entry.path, _mode(told), told.st_size))
        else:
            self._skipped.append(f"{entry.path} is a {_special(told.st_mode)}: not taken along")
        return None

    def _add(self, entry: Input) -> None:
        if problem := _bad_name(entry.name):
            self._problems.append(f"{_printable(entry.source)}: {problem}")
            return
        other = self._found.setdefault(entry.name, entry)
        if len(self._found) > MAX_INPUTS:
            # At once: who names / by mistake is not to wait for all of it to be looked at.
            problem = (
                f"{_printable(entry.source)}: these are more than {MAX_INPUTS} files, and that "
                "is the most that a job takes; pack them, or name fewer"
            )
            raise InputsInvalid([problem])
        if other is entry or os.path.realpath(other.source) == os.path.realpath(entry.source):
            return
        self._problems.append(
            f"{other.source} and {entry.source} would both land on {entry.name}; "
            "rename one of them, or give a relative path, which keeps its folders"
        )


def _without_rises(path: str) -> str:
    """An absolute path without "..", as the system takes it: behind a link, it is not what it says.

    What is behind the last one stays as it is.
    """
    parts = path.split("/")
    if ".." not in parts:
        return path
    behind = len(parts) - parts[::-1].index("..")
    head = os.path.realpath("/".join(parts[:behind]))
    return "/".join([head.rstrip("/"), *parts[behind:]]) or "/"


def _matches(folder: str, name: str, parts: list[str]) -> Iterator[str]:
    """The names below `folder`, prefixed with `name`, that a glob's `parts` match.

    Like a shell's: what begins with a dot is matched only by a pattern that does. `**` does not go
    through links, so it ends.
    """
    if not parts:
        if name:
            yield name
        return
    first, *rest = parts
    if not _MAGIC.search(first):
        if os.path.lexists(f"{folder}/{first}"):
            yield from _matches(f"{folder}/{first}", f"{name}/{first}" if name else first, rest)
        return
    if first == "**":
        yield from _matches(folder, name, rest or ["*"])
    match = re.compile(fnmatch.translate("*" if first == "**" else first)).match
    try:
        with os.scandir(folder) as listing:
            entries = [
                entry
                for entry in listing
                if match(entry.name) and (entry.name[0] != "." or first[0] == ".")
            ]
    except OSError:
        return  # not a folder, or not ours to read: nothing here matches
    for entry in entries:
        below = f"{name}/{entry.name}" if name else entry.name
        if first != "**":
            yield from _matches(entry.path, below, rest)
        elif entry.is_dir(follow_symlinks=False):
            yield from _matches(entry.path, below, parts)


def _stays(target: str, name: str, landing: str) -> bool:
    """Whether a link called `name` with this target leads to something below `landing`."""
    if target.startswith("/"):
        return False
    parts = name.split("/")[:-1]
    floor = len(landing.split("/")) if landing else 0
    for part in target.split("/"):
        if part == "..":
            if len(parts) <= floor:
                return False
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return True


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _bad_name(name: str) -> str:
    """What the contract has against a name; empty if nothing."""
    try:
        data = name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if len(data) > MAX_PATH_BYTES or any(len(part) > MAX_NAME_BYTES for part in data.split(b"/")):
        return f"its name is longer than {MAX_PATH_BYTES} bytes, or a part than {MAX_NAME_BYTES}"
    return ""


def _mode(told: os.stat_result) -> int:
    return stat.S_IMODE(told.st_mode) & 0o777


def _special(mode: int) -> str:
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _words(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "you may not read it; change its mode, or leave it out"
    if isinstance(error, FileNotFoundError):
        return "it is a link to something that is not there; remove it"
    return f"it can't be read: {error.strerror}"


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")
