"""Files on their way into the spool: many small ones, and a large one.

What is sent is fresh in each round, since the spool takes nothing twice. Everything lies on the
disk that the spool is on, was written before, and comes out of the page cache for both sides.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc

from bench import peer
from bench.core import Core, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.submits import timed
from terminals.client.inputs import select
from terminals.client.manifest import Manifest, read_manifest
from terminals.client.upload import MESSAGE_BYTES, upload

FILES = 10_000
SHORT_FILES = 2_000
_WARM_UP_FILES = 500
FILE_BYTES = 4 << 10
_LARGE_BYTES = 1 << 30
_SHORT_LARGE_BYTES = 256 << 20

_SMALL = Limit(
    "upload-small",
    Good.AT_MOST,
    4,
    f"an upload of {FILES:,} files of 4 KiB, read, checked and durable, in `tar x; sync -f`",
)
_LARGE = Limit(
    "upload-large",
    Good.AT_LEAST,
    0.25,
    "an upload of 1 GiB, durable, in bytes per second of a bare gRPC stream",
)


def _small(short: bool) -> list[Figure]:
    count, rounds = (SHORT_FILES, 3) if short else (FILES, 5)
    uploads: list[float] = []
    extractions: list[float] = []
    with serving() as core:
        make_small(core.folder / "first", _WARM_UP_FILES)
        _upload_all(core, core.folder / "first")
        for number in range(rounds):
            folder = core.folder / f"small-{number}"
            archive = core.folder / f"small-{number}.tar"
            make_small(folder, count)
            subprocess.run(["tar", "-c", "-f", archive, "-C", folder, "."], check=True)
            sync(folder)  # what is still to be written weighs on whoever syncs next
            # Nothing is removed in between: file systems avoid what was freed a moment ago.
            extractions.append(timed(_extract, archive, core.folder / f"extracted-{number}"))
            uploads.append(timed(_upload_all, core, folder))
    return [_SMALL.figure(statistics.median(uploads), statistics.median(extractions), "s")]


def make_small(folder: Path, count: int) -> None:
    """Files of 4 KiB of random bytes in ten folders."""
    for number in range(10):
        (folder / str(number)).mkdir(parents=True)
    for number in range(count):
        (folder / str(number % 10) / f"{number:05d}").write_bytes(os.urandom(FILE_BYTES))


def _extract(archive: Path, target: Path) -> None:
    target.mkdir()
    subprocess.run(["tar", "-x", "-f", archive, "-C", target], check=True)
    sync(target)


def _upload_all(core: Core, folder: Path) -> None:
    """All that a terminal does: find the files, read them for their digests, send, have it safe."""
    upload(core.client, manifest_of(folder))


def manifest_of(folder: Path) -> Manifest:
    """What a terminal reads of a folder or file before it sends anything."""
    return read_manifest(select([folder.name], folder.parent))


def sync(folder: Path) -> None:
    """Have all that is still to be written to its file system be written."""
    subprocess.run(["sync", "-f", folder], check=True)


def _large(short: bool) -> list[Figure]:
    size, rounds = (_SHORT_LARGE_BYTES, 2) if short else (_LARGE_BYTES, 3)
    uploads: list[float] = []
    streams: list[float] = []
    with (
        serving() as core,
        peer.serving(core.home) as address,
        peer.secure_channel(core.bundle, address) as channel,
    ):
        for _ in range(rounds):
            path = core.folder / "large"
            write_random(path, size)
            sync(path)
            # Its digest is taken while nobody looks: the stream beside it has none either.
            manifest = manifest_of(path)
            streams.append(timed(_stream, channel, path))
            uploads.append(timed(upload, core.client, manifest))
    unit = size / 1e6
    return [
        _LARGE.figure(unit / statistics.median(uploads), unit / statistics.median(streams), "MB/s")
    ]


def write_random(path: Path, size: int) -> None:
    """A file of random bytes, each time other ones."""
    with path.open("wb") as file:
        for _ in range(size // MESSAGE_BYTES):
            file.write(os.urandom(MESSAGE_BYTES))


def _stream(channel: grpc.Channel, path: Path) -> None:
    """The file as bare messages of the upload's size, to a server that counts them."""
    received = peer.sink(channel)(_messages(path))
    assert int(received) == path.stat().st_size


def _messages(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while data := file.read(MESSAGE_BYTES):
            yield data


BENCHMARKS = (Benchmark((_SMALL,), _small), Benchmark((_LARGE,), _large))
