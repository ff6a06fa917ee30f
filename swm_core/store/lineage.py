"""Whether a store is the one that was used last, or was copied or put back from a backup.

A store that was put back does not know what was made since the backup, and a copy does not know
what the other one makes; both have generations in their history that made such things. So a file
beside the store says which file the store was, and how far it had come; a store that is another
file, or has not come so far, is not the one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from rpc_kit import private_files

log = logging.getLogger(__name__)

_EVERY_S = 30.0
"""A backup that is younger, and was put back over the same file, is not noticed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Mark:
    """How far a store had come."""

    inode: int
    """Of its file: a copy has another."""
    generation: str
    sequence: int
    """Of its latest event."""


class Lineage:
    """The mark beside a store. `is_continued` and `note` wait for the disk.

    Args:
        database: The store's file.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name("lineage.json")

    def is_continued(self, history: Collection[str], sequence: int) -> bool:
        """Whether the store is the one that `note` was last told of, or has never been used.

        Args:
            history: All its generations.
            sequence: Of its latest event.
        """
        if not history:
            return True
        try:
            mark = _Mark(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            return False
        return (
            mark.inode == self._database.stat().st_ino
            # Not the latest: a core that was killed at its start has not noted its own.
            and mark.generation in history
            and mark.sequence <= sequence
        )

    async def keep(self, generation: str, sequence: Callable[[], int]) -> None:
        """Note now and then how far the store has come, until cancelled, and then too."""
        noted = -1
        try:
            while True:
                if (latest := sequence()) != noted:
                    await asyncio.to_thread(self.note, generation, latest)
                    noted = latest
                await asyncio.sleep(_EVERY_S)
        finally:
            self.note(generation, sequence())

    def note(self, generation: str, sequence: int) -> None:
        """Write down how far the store has come; a disk that can't is told of in the log."""
        try:
            mark = _Mark(self._database.stat().st_ino, generation, sequence)
            private_files.replace(self._path, json.dumps(dataclasses.asdict(mark)).encode())
        except OSError as error:
            log.warning("%s was not written: %s", self._path, error.strerror)
