"""The spool: what users brought, what jobs gave, and what they said, kept apart by owner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from skyport.common.v1 import manifest_pb2
from swm_core.spool.batch import AsyncBatch, Batch
from swm_core.spool.collector import Collector, References
from swm_core.spool.contents import PIN_S, PRIVATE, OwnerContents, Writer
from swm_core.spool.errors import ContentMissing, ManifestRefused
from swm_core.spool.logs import Logs, owner_folder, owner_of
from swm_core.spool.manifests import MAX_BYTES, read_manifest, write_manifest
from swm_core.spool.place import Place
from swm_core.spool.room import OwnerRoom, Room
from swm_core.spool.segments import SUFFIX
from swm_core.spool.syncing import FileSystem, GroupSync


class Spool:
    """An open spool. Methods that touch many files run in threads.

    Args:
        root: Its folder.
        max_bytes: How much it may hold.
        log_bytes_per_job: How much of what one job writes is kept.
        bytes_per_owner: How much one owner may have in it; 0: as much as there is room for.
        used_bytes: How much it holds of each owner.
    """

    def __init__(
        self,
        root: Path,
        max_bytes: int,
        log_bytes_per_job: int,
        bytes_per_owner: int,
        used_bytes: Mapping[str, int],
    ) -> None:
        self._root = root
        self._room = Room(max_bytes, sum(used_bytes.values()))
        self._bytes_per_owner = bytes_per_owner
        self._rooms = {
            owner: OwnerRoom(self._room, bytes_per_owner, used)
            for owner, used in used_bytes.items()
        }
        self._owners: dict[str, OwnerContents] = {}
        self._place = Place(root)
        self._logs = Logs(root, log_bytes_per_job, self.room, self._place.check)
        self._collector = Collector(root, self.owner, self.manifest)
        self.log = self._logs.log
        self._sync = GroupSync(root)
        self.sync = self._sync.sync
        self.close_logs = self._logs.close_attempt

    @classmethod
    def open(
        cls, root: Path, max_bytes: int, log_bytes_per_job: int, bytes_per_owner: int = 0
    ) -> Spool:
        """Open or begin the spool in `root`. Blocks.

        Counts what it holds, and drops what belonged to transfers that a crash ended.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        used_bytes = _clean_and_count(root)
        return cls(root, max_bytes, log_bytes_per_job, bytes_per_owner, used_bytes)

    @property
    def uid(self) -> str:
        """What tells it from any other spool; empty where that can't be written down."""
        return self._place.uid

    @property
    def used_bytes(self) -> int:
        """Bytes that it holds."""
        return self._room.used_bytes

    @property
    def max_bytes(self) -> int:
        """Bytes that it may hold."""
        return self._room.max_bytes

    def room(self, owner: str) -> Room:
        """How much one owner has in it, and may have (0: as much as there is room for)."""
        found = self._rooms.get(owner)
        if found is None:
            found = self._rooms.setdefault(owner, OwnerRoom(self._room, self._bytes_per_owner))
        return found

    def owner(self, owner: str) -> OwnerContents:
        """The contents of one owner."""
        # Asked from several threads: two objects of one owner would not know of each other's work.
        found = self._owners.get(owner)
        if found is None:
            folder = owner_folder(self._root, owner)
            fresh = OwnerContents(folder, self.room(owner), self._place.check)
            found = self._owners.setdefault(owner, fresh)
        return found

    async def missing(
        self, owner: str, contents: Sequence[tuple[str, int]]
    ) -> list[tuple[int, int]]:
        """Of contents (hex digest, size): index and offset of each that is not whole here.

        Raises:
            OSError: The disk can't be used now.
        """

        def look() -> list[tuple[int, int]]:
            self._place.check()
            return self.owner(owner).missing(contents)

        return await asyncio.to_thread(look)

    @contextlib.asynccontextmanager
    async def batch(self, owner: str) -> AsyncIterator[AsyncBatch]:
        """Contents that become durable together, when `commit` returns."""
        contents = self.owner(owner)
        with contents.holding():
            batch = AsyncBatch(Batch(contents))
            try:
                yield batch
            finally:
                # Also when it is cancelled once more: what is in use is to be let go of.
                await asyncio.shield(batch.close())

    async def check_manifest(self, owner: str, sha256: str) -> None:
        """Raise unless a manifest and all that it names are here; pins them.

        Raises:
            ContentMissing: Naming the first that is not.
            ManifestRefused: Naming the entry that cannot be.
            OSError: The disk can't be used now.
        """
        await asyncio.to_thread(self._check_manifest, owner, sha256)

    def _check_manifest(self, owner: str, sha256: str) -> None:
        self._place.check()
        contents = self.owner(owner)
        try:
            size = contents.path(sha256).stat().st_size
        except OSError:
            raise ContentMissing(
                f"the manifest {sha256} is not in the spool; upload it first", sha256=sha256
            ) from None
        if size > MAX_BYTES:
            raise ManifestRefused(
                "MANIFEST_INVALID", f"a manifest of {size} bytes; at most {MAX_BYTES} are taken"
            )
        contents.has(sha256, size)
        for entry in self.manifest(owner, sha256):
            if entry.type == manifest_pb2.FILE_TYPE_FILE and not contents.has(
                entry.sha256.hex(), entry.size
            ):
                raise ContentMissing(
                    f"the content of {entry.path!r} is not in the spool; upload it first",
                    sha256=entry.sha256.hex(),
                )

    def manifest(self, owner: str, sha256: str) -> Iterator[manifest_pb2.ManifestEntry]:
        """The entries of a manifest. Blocks.

        Raises:
            ContentMissing: It is not here.
            ManifestRefused: It cannot be one.
        """
        with self.owner(owner).open(sha256) as file:
            yield from read_manifest(file)

    async def write_manifest(
        self, owner: str, entries: Iterable[manifest_pb2.ManifestEntry]
    ) -> str:
        """Store a manifest, durably; returns its digest.

        Raises:
            SpoolFull: There is no room.
        """
        return await asyncio.to_thread(self._write_manifest, owner, entries)

    def _write_manifest(self, owner: str, entries: Iterable[manifest_pb2.ManifestEntry]) -> str:
        self._place.check()
        disk = FileSystem(self._root)
        writer = Writer(self.owner(owner))
        try:
            write_manifest(entries, _Appending(writer))
            digest = writer.finish()
            disk.sync()
            writer.place(digest)
            disk.sync()
            return digest
        finally:
            writer.close()
            disk.close()

    async def forget_job(self, owner: str, job_id: str) -> None:
        """Delete the logs of a job. Its contents go with the next collection."""
        await asyncio.to_thread(self._logs.forget, owner, job_id)

    def collect(self, references: References, now: float | None = None) -> int:
        """Delete contents that nothing refers to; returns how many bytes that gave. Blocks.

        What was written or asked for within PIN_S is left alone, so a submit under way is safe
        though `references` does not know it yet.

        Args:
            references: What has to be kept; called once.
            now: Seconds since the epoch.
        """
        return self._collector.collect(references, _pinned_since(now))

    def collect_logs(
        self, jobs: Callable[[], Iterable[tuple[str, str]]], now: float | None = None
    ) -> None:
        """Delete logs of jobs that are no more: what a crash after a job's deletion left. Blocks.

        Args:
            jobs: Owners and ids of all jobs; called once. Logs younger than PIN_S are left alone.
            now: Seconds since the epoch.
        """
        known: dict[Path, set[str]] = {}
        for owner, job_id in jobs():
            known.setdefault(owner_folder(self._root, owner), set()).add(job_id)
        for folder in self._root.glob("u-*"):
            self._logs.collect(folder, known.get(folder, set()), _pinned_since(now))

    def close(self) -> None:
        """Nobody uses it any more. A collection that is under way ends soon."""
        self._collector.stop()
        self._sync.close()


class _Appending:
    """A file to write to whose bytes go to the end of a content."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(self._writer.size, data)


def _pinned_since(now: float | None) -> float:
    return (time.time() if now is None else now) - PIN_S


def _clean_and_count(root: Path) -> dict[str, int]:
    """Bytes of each owner's contents and logs; removes what belonged to transfers of before."""
    used = {}
    for folder in root.glob("u-*"):
        for private in (folder / "partial").glob(f"{PRIVATE}*"):
            private.unlink()
        contents = _bytes_below(f"{folder}/blobs") + _bytes_below(f"{folder}/partial")
        used[owner_of(folder)] = contents + _bytes_below(f"{folder}/jobs", SUFFIX)
    return used


def _bytes_below(folder: str, suffix: str = "") -> int:
    if not Path(folder).is_dir():
        return 0
    used = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                used += _bytes_below(entry.path, suffix)
            elif entry.name.endswith(suffix):
                used += entry.stat(follow_symlinks=False).st_size
    return used
