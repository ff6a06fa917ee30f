"""A few failures among all tests get a second look; many, and lost jobs, do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "run_tests.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def failing(times: int, folder: Path, name: str = "test_it.py") -> Path:
    """A test that fails so often, and notes each time that it is run."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "from pathlib import Path\n"
        "def test_it():\n"
        "    runs = Path(__file__).with_suffix('.runs')\n"
        "    done = runs.stat().st_size if runs.exists() else 0\n"
        "    runs.write_text('x' * (done + 1))\n"
        f"    assert done >= {times}\n"
    )
    return path.with_suffix(".runs")


def test_tests_that_pass_are_run_once(tmp_path: Path) -> None:
    runs = failing(0, tmp_path)
    done = run(tmp_path)
    assert (done.returncode, runs.read_text()) == (0, "x")
    assert "FLAKY" not in done.stdout


def test_one_that_failed_once_has_to_pass_three_times(tmp_path: Path) -> None:
    runs = failing(1, tmp_path)
    done = run(tmp_path)
    assert (done.returncode, runs.read_text()) == (0, "xxxx")
    assert "FLAKY" in done.stdout
    assert done.stdout.rstrip().endswith("test_it.py::test_it")


@pytest.mark.parametrize("times", [2, 100])
def test_one_that_fails_again_has_failed(tmp_path: Path, times: int) -> None:
    runs = failing(times, tmp_path)
    done = run(tmp_path)
    assert (done.returncode, runs.read_text()) == (1, "xx")
    assert "FLAKY" not in done.stdout


def test_a_lost_job_gets_no_second_look(tmp_path: Path) -> None:
    runs = failing(1, tmp_path, "tests/crash/test_it.py")
    done = run(tmp_path)
    assert (done.returncode, runs.read_text()) == (1, "x")


def test_many_that_fail_get_no_second_look(tmp_path: Path) -> None:
    runs = [failing(1, tmp_path, f"test_{number}.py") for number in range(6)]
    assert run(tmp_path).returncode == 1
    assert [each.read_text() for each in runs] == ["x"] * 6


def test_what_is_no_failure_of_a_test_is_told_as_pytest_tells_it(tmp_path: Path) -> None:
    assert run(tmp_path, "--no-such-option").returncode == 4
