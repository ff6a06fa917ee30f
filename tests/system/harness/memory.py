"""How much memory processes take, as the system counts it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

MiB = 1 << 20


def _kib(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"{name} of process {pid} is missing"
    return int(found[1])


@contextlib.contextmanager
def grows_less_than(limit_bytes: int, *pids: int) -> Iterator[None]:
    """Assert that at no time in between a process has had so much more than at the beginning."""
    before = {}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before[pid] = _kib(pid, "VmRSS")
    yield
    for pid, had in before.items():
        grown = (_kib(pid, "VmHWM") - had) * 1024
        assert grown < limit_bytes, f"process {pid} has grown by {grown / MiB:.0f} MiB"
