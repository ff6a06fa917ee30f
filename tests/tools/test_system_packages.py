"""What the tests need of the system: installed by root, named to everybody else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LIST = """\
# package  probe
there      true
lacking    false

other      test -e /nowhere
"""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A folder with programs in place of the system's; `calls` has how apt-get was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "list").write_text(_LIST)
    _program(
        programs / "apt-get",
        f"""echo "$*" >> "{tmp_path}/calls"
"{tmp_path}/policy"
echo "$?" >> "{tmp_path}/answers"
""",
    )
    return tmp_path


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)


def _run(system: Path, user_id: int) -> subprocess.CompletedProcess[str]:
    _program(system / "bin" / "id", f"echo {user_id}")
    return subprocess.run(
        ["sh", ROOT / "tools" / "system_packages.sh", system / "list"],
        env={"PATH": f"{system / 'bin'}:{os.defpath}", "POLICY_RC_D": str(system / "policy")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_root_installs_what_lacks_and_no_more(system: Path) -> None:
    done = _run(system, 0)
    assert (done.returncode, done.stderr) == (0, "")
    _, install = (system / "calls").read_text().splitlines()
    assert install.startswith("install ")
    assert install.endswith(" lacking other")


def test_no_server_is_started_that_is_installed(system: Path) -> None:
    _run(system, 0)
    assert (system / "answers").read_text() == "101\n101\n"
    assert not (system / "policy").exists()


def test_a_policy_that_is_there_stays(system: Path) -> None:
    _program(system / "policy", "exit 104")
    _run(system, 0)
    assert (system / "answers").read_text() == "104\n104\n"
    assert (system / "policy").exists()


def test_everybody_else_is_told_the_names_and_nothing_is_installed(system: Path) -> None:
    done = _run(system, 1_000)
    assert done.returncode == 1
    assert done.stderr.endswith(": lacking other\n")
    assert not (system / "calls").exists()


@pytest.mark.parametrize("user_id", [0, 1_000])
def test_where_nothing_lacks_nothing_is_done(system: Path, user_id: int) -> None:
    (system / "list").write_text("there true\n")
    done = _run(system, user_id)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (system / "calls").exists()


def test_the_list_of_the_tests_is_one() -> None:
    lines = (ROOT / "tests" / "system-packages.txt").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            assert len(line.split(maxsplit=1)) == 2, line
