"""A clock on the wall that a test sets, for the processes of a core: jumps, and nights asleep.

The library libfaketime gives them another time of day. As when a machine's clock is set, or a
machine has slept, the monotonic clock knows nothing of it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_LIBRARY = "faketime/libfaketimeMT.so.1"


class Clock:
    """One clock.

    Args:
        file: A new file, which tells the processes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead_s = 0
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Go forward, or backward, at once."""
        self.ahead_s += seconds
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{self.ahead_s:+d}\n")
        fresh.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What has a process go by this clock; the test is left out where the library lacks."""
        library = next(Path("/usr/lib").glob(f"*/{_LIBRARY}"), None)
        if library is None:
            end = pytest.fail if os.environ.get("CI") else pytest.skip
            end("a clock that is set takes the package libfaketime")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # So many seconds pass until a jump is noticed; to look at each call is slow.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
