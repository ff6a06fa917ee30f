"""Which paths a manifest may hold, and how its entries must fit together."""

from __future__ import annotations

import itertools
import posixpath

MAX_PATH_BYTES = 4_096
MAX_COMPONENT_BYTES = 255


class PathRefused(Exception):
    """A path that a manifest must not hold; `reason` is contract."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_path(path: str) -> None:
    """Raise PathRefused unless `path` is relative, normalised and short enough."""
    problem = _problem(path)
    if problem:
        raise PathRefused("PATH_INVALID", f"path {_shown(path)} {problem}")


def check_link(path: str, target: str) -> None:
    """Raise PathRefused unless a link at `path` stays inside the tree."""
    if not target or target.startswith("/") or "\0" in target:
        raise PathRefused(
            "PATH_INVALID",
            f"link {_shown(path)} has the target {_shown(target)}, not a relative one",
        )
    below = itertools.dropwhile(lambda part: part == "..", target.split("/"))
    if ".." in below:
        # Resolved by text, `other/../x` stays inside; followed, `other` may be a link to anywhere.
        raise PathRefused(
            "PATH_INVALID",
            f'link {_shown(path)} has ".." behind other parts in its target {_shown(target)}; '
            "only leading ones are taken",
        )
    landed = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if landed == ".." or landed.startswith("../"):
        raise PathRefused(
            "PATH_INVALID", f"link {_shown(path)} leads out of the tree, to {_shown(target)}"
        )


class Tree:
    """Checks that entries, given in byte order of their paths, make one tree.

    Byte order puts `a-b` between `a` and `a/c`, so what is a folder is kept for as long as anything
    below it may come.
    """

    def __init__(self) -> None:
        self._last = b""
        self._leaves: list[str] = []

    def add(self, path: str, *, folder: bool) -> None:
        """Add the next entry.

        Raises:
            PathRefused: PATH_INVALID, PATH_CONFLICT when two entries land on one name or one is
                below a file or link; MANIFEST_INVALID when the order is wrong.
        """
        check_path(path)
        encoded = path.encode()
        if encoded == self._last:
            raise PathRefused("PATH_CONFLICT", f"two entries land on {_shown(path)}")
        if encoded < self._last:
            raise PathRefused(
                "MANIFEST_INVALID", f"entry {_shown(path)} is not in byte order of the paths"
            )
        self._last = encoded
        self._leaves = [leaf for leaf in self._leaves if path.startswith(leaf)]
        for leaf in self._leaves:
            if path.startswith(f"{leaf}/"):
                raise PathRefused(
                    "PATH_CONFLICT", f"{_shown(path)} lies below {_shown(leaf)}, which is no folder"
                )
        if not folder:
            self._leaves.append(path)


def _problem(path: str) -> str:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if not path:
        return "is empty"
    if len(encoded) > MAX_PATH_BYTES:
        return f"has {len(encoded)} bytes; at most {MAX_PATH_BYTES} are taken"
    if path.startswith("/"):
        return "is absolute; only relative ones are taken"
    if "\0" in path:
        return "holds NUL"
    for part in path.split("/"):
        if part == "..":
            return 'holds ".."; it must stay in the work folder'
        if part in ("", "."):
            return "is not normalised"
        if len(part) > MAX_COMPONENT_BYTES // 4 and len(part.encode()) > MAX_COMPONENT_BYTES:
            return f"has a component of more than {MAX_COMPONENT_BYTES} bytes"
    return ""


def _shown(path: str) -> str:
    return repr(path if len(path) <= 80 else path[:77] + "…")
