"""Deletes contents that nothing names any more.

What may go is found first, a bounded number at a time: old enough, and not named by any manifest
that is kept. Whether it is still old enough is asked again at the moment of its deletion, because
an upload may have pinned it meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from skyport.common.v1 import manifest_pb2
from swm_core.spool.contents import OwnerContents, check_digest
from swm_core.spool.errors import ContentMissing, ManifestRefused
from swm_core.spool.logs import owner_of

log = logging.getLogger(__name__)

References = Callable[[], Iterable[tuple[str, Sequence[str]]]]
"""Owners and the digests of manifests that have to be kept, with all that they name."""

_MOST_CANDIDATES = 200_000
"""At a time: about 25 MB."""


class Collector:
    """One for each spool.

    Args:
        root: The spool.
        contents: The contents of an owner.
        manifest: The entries of a manifest of an owner.
    """

    def __init__(
        self,
        root: Path,
        contents: Callable[[str], OwnerContents],
        manifest: Callable[[str, str], Iterator[manifest_pb2.ManifestEntry]],
    ) -> None:
        self._root = root
        self._contents = contents
        self._manifest = manifest
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have a collection that is under way, and later ones, end soon."""
        self._stopped.set()

    def collect(self, references: References, before: float) -> int:
        """Delete what nothing names and was not touched since `before`; returns the bytes it gave.

        Blocks. `references` is called once.
        """
        kept: dict[str, set[str]] = {}
        for owner, manifests in references():
            kept.setdefault(owner, set()).update(manifests)
        freed = 0
        for folder in sorted(self._root.glob("u-*")):
            owner = owner_of(folder)
            contents = self._contents(owner)
            try:
                freed += self._collect_owner(owner, contents, kept.get(owner, set()), before)
            except ManifestRefused as refused:
                # What it names is not known: better too much is kept than too little.
                log.warning(
                    "no content of %s is deleted, a manifest is damaged: %s", owner, refused
                )
            freed += contents.collect_partial(before)
        return freed

    def _collect_owner(
        self, owner: str, contents: OwnerContents, manifests: set[str], before: float
    ) -> int:
        freed = 0
        for candidates in _candidates(contents, before):
            candidates.difference_update(bytes.fromhex(sha256) for sha256 in manifests)
            for sha256 in manifests:
                if self._stopped.is_set():
                    return freed
                try:
                    for entry in self._manifest(owner, sha256):
                        candidates.discard(entry.sha256)
                except ContentMissing:
                    continue  # a job whose inputs were lost with the disk keeps nothing
            freed += contents.collect((digest.hex() for digest in candidates), before)
        return freed


def _candidates(contents: OwnerContents, before: float) -> Iterator[set[bytes]]:
    """Digests of contents that were not touched since `before`, so many at a time."""
    found: set[bytes] = set()
    with os.scandir(contents.blobs) as shards:
        for shard in shards:
            with os.scandir(shard.path) as blobs:
                for blob in blobs:
                    if check_digest(blob.name) and blob.stat().st_mtime < before:
                        found.add(bytes.fromhex(blob.name))
            if len(found) >= _MOST_CANDIDATES:
                yield found
                found = set()
    if found:
        yield found
