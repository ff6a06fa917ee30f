"""Scratch folders go with their gate, however it ends, and no living gate loses its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate_kit.scratch import Scratch, sweep

_HOLD = """
import sys
from gate_kit.scratch import Scratch
print(Scratch("held").path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # found once, and kept
    yield tmp_path
    monkeypatch.undo()
    tempfile.tempdir = None


def test_it_is_there_while_it_is_used(place: Path) -> None:
    with Scratch("put") as scratch:
        (scratch.path / "within").write_text("x")
        sweep()
        assert (scratch.path / "within").exists()
        assert scratch.path.stat().st_mode & 0o777 == 0o700
    assert list(place.iterdir()) == []


def test_what_a_killed_gate_has_left_is_removed_by_the_next(place: Path) -> None:
    gate = subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with gate:
        assert gate.stdout is not None
        folder = Path(gate.stdout.readline().strip())
        (folder / "within").write_text("x")
        sweep()
        assert folder.exists()
        gate.kill()
        gate.wait()
        sweep()
    assert list(place.iterdir()) == []


def test_other_things_are_left_alone(place: Path) -> None:
    (place / "other").mkdir()
    (place / "swm-gate-file").touch()
    (place / "swm-gate-link").symlink_to(place / "other")
    sweep()
    assert {path.name for path in place.iterdir()} == {"other", "swm-gate-file", "swm-gate-link"}
