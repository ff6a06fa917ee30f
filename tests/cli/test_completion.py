from __future__ import annotations

import dataclasses
import datetime
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from skyport.terminal.v1 import job_pb2
from tests.cli.terminal import SWM, Swm
from tests.client.certificates import Installation
from tests.client.fake_core import FakeCore


def completions(swm: Swm, *words: str) -> list[str]:
    """What bash is told for the last of `words`."""
    out = swm.ok(
        _SWM_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(("swm", *words)),
        COMP_CWORD=str(len(words)),
    )
    return [line.partition(",")[2] for line in out.splitlines() if line]


def test_commands_and_options_are_completed(swm: Swm) -> None:
    assert completions(swm, "fl") == ["flavors"]
    assert sorted(completions(swm, "re")) == ["requeue", "restore"]
    assert "--follow" in completions(swm, "submit", "--f")


def test_job_ids_are_completed(swm: Swm, core: FakeCore) -> None:
    for job_id in ("abc1", "abc2", "xyz"):
        core.state.add(job_id, state=job_pb2.JOB_STATE_RUNNING)
    assert sorted(completions(swm, "show", "ab")) == ["abc1", "abc2"]
    assert sorted(completions(swm, "cancel", "abc1", "x")) == ["xyz"]


def test_without_a_core_nothing_is_completed_quietly(swm: Swm, core: FakeCore) -> None:
    core.stop()
    result = swm(_SWM_COMPLETE="bash_complete", COMP_WORDS="swm show a", COMP_CWORD="2")
    assert (result.code, result.out.strip(), result.err) == (0, "", "")


@pytest.mark.parametrize("words", ["swm show a", "swm site drain h", "swm orphans --delete a"])
def test_a_certificate_that_ends_soon_is_not_told_into_the_line(
    swm: Swm, core: FakeCore, installation: Installation, words: str
) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    bundle = dataclasses.replace(installation.bundle(core.endpoint), expires=soon.isoformat())
    bundle.replace(Path(swm.environment["SWM_HOME"]) / "client.toml")
    assert "your certificate ends in" in swm("jobs").err
    number = str(len(words.split()) - 1)
    result = swm(_SWM_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    assert (result.code, result.err) == (0, "")


def test_a_slow_core_is_not_waited_for(swm: Swm, core: FakeCore) -> None:
    core.state.faults.slow_list_s = 20
    began = time.monotonic()
    assert completions(swm, "show", "a") == []
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_one_that_it_takes(swm: Swm, shell: str) -> None:
    script = swm.ok("completion", shell)
    assert "_SWM_COMPLETE" in script
    if shutil.which(shell):
        flag = "--no-execute" if shell == "fish" else "-n"
        subprocess.run([shell, flag], input=script.encode(), timeout=30, check=True)


def test_bash_completes_with_the_script(swm: Swm) -> None:
    script = swm.ok("completion", "bash")
    asking = 'COMP_WORDS=("$0" fl); COMP_CWORD=1; _swm_completion "$0"; echo "${COMPREPLY[@]}"'
    ask = f"{script}\n{asking}"
    done = subprocess.run(
        [
            "bash",
            "--norc",
            "-c",
            ask,
            SWM,
        ],
        env=swm.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "flavors", done


def test_another_shell_is_a_usage_error(swm: Swm) -> None:
    assert swm("completion", "tcsh").code == 2
