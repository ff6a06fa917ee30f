"""For which installations partitions were made: a cache, since lists lack what is new.

A group's name has its installation in it, and some calls name only the partition. Without this a
gate that was killed right after it had made a group could take it for one that is not there.
"""

from __future__ import annotations

import re
from pathlib import Path

from rpc_kit import private_files

_INSTALLATION = re.compile(r"[a-z0-9]{1,40}", re.ASCII)
_MOST = 16


class Installations:
    """The installations, the latest first.

    Args:
        file: Where they are kept; what can't be read there counts as nothing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            lines = file.read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError):
            lines = []
        self.seen = [line for line in lines if _INSTALLATION.fullmatch(line)][:_MOST]

    def see(self, installation: str) -> None:
        """A partition is about to be made for it."""
        if installation in self.seen:
            return
        self.seen = [installation, *self.seen][:_MOST]
        private_files.replace(self._file, "".join(f"{one}\n" for one in self.seen).encode())
