"""Ids of partitions that were deleted, and are never made again.

The contract asks for the life of the process, since a call does not survive the process that it was
sent to. A group that goes refuses to be made anew by itself. Beyond that the last ones are kept in
a file of the gate's state, which may be lost: a core that was restored to an older state would else
make once more what it has deleted.
"""

from __future__ import annotations

import time
from pathlib import Path

from rpc_kit import private_files

_MOST = 10_000
_FILE_MOST = 1_000
_KEPT_S = 7 * 86_400


class Tombstones:
    """The ids, the latest last.

    Args:
        file: Where the last of them are kept; what can't be read there counts as nothing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._times: dict[str, int] = {}
        oldest = time.time() - _KEPT_S
        try:
            lines = file.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        for line in lines:
            name, _, at = line.partition(" ")
            if at.isdigit() and int(at) >= oldest:
                self._times[name] = int(at)

    def __contains__(self, name: str) -> bool:
        return name in self._times

    def bury(self, name: str) -> None:
        """Never make it again."""
        if name in self._times:
            return
        self._times[name] = int(time.time())
        while len(self._times) > _MOST:
            del self._times[next(iter(self._times))]
        last = list(self._times.items())[-_FILE_MOST:]
        text = "".join(f"{name} {at}\n" for name, at in last)
        private_files.replace(self._file, text.encode())
