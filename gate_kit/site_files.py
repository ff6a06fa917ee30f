"""What ListFiles and GetFiles say of files at a site, however a gate gets to know them. Pure."""

from __future__ import annotations

import stat

from gate_kit import errors
from gate_kit.job_status import timestamp
from gate_kit.validation import link_mistake, path_mistake
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2, types_pb2

UNREADABLE = "not readable"
LEADS_OUT = "link that leads out"

_KINDS = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "fifo"}


def name_mistake(path: str) -> str | None:
    """Why what lies at `path` (with surrogates for bytes that are not UTF-8) can't be named."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8"
    return "path is too long" if path_mistake(path) else None


def skip_reason(path: str, mode: int, *, is_readable: bool, link_target: str | None) -> str | None:
    """Why what matches can't be taken; None if it can.

    Args:
        path: As in `name_mistake`.
        mode: With its kind, as in `os.stat_result`.
        is_readable: Whether the account may read it; for files.
        link_target: Of a link; None where it could not be read.
    """
    if mistake := name_mistake(path):
        return mistake
    if stat.S_ISDIR(mode):
        return None
    if stat.S_ISREG(mode):
        return None if is_readable else UNREADABLE
    if stat.S_ISLNK(mode):
        if link_target is None or name_mistake(link_target) == "name is not UTF-8":
            return LEADS_OUT
        return LEADS_OUT if link_mistake(path, link_target) else None
    return _KINDS.get(stat.S_IFMT(mode), "device")


def site_file(
    path: str, mode: int, *, size: int, modify_ns: int, link_target: str = ""
) -> file_pb2.SiteFile:
    """What ListFiles tells of a file, folder or link; `modify_ns` is in nanoseconds."""
    entry = manifest_pb2.ManifestEntry(path=path)
    if stat.S_ISLNK(mode):
        entry.type = manifest_pb2.FILE_TYPE_SYMLINK
        entry.link_target = link_target
    elif stat.S_ISDIR(mode):
        entry.type = manifest_pb2.FILE_TYPE_DIRECTORY
        entry.mode = mode & 0o777
    else:
        entry.type = manifest_pb2.FILE_TYPE_FILE
        entry.mode = mode & 0o777
        entry.size = size
    return file_pb2.SiteFile(entry=entry, modify_time=timestamp(modify_ns))


def resume_at(index: int, cursor: file_pb2.FileCursor, size: int, modify_ns: int) -> int:
    """Where to begin: at the caller's offset if the file is as it was, else anew.

    Raises:
        Refusal: OFFSET for one past the end of the file.
    """
    # Compared as it is: a time that is none is no mistake, but that of another file.
    is_same = cursor.size == size and cursor.modify_time == timestamp(modify_ns)
    if not cursor.offset or not is_same:
        return 0
    if cursor.offset > size:
        raise errors.offset_out_of_range(
            f"files[{index}]: {cursor.path} has {size} bytes, not {cursor.offset}", expected=size
        )
    return cursor.offset


def check_cursors(request: file_pb2.GetFilesRequest) -> None:
    """Raise unless all paths are allowed.

    Raises:
        Refusal: PATH_INVALID.
    """
    for index, cursor in enumerate(request.files):
        if mistake := path_mistake(cursor.path):
            raise errors.path_invalid(
                f"files[{index}].path {mistake}", field=f"files[{index}].path"
            )


def end(
    path: str, sha256: bytes, before: tuple[int, int], after: tuple[int, int]
) -> file_pb2.SiteFileEnd:
    """What ends a file that was sent.

    Args:
        path: Its path.
        sha256: Of all of it; empty where it was resumed.
        before: Its size, as far as it was sent, and its time in nanoseconds.
        after: The same when it had been read.
    """
    size, modify_ns = before
    told = file_pb2.SiteFileEnd(size=size, sha256=sha256, modify_time=timestamp(modify_ns))
    # One that grows was read as it was; anything else may be of two versions.
    if before != after and after[0] <= size:
        text = f"{path} changed while it was read"
        told.failure.CopyFrom(
            types_pb2.Failure(reason="FILE_CHANGED", message=text, retryable=True)
        )
    return told


def failed(index: int, reason: str, message: str) -> file_pb2.SiteFilePiece:
    """The only piece of a file that can't be read."""
    failure = types_pb2.Failure(reason=reason, message=message)
    return file_pb2.SiteFilePiece(index=index, end=file_pb2.SiteFileEnd(failure=failure))
