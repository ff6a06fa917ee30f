"""The spool: what users brought, what jobs gave, and what they said, kept apart by owner."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from skyport.common.v1 import manifest_pb2
from swm_core.spool.batch import AsyncBatch, Batch
from swm_core.spool.contents import PRIVATE, OwnerContents, Writer
from swm_core.spool.errors import ContentMissing, ManifestRefused
from swm_core.spool.logs import Logs, owner_folder, owner_of
from swm_core.spool.manifests import MAX_BYTES, read_manifest, write_manifest
from swm_core.spool.room import Room
from swm_core.spool.syncing import GroupSync, sync_file_system

T = TypeVar("T")

PIN_S = 3_600.0
"""How long a content that nothing refers to is left alone after it was asked for or written."""

References = Callable[[], Iterable[tuple[str, Sequence[str]]]]
"""Owners and the digests of manifests that have to be kept, with all that they name."""


class Spool:
    """An open spool. Methods that touch many files run in threads.

    Args:
        root: Its folder.
        max_bytes: How much it may hold.
        log_bytes_per_job: How much of what one job writes is kept.
        used_bytes: How much it holds.
    """

    def __init__(self, root: Path, max_bytes: int, log_bytes_per_job: int, used_bytes: int) -> None:
        self._root = root
        self._room = Room(max_bytes, used_bytes)
        self._owners: dict[str, OwnerContents] = {}
        self._logs = Logs(root, log_bytes_per_job, self._room)
        self.log = self._logs.log
        self.sync = GroupSync(root).sync
        self.close_logs = self._logs.close_attempt

    @classmethod
    def open(cls, root: Path, max_bytes: int, log_bytes_per_job: int) -> Spool:
        """Open the spool in `root`: counts what it holds and drops what a crash left. Blocks."""
        used = 0
        for path, _, names in os.walk(root):
            for name in names:
                file = Path(path, name)
                if file.parent.name == "partial" and name.startswith(PRIVATE):
                    file.unlink(missing_ok=True)
                else:
                    used += file.stat().st_size
        return cls(root, max_bytes, log_bytes_per_job, used)

    @property
    def used_bytes(self) -> int:
        """Bytes that it holds."""
        return self._room.used_bytes

    @property
    def max_bytes(self) -> int:
        """Bytes that it may hold."""
        return self._room.max_bytes

    def owner(self, owner: str) -> OwnerContents:
        """The contents of one owner."""
        found = self._owners.get(owner)
        if found is None:
            found = self._owners[owner] = OwnerContents(owner_folder(self._root, owner), self._room)
        return found

    async def missing(
        self, owner: str, contents: Sequence[tuple[str, int]]
    ) -> list[tuple[int, int]]:
        """Of contents (hex digest, size): index and offset of each that is not whole here."""
        return await asyncio.to_thread(self.owner(owner).missing, contents)

    @contextlib.asynccontextmanager
    async def batch(self, owner: str) -> AsyncIterator[AsyncBatch]:
        """Contents that become durable together, when `commit` returns."""
        batch = AsyncBatch(Batch(self.owner(owner)))
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
        """
        await asyncio.to_thread(self._check_manifest, owner, sha256)

    def _check_manifest(self, owner: str, sha256: str) -> None:
        contents = self.owner(owner)
        try:
            size = contents.path(sha256).stat().st_size
        except OSError:
            raise ContentMissing(
                f"the manifest {sha256} is not in the spool; upload it first"
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
                    f"the content of {entry.path!r} is not in the spool; upload it first"
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
        """Store a manifest, durably; returns its digest."""

        def write() -> str:
            writer = Writer(self.owner(owner))
            buffer = io.BytesIO()
            write_manifest(entries, buffer)
            writer.write(0, buffer.getvalue())
            digest = writer.finish()
            writer.place(digest)
            sync_file_system(self._root)
            return digest

        return await asyncio.to_thread(write)

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
        before = (time.time() if now is None else now) - PIN_S
        kept: dict[str, set[bytes]] = {}
        for owner, manifests in references():
            digests = kept.setdefault(owner_folder(self._root, owner).name, set())
            for sha256 in manifests:
                digests.add(bytes.fromhex(sha256))
                try:
                    digests.update(entry.sha256 for entry in self.manifest(owner, sha256))
                except (ContentMissing, ManifestRefused):
                    continue  # a job whose inputs were lost with the disk keeps nothing
        freed = 0
        for folder in self._root.glob("u-*"):
            contents = self.owner(owner_of(folder))
            digests = kept.get(folder.name, set())
            freed += contents.collect(
                (
                    path.name
                    for path in folder.glob("blobs/*/*")
                    if bytes.fromhex(path.name) not in digests
                ),
                before,
            )
            freed += contents.collect_partial(before)
        return freed
