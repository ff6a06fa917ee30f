from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from skyport.terminal.v1 import job_pb2
from terminals.cli.commands import submit
from terminals.client import CallFailed, Client
from tests.cli.terminal import Swm
from tests.client.certificates import Installation
from tests.client.fake_core import FakeCore
from tests.client.fake_jobs import read_manifest

ID = re.compile(r"j[0-9a-f]{12}\n")


def script(swm: Swm, *lines: str, name: str = "job.sh") -> str:
    (swm.cwd / name).write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    return name


def test_submit_prints_the_id_alone(swm: Swm, core: FakeCore) -> None:
    result = swm("submit", script(swm, "#SWM warn mind the step", "true"))
    assert result.code == 0
    assert ID.fullmatch(result.out)
    assert result.err == "job.sh:2: warning: mind the step\n"
    assert list(core.state.jobs) == [result.out.strip()]


def test_a_script_may_come_on_standard_input(swm: Swm, core: FakeCore) -> None:
    result = swm("submit", "-", stdin="#!/bin/sh\n#SWM warn so so\n")
    assert ID.fullmatch(result.out)
    assert result.err == "<stdin>:2: warning: so so\n"


def test_options_reach_the_job(swm: Swm, core: FakeCore) -> None:
    (swm.cwd / "in.txt").write_text("data")
    job_id = swm.ok(
        *("submit", script(swm, "#SWM output-files a"), "--name", "n", "--site", "here"),
        *("-i", "in.txt", "-o", "b", "--env", "A=1=2", "--env", "B="),
    ).strip()
    spec = core.state.jobs[job_id].spec
    assert (spec.name, spec.site, dict(spec.env)) == ("n", "here", {"A": "1=2", "B": ""})
    assert list(spec.output_files) == ["a", "b"]
    assert [entry.path for entry in read_manifest(core.state.manifests[job_id])] == ["in.txt"]


def test_a_secret_comes_from_the_environment_and_is_shown_nowhere(swm: Swm, core: FakeCore) -> None:
    name = script(swm, 'echo "got $TOKEN" | tr a-z A-Z')
    result = swm("submit", name, "--secret-env", "TOKEN", "--wait", "--json", TOKEN="s3cret")
    assert result.code == 0
    job = json.loads(result.out)
    assert core.state.secrets[job["job_id"]] == {"TOKEN": "s3cret"}
    assert "s3cret" not in result.out + result.err
    assert swm.ok("logs", job["job_id"]) == "GOT S3CRET\n"
    assert "s3cret" not in swm.ok("show", job["job_id"]) + swm.ok("jobs", "--json")


@pytest.mark.parametrize("given", ["TOKEN=s3cret", "NOT_SET"])
def test_a_secret_is_given_by_name_only_and_has_to_be_set(swm: Swm, given: str) -> None:
    result = swm("submit", script(swm), "--secret-env", given)
    assert result.code == 2
    assert "s3cret" not in result.err
    assert result.err.count("\n") == 1


def test_wait_ends_with_the_jobs_exit_code(swm: Swm) -> None:
    result = swm("submit", script(swm, "exit 7"), "--wait")
    assert result.code == 7
    assert ID.fullmatch(result.out)
    assert "failed: ended with exit code 7" in result.err


def test_dry_run_tells_and_changes_nothing(swm: Swm, core: FakeCore) -> None:
    (swm.cwd / "in.txt").write_bytes(b"x" * 2048)
    name = script(swm, "#SWM cpus 4", "#SWM input-files in.txt")
    out = swm.ok("submit", "--dry-run", name)
    assert "asks for  4 cpus\n" in out
    assert "inputs    1 file, 2K\n" in out
    assert re.search(r"^here +here-all +- +- +-$", out, re.MULTILINE)
    checked = json.loads(swm.ok("submit", "--dry-run", "--json", name))
    assert checked["spec"]["input_files"] == ["in.txt"]
    assert not core.state.jobs
    assert "Upload" not in core.state.calls


def test_a_dry_run_names_missing_inputs(swm: Swm) -> None:
    result = swm("submit", "--dry-run", script(swm, "#SWM input-files nope"))
    assert (result.code, result.out) == (1, "")
    assert "input nope: there is no such file" in result.err


