from __future__ import annotations

import json

import pytest

from skyport.common.v1.manifest_pb2 import SkippedFile
from skyport.terminal.v1 import job_pb2
from tests.cli.terminal import Swm
from tests.client.fake_core import FakeCore


@pytest.fixture(autouse=True)
def job(core: FakeCore) -> job_pb2.Job:
    job = core.state.add(
        "j1",
        state=job_pb2.JOB_STATE_SUCCEEDED,
        attempt=1,
        outputs_collected=True,
        spec=job_pb2.JobSpec(stdout="logs/out.txt"),
    )
    core.state.write("j1", b"said\n")
    core.state.write("j1", b"cried\n", stderr=True)
    core.state.finish_logs("j1")
    core.state.output("j1", "a.csv", b"1,2\n")
    core.state.output("j1", "d/b.txt", b"x" * 5000)
    return job


def test_everything_lands_under_its_name(swm: Swm) -> None:
    swm.ok("fetch", "j1")
    assert (swm.cwd / "a.csv").read_text() == "1,2\n"
    assert (swm.cwd / "d/b.txt").stat().st_size == 5000
    assert (swm.cwd / "logs/out.txt").read_text() == "said\n"
    assert (swm.cwd / "stderr.log").read_text() == "cried\n"


def test_patterns_choose_among_outputs_and_logs(swm: Swm) -> None:
    out = swm.ok("fetch", "j1", "*.csv", "-d", "to")
    assert out == "to: 1 output (4 received)\n"
    assert [path.name for path in (swm.cwd / "to").iterdir()] == ["a.csv"]
    swm.ok("fetch", "j1", "logs", "-d", "logs-only")
    assert (swm.cwd / "logs-only/logs/out.txt").exists()
    assert not (swm.cwd / "logs-only/a.csv").exists()


def test_a_pattern_that_matches_nothing_is_an_error(swm: Swm) -> None:
    result = swm("fetch", "j1", "*.csv", "*.nope")
    assert result.code == 1
    assert result.err == "swm: nothing matches *.nope\n"
    assert (swm.cwd / "a.csv").exists()


def test_what_could_not_be_taken_is_said(swm: Swm, core: FakeCore) -> None:
    core.state.skipped["j1"] = [SkippedFile(path="sock", reason="socket")]
    result = swm("fetch", "j1")
    assert result.code == 0
    assert result.err == "swm: sock could not be taken from the site: socket\n"


def test_a_damaged_file_is_an_error(swm: Swm, core: FakeCore) -> None:
    core.state.faults.corrupt_downloads = 100
    result = swm("fetch", "j1", "a.csv")
    assert result.code == 1
    assert "a.csv: it arrived damaged" in result.err


def test_json_lists_what_was_fetched(swm: Swm) -> None:
    lines = swm.ok("fetch", "j1", "--json", "*.csv").splitlines()
    assert [json.loads(line)["entry"]["path"] for line in lines] == ["a.csv"]


def test_an_output_with_the_name_of_a_log_wins(swm: Swm, core: FakeCore) -> None:
    core.state.output("j1", "stderr.log", b"the job's own")
    result = swm("fetch", "j1")
    assert (swm.cwd / "stderr.log").read_text() == "the job's own"
    assert "stderr.log is an output of the job" in result.err


def test_a_log_with_an_evil_name_is_not_written(swm: Swm, core: FakeCore, job: job_pb2.Job) -> None:
    job.spec.stdout = "../../evil"
    result = swm("fetch", "j1")
    assert result.code == 1
    assert "no path below a folder" in result.err
    assert not (swm.cwd.parent.parent / "evil").exists()


def test_what_was_not_kept_of_a_log_is_marked_in_the_file(swm: Swm, core: FakeCore) -> None:
    core.state.log("j1").kept_from = 3
    result = swm("fetch", "j1")
    assert (swm.cwd / "logs/out.txt").read_text() == (
        "\n[3 bytes that the job wrote here were not kept]\nd\n"
    )
    assert "were not kept" in result.err


def test_each_node_that_runs_the_script_has_a_log(
    swm: Swm, core: FakeCore, job: job_pb2.Job
) -> None:
    job.spec.launch = job_pb2.LAUNCH_EVERY
    for name in ("n1", "n2"):
        job.nodes.add(name=name)
    core.state.log("j1", node="n2").data = b"from n2\n"
    core.state.log("j1", node="n2").complete = True
    swm.ok("fetch", "j1")
    assert (swm.cwd / "logs/out.txt").read_text() == "said\n"
    assert (swm.cwd / "logs/out.txt.n2").read_text() == "from n2\n"


def test_a_job_that_has_not_ended_gives_what_there_is(
    swm: Swm, core: FakeCore, job: job_pb2.Job
) -> None:
    job.state = job_pb2.JOB_STATE_RUNNING
    job.outputs_collected = False
    result = swm("fetch", "j1")
    assert result.code == 0
    assert "has not ended: these are its files as they are now" in result.err


def test_a_folder_that_cannot_be_made_is_an_error(swm: Swm) -> None:
    (swm.cwd / "file").write_text("")
    result = swm("fetch", "j1", "-d", "file/sub")
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
