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
    """Something that can be taken: a file, a folder, or a link within the tree."""

    path: str
    told: os.stat_result
    link_target: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """Something that matched and can't be taken."""

    path: str
    """With U+FFFD for bytes that are not UTF-8."""
    reason: str
    position: str
    """Its true path, for page tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """An entry of a folder, or the way into one.

    What is below `a` comes after `a.b`, since `.` is before `/`, while `a` itself comes before.
    """

    order: bytes
    name: str
    told: os.stat_result
    into: bool


Walk = Iterator["Found | Skipped | Walk"]


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
    seen |= matcher.matched
    # One iterator for each level: a tree may be deeper than Python recurses.
    top = _level(root, "", matcher, os.fsencode(after), seen, below=bool(matcher.matched))
    levels: list[Walk] = [top]
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
) -> Walk:
    """The entries of one folder; where one is to be gone into, the iterator over that."""
    steps, is_readable = _read(f"{root}/{prefix}")
    if not is_readable and below:
        position = prefix.rstrip("/")
        if os.fsencode(position) > after:
            yield Skipped(_shown(position), "not readable", position)
    for step in steps:
        path = prefix + step.name
        raw = os.fsencode(path)
        inner = matcher.enter(step.name)
        hits = inner.matched
        seen |= hits
        taken = below or bool(hits)
        if step.into:
            # All below begins with its path and a slash.
            is_past = raw + b"/" <= after and not after.startswith(raw + b"/")
            if not is_past and (taken or not inner.hopeless) and not _name_mistake(path):
                yield _level(root, path + "/", inner, after, seen, below=taken)
        elif taken and raw > after:
            yield _one(root, path, step.told)


def _one(root: str, path: str, told: os.stat_result) -> Found | Skipped:
    mode = told.st_mode
    reason = _name_mistake(path)
    if reason:
        return Skipped(_shown(path), reason, path)
    if stat.S_ISDIR(mode):
        return Found(path, told)
    if stat.S_ISREG(mode):
        if os.access(f"{root}/{path}", os.R_OK):
            return Found(path, told)
        return Skipped(path, "not readable", path)
    if stat.S_ISLNK(mode):
        try:
            target = os.readlink(f"{root}/{path}")  # noqa: PTH115 - no Path for each file
            target.encode()
        except (OSError, UnicodeEncodeError):
            return Skipped(path, "link that leads out", path)
        if link_mistake(path, target):
            return Skipped(path, "link that leads out", path)
        return Found(path, told, target)
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "fifo"}
    return Skipped(path, kinds.get(stat.S_IFMT(mode), "device"), path)


def _read(folder: str) -> tuple[list[_Step], bool]:
    """The steps of a folder in their order, and whether it could be read."""
    steps = []
    try:
        with os.scandir(folder) as found:
            for item in found:
                try:
                    told = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                name = os.fsencode(item.name)
                steps.append(_Step(name, item.name, told, into=False))
                if stat.S_ISDIR(told.st_mode):
                    steps.append(_Step(name + b"/", item.name, told, into=True))
    except FileNotFoundError:
        return [], True
    except OSError:
        return [], False
    steps.sort(key=lambda step: step.order)
    return steps, True


def _name_mistake(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8"
    return "path is too long" if path_mistake(path) else None


def _shown(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")
