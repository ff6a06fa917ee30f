"""Trees of files: as manifests on their way up, as outputs on their way down."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from google.protobuf.proto import serialize_length_prefixed

from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import file_pb2

if TYPE_CHECKING:
    from tests.system.harness.users import User

PIECE_BYTES = 512 << 10


@dataclasses.dataclass(frozen=True)
class File:
    """A file with its permission bits."""

    data: bytes
    mode: int = 0o644


@dataclasses.dataclass(frozen=True)
class Folder:
    """An empty folder."""

    mode: int = 0o755


@dataclasses.dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


Tree = Mapping[str, bytes | File | Folder | Link]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def entry(path: str, what: bytes | File | Folder | Link) -> manifest_pb2.ManifestEntry:
    """The entry of a manifest for one thing."""
    if isinstance(what, Folder):
        return manifest_pb2.ManifestEntry(
            path=path, type=manifest_pb2.FILE_TYPE_DIRECTORY, mode=what.mode
        )
    if isinstance(what, Link):
        return manifest_pb2.ManifestEntry(
            path=path, type=manifest_pb2.FILE_TYPE_SYMLINK, link_target=what.target
        )
    file = what if isinstance(what, File) else File(what)
    return manifest_pb2.ManifestEntry(
        path=path,
        type=manifest_pb2.FILE_TYPE_FILE,
        size=len(file.data),
        mode=file.mode,
        sha256=sha256(file.data),
    )


def encode(entries: Iterable[manifest_pb2.ManifestEntry]) -> bytes:
    """Entries as a manifest's file, in the order that they have."""
    buffer = io.BytesIO()
    for each in entries:
        serialize_length_prefixed(each, buffer)
    return buffer.getvalue()


def manifest(tree: Tree) -> tuple[bytes, list[bytes]]:
    """A tree's manifest, and the contents that it names."""
    ordered = sorted(tree.items(), key=lambda item: item[0].encode())
    contents = [
        each.data if isinstance(each, File) else each
        for _, each in ordered
        if isinstance(each, bytes | File)
    ]
    return encode(entry(path, what) for path, what in ordered), contents


def upload(user: User, contents: Iterable[bytes]) -> None:
    """Bring contents to the core, as far as it lacks them."""
    by_digest = {sha256(data): data for data in contents}
    asked = [file_pb2.Content(sha256=key, size=len(data)) for key, data in by_digest.items()]
    answer = user.files.FindMissing(file_pb2.FindMissingRequest(contents=asked), timeout=30)
    data = list(by_digest.values())
    lacking = [(data[each.index], each.offset) for each in answer.missing]
    if lacking:
        user.files.Upload(upload_requests(lacking), timeout=60)


def upload_requests(lacking: Iterable[tuple[bytes, int]]) -> Iterator[file_pb2.UploadRequest]:
    """The messages of an upload: contents, each from an offset on."""
    for data, start in lacking:
        digest = sha256(data)
        for offset in range(start, max(len(data), start + 1), PIECE_BYTES):
            piece = data[offset : offset + PIECE_BYTES]
            yield file_pb2.UploadRequest(
                pieces=[
                    file_pb2.UploadPiece(
                        sha256=digest,
                        offset=offset,
                        data=piece,
                        last=offset + len(piece) == len(data),
                    )
                ]
            )


def bring(user: User, tree: Tree) -> bytes:
    """Upload a tree; returns its manifest's digest, for a submit."""
    text, contents = manifest(tree)
    upload(user, [*contents, text])
    return sha256(text)


def list_outputs(user: User, job_id: str, *patterns: str) -> file_pb2.ListOutputsResponse:
    """All pages of a job's outputs, as one."""
    request = file_pb2.ListOutputsRequest(job_id=job_id, patterns=patterns)
    whole = file_pb2.ListOutputsResponse()
    while True:
        page = user.files.ListOutputs(request, timeout=30)
        whole.MergeFrom(page)
        if not page.next_page_token:
            return whole
        request.page_token = page.next_page_token


def fetch(user: User, job_id: str) -> dict[str, File | Folder | Link]:
    """A job's outputs, by path. A folder that is told though it is not empty is left out."""
    found: dict[str, File | Folder | Link] = {}
    files: list[manifest_pb2.ManifestEntry] = []
    entries = [output.entry for output in list_outputs(user, job_id).files]
    parents = {each.path.rpartition("/")[0] for each in entries}
    for each in entries:
        if each.path in parents:
            continue
        if each.type == manifest_pb2.FILE_TYPE_FILE:
            files.append(each)
        elif each.type == manifest_pb2.FILE_TYPE_SYMLINK:
            found[each.path] = Link(each.link_target)
        else:
            found[each.path] = Folder(each.mode)
    if files:
        data = download(user, job_id, [each.path for each in files])
        for each in files:
            assert sha256(data[each.path]) == each.sha256
            found[each.path] = File(data[each.path], each.mode)
    return found


def download(user: User, job_id: str, paths: list[str]) -> dict[str, bytes]:
    """Output files of a job, by path, each to its end."""
    request = file_pb2.DownloadRequest(
        job_id=job_id, files=[file_pb2.DownloadCursor(path=path) for path in paths]
    )
    data = dict.fromkeys(paths, b"")
    ended = set()
    for answer in user.files.Download(request, timeout=60):
        for piece in answer.pieces:
            path = paths[piece.index]
            assert piece.offset == len(data[path])
            data[path] += piece.data
            if piece.HasField("end"):
                assert piece.end.size == len(data[path])
                ended.add(path)
    assert ended == set(paths)
    return data
