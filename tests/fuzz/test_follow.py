"""A moment of fuzzing that follows covered code; `make fuzz SECONDS=600` takes its time."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import run

RUNS = 2_000
"""Always the same inputs: by number, not by time."""


@pytest.mark.timeout(400)  # most of it is loading
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.version_info >= (3, 14),
    reason="there is no atheris for this platform",
)
@pytest.mark.parametrize("name", ["script", "stored_manifest", "remote_files"])
def test_following_the_code_finds_nothing(tmp_path: Path, name: str) -> None:
    assert run(name, 60, tmp_path, f"-runs={RUNS}", "-seed=1")
