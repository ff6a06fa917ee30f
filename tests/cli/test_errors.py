from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from skyport.terminal.v1 import job_pb2
from tests.cli.conftest import environment, swm_for
from tests.cli.terminal import SWM, Swm
from tests.client.certificates import Installation
from tests.client.fake_core import FakeCore
from tests.system.harness.core import free_port


def test_a_core_that_is_not_running(installation: Installation, tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    result = swm_for(tmp_path, installation, endpoint)("jobs")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"swm: nothing listens at {endpoint}: the core is not running; start it with `swm up`\n"
    )


def test_an_expired_certificate(
    core: FakeCore, swm: Swm, installation: Installation, tmp_path: Path
) -> None:
    leaf = installation.user(days=-1)
    path = tmp_path / "expired.toml"
    installation.bundle(core.endpoint, leaf).write_new(path)
    result = swm("jobs", SWM_CLIENT=str(path))
    assert result.code == 1
    assert result.err.startswith("swm: our own certificate expired on ")
    assert result.err.count("\n") == 1


def test_a_core_of_another_installation(core: FakeCore, swm: Swm, tmp_path: Path) -> None:
    other = Installation("other1234567")
    path = tmp_path / "other.toml"
    other.bundle(core.endpoint).write_new(path)
    result = swm("jobs", SWM_CLIENT=str(path))
    assert result.code == 1
    assert "another installation" in result.err
    assert result.err.count("\n") == 1


def test_something_that_is_no_core(installation: Installation, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.listen()
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        swm = swm_for(tmp_path, installation, endpoint)
        # It takes connections and never answers.
        result = swm("status", timeout_s=90)
    assert result.code == 1
    assert result.err.startswith("swm: ")
    assert result.err.count("\n") == 1


def test_no_bundle_says_what_to_do(tmp_path: Path) -> None:
    result = Swm(environment(tmp_path / "home"), tmp_path)("jobs")
    assert result.code == 1
    assert "run `swm up`" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["login", "none.toml"], "none.toml: no such file; name the bundle that you were given"),
        (["restore", "none.tar"], "none.tar: no such file; name one that `swm backup` made"),
    ],
)
def test_a_file_that_is_not_there_is_told_in_a_line(
    tmp_path: Path, args: list[str], says: str
) -> None:
    result = Swm(environment(tmp_path / "home"), tmp_path)(*args)
    assert (result.code, result.out) == (1, "")
    assert result.err.removeprefix("swm-core: ").removeprefix("swm: ") == f"{says}\n"


def test_a_bundle_that_others_can_read_is_refused(swm: Swm, tmp_path: Path) -> None:
    (tmp_path / "home/client.toml").chmod(0o644)
    result = swm("jobs")
    assert result.code == 1
    assert "chmod 600" in result.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["jbos"], 'there is no command "jbos"; did you mean "jobs"?'),
        (["jobs", "--nope"], "no such option"),
        (["show"], "missing argument 'JOB'"),
        (["usage", "--by", "colour"], "'colour' is not one of"),
        (["logs", "j", "-n", "-1"], "-1"),
        (["usage", "--from", "today"], '"today" is no day; write it as 2026-11-01'),
        (["completion"], "Choose from: bash, zsh, fish"),
        (["completion", "tcsh"], "invalid value for 'SHELL': 'tcsh' is not one of"),
        (["usage", "--from", "2026-02-01", "--to", "2026-01-31"], "--from is after --to"),
    ],
)
def test_usage_errors_are_one_line_and_2(swm: Swm, args: list[str], says: str) -> None:
    result = swm(*args)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert says in result.err
    assert "--help`" in result.err


def test_a_defect_is_one_line_and_debug_shows_all(swm: Swm, core: FakeCore, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "google").mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nsys.modules['terminals.cli.commands.jobs'] = None\n"
    )
    result = swm("jobs", PYTHONPATH=str(broken))
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "should not have happened" in result.err
    assert "Traceback" in swm("jobs", PYTHONPATH=str(broken), SWM_DEBUG="1").err


