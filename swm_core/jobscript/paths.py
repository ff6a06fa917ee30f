"""Which paths a job script may name: below the work folder, at the site, or the terminal's own.

The texts are checked here for what no site and no terminal could serve; what exists is checked
where it is used.
"""

from __future__ import annotations

from swm_core.domain.paths import MAX_COMPONENT_BYTES, MAX_PATH_BYTES
from swm_core.jobscript.values import Refused, shown

_SURELY_SHORT = MAX_COMPONENT_BYTES // 4
"""So many characters fit, whatever they are."""


def relative_path(value: str) -> str:
    """A path below the work folder, normalised: not absolute, no `..`. `.` is the folder itself."""
    if _is_plain(value):
        return value
    if value[:1] in ("/", "~"):
        raise _invalid(
            value, 'is not relative; give a path below the work folder, as "results/a.dat"'
        )
    return "/".join(_parts(value)) or "."


def file_name(value: str) -> str:
    """A relative path that names a file."""
    path = relative_path(value)
    if path == "." or value.endswith("/"):
        raise _invalid(value, "names a folder; give the name of a file")
    return path


def absolute_path(value: str) -> str:
    """An absolute path at the site, normalised."""
    if not value.startswith("/"):
        raise _invalid(
            value,
            "is not absolute; give the whole path at the site, or leave the directive out: "
            "then each job has a work folder of its own",
        )
    return "/" + "/".join(_parts(value))


def landing_name(value: str) -> str:
    """The name that an input file of the terminal's has in the work folder.

    A relative path keeps its folders; an absolute one, or one from a home folder (`~`), lands under
    its base name.
    """
    if _is_plain(value):
        return value
    if value[:1] not in ("/", "~"):
        if ".." in value.split("/"):
            raise _invalid(
                value,
                'would land outside the work folder because of its ".."; give the absolute path: '
                "it lands under its last name",
            )
        return "/".join(_parts(value)) or "."
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if not parts or parts[-1] == ".." or (len(parts) == 1 and value[0] == "~"):
        raise _invalid(
            value, "has no last name to land under; name a file, or a folder by its name"
        )
    return parts[-1]


def _is_plain(value: str) -> bool:
    """Whether a path is relative, normalised and short at first sight, as nearly all are."""
    return (
        0 < len(value) <= _SURELY_SHORT
        and value[0] not in "/~."
        and value[-1] != "/"
        and "//" not in value
        and "/." not in value
    )


def _parts(value: str) -> list[str]:
    if not value:
        raise Refused("PATH_INVALID", 'there is an empty name (""); remove it, or name a file')
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _invalid(value, 'goes up by ".."; name the place itself')
    if len(value) > _SURELY_SHORT and (
        _size(value) > MAX_PATH_BYTES or any(_size(part) > MAX_COMPONENT_BYTES for part in parts)
    ):
        raise _invalid(
            value,
            f"is too long; a path has at most {MAX_PATH_BYTES} bytes, each name in it "
            f"{MAX_COMPONENT_BYTES}",
        )
    return parts


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def _invalid(value: str, problem: str) -> Refused:
    return Refused("PATH_INVALID", f"{shown(value)} {problem}")