# Bad input: nothing is submitted, and the lines say what and where.


def test_mistakes_in_a_script_are_told_with_their_lines(swm: Swm, core: FakeCore) -> None:
    result = swm("submit", script(swm, "#SWM nmae x", "", "#SWM bogus y"))
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        'job.sh:2: unknown directive "nmae"\njob.sh:4: unknown directive "bogus"\n'
    )
    assert not core.state.jobs


def test_a_submit_that_stays_without_an_answer_says_where_to_look(
    core: FakeCore,
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("terminals.client.submit._SUBMIT_PATIENCE_S", 0.0)
    core.state.faults.submit_answers_lost = 100
    with Client(installation.bundle(core.endpoint)) as client, pytest.raises(CallFailed):
        submit._send(client, "job.sh", b"true", None, job_pb2.JobOverrides(), {})
    assert "whether the job was submitted is told by `swm jobs`" in capsys.readouterr().err
    assert len(core.state.jobs) == 1


def test_an_empty_script_is_refused(swm: Swm) -> None:
    (swm.cwd / "empty.sh").write_text("")
    result = swm("submit", "empty.sh")
    assert (result.code, result.err) == (1, "swm: empty.sh: the script is empty\n")


def test_an_unknown_site_is_refused_with_those_there_are(swm: Swm) -> None:
    result = swm("submit", script(swm), "--site", "nope")
    assert (result.code, result.err) == (1, 'swm: there is no site "nope"; there is: here\n')


def test_a_script_that_is_not_there(swm: Swm) -> None:
    result = swm("submit", "nope.sh")
    assert result.code == 1
    assert result.err == "swm: nope.sh: No such file or directory; name a script\n"


def test_a_script_over_a_mebibyte_is_not_sent(swm: Swm, core: FakeCore) -> None:
    (swm.cwd / "big.sh").write_bytes(b"#" * ((1 << 20) + 1))
    result = swm("submit", "big.sh")
    assert result.code == 1
    assert result.err.startswith("swm: big.sh: a script has at most 1 MiB")
    assert not core.state.calls


def test_missing_and_colliding_inputs_are_each_a_line(swm: Swm, core: FakeCore) -> None:
    for folder in ("a", "b"):
        (swm.cwd / folder).mkdir()
        (swm.cwd / folder / "x").write_text(folder)
    args = ["-i", "nope", "-i", f"{swm.cwd}/a/x", "-i", f"{swm.cwd}/b/x", "-i", "../up"]
    result = swm("submit", script(swm), *args)
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("swm: input nope: there is no such file")
    assert "would both land on x" in lines[1]
    assert "outside the work folder" in lines[2]
    assert not core.state.jobs


@pytest.mark.parametrize("pair", ["A", "=x", "1A=x", "A B=x"])
def test_an_env_that_is_no_pair_is_a_usage_error(swm: Swm, pair: str) -> None:
    result = swm("submit", script(swm), "--env", pair)
    assert result.code == 2
    assert "is not NAME=VALUE; see `swm submit --help`" in result.err


# A whole life, through the command line alone.


def test_inputs_go_and_outputs_come(swm: Swm, core: FakeCore, tmp_path: Path) -> None:
    (swm.cwd / "data").mkdir()
    (swm.cwd / "data/n").write_text("3\n4\n")
    name = script(
        swm,
        "#SWM input-files data",
        "#SWM output-files out/*",
        "mkdir out; wc -l < data/n > out/count",
        "echo done; echo oops >&2",
    )
    job_id = swm.ok("submit", name).strip()
    assert swm("wait", job_id).code == 0
    out = swm.ok("fetch", job_id, "-d", "results")
    assert out == "results: 1 output (2 received), and stdout.log stderr.log\n"
    results = swm.cwd / "results"
    assert (results / "out/count").read_text().strip() == "2"
    assert (results / "stdout.log").read_text() == "done\n"
    assert (results / "stderr.log").read_text() == "oops\n"
    assert core.state.jobs[job_id].state == job_pb2.JOB_STATE_SUCCEEDED
