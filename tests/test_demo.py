"""`make demo` shows what the README says, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "tools" / "demo.sh"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which all that the demo makes lies below a folder of the test."""
    own = str(Path(sys.executable).parent)
    return {**os.environ, "TMPDIR": str(tmp_path), "PATH": f"{own}:{os.environ['PATH']}"}


def processes_with(text: str) -> Iterator[int]:
    """Processes whose command line or environment holds `text`."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if text.encode() in told:
                yield int(folder.name)


def test_the_demo_runs_a_job_and_shows_its_results(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [DEMO], env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "place 1: 27 the" in done.stdout
    assert re.search(r"^wordcount|\bSUCCEEDED\b", done.stdout, re.MULTILINE)
    assert re.search(r"^ +27 the$", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
    assert list(processes_with(str(tmp_path))) == []


def test_the_readme_shows_the_session_of_the_demo() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"^\$ (swm .*)$", readme, re.MULTILINE)
    commands = re.findall(r"^run (swm .*)$", DEMO.read_text(), re.MULTILINE)
    assert shown
    for command in shown:
        verb = " ".join(command.split()[:2])
        assert any(each.startswith(verb) for each in commands), command


def test_the_readme_says_where_the_command_is() -> None:
    line = re.search(r"`(export PATH=[^`]*)`", (ROOT / "README.md").read_text())
    assert line
    find = f'cd "$0" && {line[1]} && command -v swm'
    found = subprocess.run(
        ["sh", "-c", find, ROOT],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == f"{ROOT}/.venv/bin/swm\n"


def test_a_core_that_cannot_start_at_its_port_is_made_anew(
    environment: dict[str, str], tmp_path: Path
) -> None:
    own = 'PATH="$PWD/.venv/bin:$PATH"'
    text = DEMO.read_text()
    assert own in text
    # An `swm` that fails at its first `up`, as it does when another core has the port by then.
    first = tmp_path / "first"
    first.mkdir()
    command = first / "swm"
    command.write_text(
        f"""#!/bin/sh
if [ "$1" = up ] && mkdir "{first}/failed"; then exit 1; fi
exec "{Path(sys.executable).with_name("swm")}" "$@"
"""
    )
    command.chmod(0o700)
    script = first / "demo.sh"
    script.write_text(
        text.replace(own, f"PATH='{first}':$PATH").replace('"$(dirname "$0")/.."', f"'{ROOT}'")
    )
    done = subprocess.run(
        ["sh", script], env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("$ swm up\n") == 2
    assert "place 1: 27 the" in done.stdout


def test_an_interrupted_demo_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path
) -> None:
    demo = subprocess.Popen(
        [DEMO],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    with demo.stdout:
        for line in demo.stdout:
            if line.startswith("place 1"):
                # As a terminal does it: to all that runs in the foreground.
                os.killpg(demo.pid, signal.SIGINT)
                break
        demo.stdout.read()
    assert demo.wait(60) == 130
    assert list(tmp_path.iterdir()) == []
    assert list(processes_with(str(tmp_path))) == []
