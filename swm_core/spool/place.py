"""Whether the folder of the spool is the one that it was: its disk may be away, or be another.

Without this, what comes while a disk is not mounted would be written below its mount point,
acknowledged, and hidden as soon as the disk is back.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from pathlib import Path

from rpc_kit.private_files import write_new

MARK = "spool_uid"
"""The file that tells one spool from another."""


class Place:
    """A spool's folder, known by a mark in it, which is made where there is none.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._mark = root / MARK
        self.uid = ""
        """What the mark says; empty: there is none, and none could be made."""
        with contextlib.suppress(OSError):
            write_new(self._mark, f"{secrets.token_hex(8)}\n".encode())
            self.uid = self._mark.read_text().strip()

    def check(self) -> None:
        """Return if the folder is the one that it was.

        Raises:
            OSError: It is away, or another one.
        """
        if not self.uid:
            return
        try:
            found = self._mark.read_text().strip()
        except FileNotFoundError:
            raise OSError(
                errno.ENODEV, "the disk of the spool is away", str(self._mark.parent)
            ) from None
        if found != self.uid:
            raise OSError(errno.ENODEV, "another disk is there", str(self._mark.parent))