def test_a_full_pipe_closed_early_is_quiet(swm: Swm, core: FakeCore) -> None:
    for number in range(2000):
        core.state.add(f"job-{number}")
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" jobs --all --json | head -n 1', SWM],
        env=swm.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("words", "code", "unbuffered"),
    [
        (["swm", "jobs"], 1, ""),
        (["swm", "logs", "j1"], 1, "1"),
        (["swm", "logs", "-f", "j1"], 1, ""),
        (["swm-core", "check-config"], 1, ""),
        (["swm-core"], 1, "1"),
        (["swm-ssh-gate", "--local", "--check"], 2, ""),
    ],
)
def test_a_full_disk_is_told(
    swm: Swm, core: FakeCore, tmp_path: Path, words: list[str], code: int, unbuffered: str
) -> None:
    core.state.add("j1", state=job_pb2.JOB_STATE_SUCCEEDED, attempt=1)
    core.state.write("j1", b"what it wrote\n", attempt=1)
    (tmp_path / "home/swm.toml").write_text('listen = "127.0.0.1:1"\n')
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [SWM.with_name(words[0]), *words[1:]],
            env={**swm.environment, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    told = f"{words[0]}: standard output can't be written: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (code, told)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_defect(swm: Swm, core: FakeCore, closed: str) -> None:
    core.state.add("j1")
    done = subprocess.run(
        ["bash", "-c", f'"$0" jobs {closed}', SWM],
        env=swm.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"j1" in done.stdout) == (">&- " not in f"{closed} " or closed == "2>&-")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8:strict"])
def test_text_that_the_locale_has_no_letters_for_is_no_defect(
    swm: Swm, core: FakeCore, encoding: str
) -> None:
    core.state.add("j1", spec=job_pb2.JobSpec(name="\N{GREEK SMALL LETTER ALPHA}-test"))
    environment = {**swm.environment, "PYTHONIOENCODING": encoding}
    listing = subprocess.run(
        [SWM, "jobs"], env=environment, cwd=swm.cwd, capture_output=True, check=False
    )
    assert (listing.returncode, listing.stderr) == (0, b"")
    assert b"-test" in listing.stdout
    folder = b"not-utf-8-\xff"
    core.state.move("j1", job_pb2.JOB_STATE_SUCCEEDED, attempt=1)
    fetched = subprocess.run(
        [SWM, "fetch", "j1", "-d", folder],
        env=environment,
        cwd=swm.cwd,
        capture_output=True,
        check=False,
    )
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.startswith(folder if "utf" in encoding else b"not-utf-8-")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--env", b"A=\xff"], 2, b"the value of A is not UTF-8"),
        (["--secret-env", "TOKEN"], 2, b"the value of TOKEN is not UTF-8"),
        (["--name", b"\xff"], 1, b"what was typed is not UTF-8"),
        (["--input", b"\xff"], 1, b"what was typed is not UTF-8"),
    ],
)
def test_what_can_not_be_sent_is_told(
    swm: Swm, args: list[str | bytes], code: int, says: bytes
) -> None:
    (swm.cwd / "job.sh").write_text("#!/bin/sh\n")
    environment = {key.encode(): value.encode() for key, value in swm.environment.items()}
    environment[b"TOKEN"] = b"hidden\xff"
    done = subprocess.run(
        [SWM, "submit", "job.sh", *args],
        env=environment,
        cwd=swm.cwd,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, b"")
    assert says in done.stderr
    assert b"hidden" not in done.stderr


def test_what_grpc_says_by_itself_is_not_shown(swm: Swm, core: FakeCore) -> None:
    core.stop()
    result = swm("jobs")
    assert "ssl_transport" not in result.err
    assert result.err.count("\n") == 1


def test_the_core_is_found_by_swm_home(swm: Swm, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "home", moved)
    (tmp_path / "home").rename(tmp_path / "gone")
    assert swm("jobs").code == 1
    assert swm("jobs", SWM_HOME=str(moved)).code == 0
