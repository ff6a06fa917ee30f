"""How far a transfer is, as told to whoever wants to show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is; `total_bytes` may be corrected while it runs."""

    activity: str
    """For people: what is being done, as `uploading`."""
    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


Report = Callable[[Progress], None]
"""Called about once a MiB or 64 files, by the thread that does the work: it must be quick."""


def silent(_: Progress) -> None:
    """Reports to nobody."""
