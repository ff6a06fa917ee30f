"""Walks a work folder in byte order of paths, and says what can be taken of it. Blocks on the disk.

It follows no links, so it never leaves the folder.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator

from gate_kit.patterns import Matcher
from gate_kit.validation import link_mistake, path_mistake


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Something that can be taken: a file, a link within the tree, or an empty folder."""

    path: str
    told: os.stat_result
    link_target: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """Something that matched and can't be taken."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    told: os.stat_result
    is_folder: bool
    """Whether there is something below it; an empty folder is taken like a file."""

    @property
    def order(self) -> bytes:
        """By whole paths: what is below `a` comes after `a.b`, since `.` is before `/`."""
        return os.fsencode(self.name) + (b"/" if self.is_folder else b"")


def walk(
    root: str, matcher: Matcher, *, after: str = "", matched: set[int] | None = None
) -> Iterator[Found | Skipped]:
    """What the patterns of `matcher` match below `root`, in byte order of paths.

    Args:
        root: The folder.
        matcher: At its top.
        after: Only what comes after this path.
        matched: Gets the indices of the patterns that matched something.
    """
    seen = set[int]() if matched is None else matched
    below = bool(matcher.matched)
    seen |= matcher.matched
    # One iterator for each level: a tree may be deeper than Python recurses.
    levels = [_level(root, "", matcher, os.fsencode(after), seen, below=below)]
    while levels:
        step = next(levels[-1], None)
        if step is None:
            levels.pop()
        elif isinstance(step, Found | Skipped):
            yield step
        else:
            levels.append(step)


def _level(
    root: str, prefix: str, matcher: Matcher, after: bytes, seen: set[int], *, below: bool
) -> Iterator[Found | Skipped | Iterator[object]]:
    """The entries of one folder; where one is a folder to go into, the iterator over that."""
    entries, unreadable = _read(os.path.join(root, prefix))  # noqa: PTH118: no Path for each file
    if unreadable and below:
        yield Skipped(_shown(prefix.rstrip("/")), unreadable)
    for entry in entries:
        path = prefix + entry.name
        raw = os.fsencode(path)
        if entry.is_folder:
            if raw + b"/" <= after and not after.startswith(raw + b"/"):
                continue
        elif raw <= after:
            continue
        inner = matcher.enter(entry.name)
        hits = inner.matched
        seen |= hits
        taken = below or bool(hits)
        if not taken and (inner.hopeless or not entry.is_folder):
            continue
        if taken and (mistake := _name_mistake(path)):
            yield Skipped(_shown(path), mistake)
            continue
        if entry.is_folder:
            yield _level(root, path + "/", inner, after, seen, below=taken)
        else:
            yield _one(root, path, entry.told)


def _one(root: str, path: str, told: os.stat_result) -> Found | Skipped:
    mode = told.st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return Found(path, told)
    if stat.S_ISLNK(mode):
        try:
            target = os.readlink(os.path.join(root, path))  # noqa: PTH115, PTH118
            target.encode()
        except (OSError, UnicodeEncodeError):
            return Skipped(path, "link whose target is not UTF-8")
        if link_mistake(path, target):
            return Skipped(path, "link that leads out")
        return Found(path, told, target)
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe"}
    return Skipped(path, kinds.get(stat.S_IFMT(mode), "device"))


def _read(folder: str) -> tuple[list[_Entry], str]:
    entries = []
    try:
        with os.scandir(folder) as found:
            for item in found:
                try:
                    told = item.stat(follow_symlinks=False)
                    inner = stat.S_ISDIR(told.st_mode) and not _is_empty(item.path)
                    entries.append(_Entry(item.name, told, inner))
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"folder that can't be read: {error.strerror}"
    return sorted(entries, key=lambda entry: entry.order), ""


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as found:
            return next(found, None) is None
    except OSError:
        return False  # what is below it can't be known: told when it is gone into


def _name_mistake(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8"
    return f"path {mistake}" if (mistake := path_mistake(path)) else None


def _shown(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")
