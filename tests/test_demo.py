"""`make demo` shows what the README says, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "tools" / "demo.sh"
EXAMPLE = ROOT / "examples" / "wordcount"
WITHIN_S = 110
ENDS_WITHIN_S = 5

# What differs from one time to the next, and what stands for it.
_VARYING = (
    (r"(?<=127\.0\.0\.1:)\d+", "PORT"),
    (r"(?<=process )\d+", "PID"),
    (r"\b\d\d-\d\d \d\d:\d\d\b", "WHEN"),
    (r"\b\d+s\b", "AGE"),
    (r"\bssh \d+\.\d+\.\d+", "ssh VERSION"),
    (r"[ \t]+", " "),
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which all that the demo makes lies below a folder of the test."""
    return environment_in(tmp_path)


def environment_in(folder: Path) -> dict[str, str]:
    own = str(Path(sys.executable).parent)
    home = folder / "home"
    home.mkdir()
    return {
        **os.environ,
        "HOME": str(home),
        "TMPDIR": str(folder),
        "PATH": f"{own}:{os.environ['PATH']}",
    }


class Visitor(NamedTuple):
    """An ordinary account of this machine."""

    prefix: list[str]
    """What begins its commands; empty where such an account runs the tests themselves."""
    folder: Path
    """Where it may write."""
    environment: dict[str, str]


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    folder = Path(tempfile.mkdtemp(prefix="demo"))
    environment = environment_in(folder)
    prefix = []
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        for path in (folder, folder / "home"):
            os.chown(path, account.pw_uid, account.pw_gid)
        environment |= {"USER": account.pw_name, "LOGNAME": account.pw_name}
        environment.pop("XDG_RUNTIME_DIR", None)
        prefix = _prefix_of(account)
    yield Visitor(prefix, folder, environment)
    shutil.rmtree(folder, ignore_errors=True)


def _prefix_of(account: pwd.struct_passwd) -> list[str]:
    is_account = ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    prefix = ["setpriv", *is_account, "--no-new-privs"]
    plain = [*prefix, "--bounding-set", "-all"]
    needed = ["test", "-r", str(DEMO), "-a", "-x", sys.executable]
    if subprocess.run([*plain, *needed], check=False).returncode == 0:
        return plain
    # The checkout or its Python lies where only root may look: that alone is made up for.
    look = "-all,+dac_read_search"
    return [*prefix, "--bounding-set", look, "--inh-caps", look, "--ambient-caps", look]


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


def assert_nothing_is_left(folder: Path) -> None:
    """What follows a job's output looks once a second whether its gate is still there."""
    until = time.monotonic() + ENDS_WITHIN_S
    while left := list(processes_with(str(folder))):
        assert time.monotonic() < until, [
            (pid, Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in left
        ]
        time.sleep(0.1)
    assert [path.name for path in folder.rglob("*")] == ["home"]


def session(text: str) -> str:
    """A session as it is each time."""
    found = re.search(r"^\$ swm submit .*\n([a-z0-9]+)$", text, re.MULTILINE)
    assert found
    text = text.replace(found[1], "JOB")
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return text.strip()


def test_an_ordinary_account_sees_the_session_of_the_readme_and_nothing_is_left_behind(
    visitor: Visitor,
) -> None:
    done = subprocess.run(
        [*visitor.prefix, "sh", "-c", 'id -u; exec "$0"', DEMO],
        env=visitor.environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_is_left(visitor.folder)
    uid, _, told = done.stdout.partition("\n")
    assert int(uid) != 0
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"^```\n(\$ swm up\n.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert shown
    assert session(told).startswith(session(shown[1]))


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


def test_the_readme_shows_the_script_of_the_demo() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"^```sh\n(#!/bin/sh\n.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert shown
    script = (EXAMPLE / "wordcount.sh").read_text().splitlines()
    for line in shown[1].splitlines():
        assert line in script


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, "$ swm up"),  # the core is being started
        (signal.SIGINT, "core up at"),
        (signal.SIGINT, "$ swm forward"),  # the job is being started
        (signal.SIGINT, "place 1"),  # it runs
        (signal.SIGTERM, "place 1"),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path, line: str, number: signal.Signals
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
        for each in demo.stdout:
            if each.startswith(line):
                # As a terminal does it: to all that runs in the foreground.
                os.killpg(demo.pid, number)
                break
        demo.stdout.read()
    assert demo.wait(60) == 128 + number
    assert_nothing_is_left(tmp_path)
