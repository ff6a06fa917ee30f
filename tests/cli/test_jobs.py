from __future__ import annotations

import json
import signal

import pytest

from skyport.common.v1.money_pb2 import Money
from skyport.terminal.v1 import job_pb2, types_pb2
from tests.cli.terminal import Swm
from tests.client.fake_core import FakeCore

QUEUED = job_pb2.JOB_STATE_QUEUED
RUNNING = job_pb2.JOB_STATE_RUNNING
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
FAILED = job_pb2.JOB_STATE_FAILED


def listed(swm: Swm, *args: str) -> list[str]:
    return [json.loads(line)["job_id"] for line in swm.ok("jobs", "--json", *args).splitlines()]


def test_no_jobs_are_said_beside_the_output(swm: Swm) -> None:
    result = swm("jobs")
    assert (result.code, result.out) == (0, "")
    assert "swm submit" in result.err


@pytest.mark.parametrize("args", [["--state", "failed"], ["--site", "none"], ["--owner", "bob"]])
def test_no_jobs_of_those_asked_for_are_said_as_such(swm: Swm, args: list[str]) -> None:
    result = swm("jobs", *args)
    assert (result.code, result.out, result.err) == (0, "", "swm: no such jobs\n")


def test_active_jobs_and_the_latest_ended_ones_are_listed(swm: Swm, core: FakeCore) -> None:
    core.state.add("old-active", state=RUNNING)
    for number in range(230):
        core.state.add(f"ended-{number}", state=SUCCEEDED)
    core.state.add("new-active")
    found = listed(swm)
    assert found[0] == "new-active"
    assert found[1:21] == [f"ended-{number}" for number in range(229, 209, -1)]
    assert found[21:] == ["old-active"]
    assert len(listed(swm, "--all")) == 232
    assert listed(swm, "--state", "active") == ["new-active", "old-active"]
    assert listed(swm, "--state", "R") == ["old-active"]
    assert len(listed(swm, "--state", "f")) == 230


def test_the_latest_ended_jobs_are_listed_behind_many_active_ones(swm: Swm, core: FakeCore) -> None:
    for number in range(25):
        core.state.add(f"ended-{number}", state=SUCCEEDED)
    for number in range(230):
        core.state.add(f"active-{number}")
    found = listed(swm)
    assert len(found) == 250
    assert found[230:] == [f"ended-{number}" for number in range(24, 4, -1)]


def test_jobs_are_filtered_by_site_and_owner(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", site="here")
    core.state.add("j2", site="there")
    core.state.jobs["j2"].owner = "bob"
    assert listed(swm, "--site", "there") == ["j2"]
    assert listed(swm, "--owner", "ann") == ["j1"]
    assert "OWNER" in swm.ok("jobs").splitlines()[0]
    assert "OWNER" not in swm.ok("jobs", "--owner", "ann").splitlines()[0]


def test_columns_are_aligned_and_plain_when_piped(swm: Swm, core: FakeCore) -> None:
    spec = job_pb2.JobSpec(name="train\x1b[31m")
    core.state.add("j1", spec=spec, site="here", state=RUNNING, text="a\nb")
    core.state.add("j2-longer")
    head, second, first = swm.ok("jobs").splitlines()
    assert head.split() == ["JOB", "NAME", "STATE", "SITE", "SUBMITTED", "TIME", "DETAIL"]
    assert first.index("RUNNING") == second.index("QUEUED") == head.index("STATE")
    assert "\x1b" not in first
    assert first.endswith("a b")


def test_json_has_the_names_of_the_protos_and_one_object_a_line(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=FAILED, exit_code=0, spec=job_pb2.JobSpec(memory_bytes=1 << 40))
    (line,) = swm.ok("jobs", "--json").splitlines()
    job = json.loads(line)
    assert job["state"] == "JOB_STATE_FAILED"
    assert job["exit_code"] == 0
    assert job["spec"]["memory_bytes"] == str(1 << 40)
    assert "submit_time" in job


def test_show_tells_all_and_what_to_do(swm: Swm, core: FakeCore) -> None:
    failure = types_pb2.Failure(reason="NODE_FAIL", message="node n1 went away", retryable=True)
    job = core.state.add(
        "j1",
        state=FAILED,
        attempt=1,
        site="here",
        partition_id="here-all",
        failure=failure,
        cost=Money(currency_code="USD", units=1, nanos=750_000_000),
        spec=job_pb2.JobSpec(name="train", cpus=4, output_files=["out"], env={"A": "1"}),
        outputs_collected=True,
    )
    attempt = job.attempts.add(number=1, site="here", partition_id="here-all", failure=failure)
    attempt.nodes.add(name="n1")
    attempt.start_time.seconds = 1_700_000_000
    attempt.end_time.seconds = 1_700_003_600
    attempt.max_memory_bytes = 3 << 30
    out = swm.ok("show", "j")
    for text in (
        "j1  train",
        "FAILED since",
        "node n1 went away (NODE_FAIL); run it again with `swm requeue j1`",
        "swm logs j1",
        "4 cpus",
        "A=1",
        "out; get them: swm fetch j1",
        "1.75 USD",
    ):
        assert text in out
    last = out.splitlines()[-1].split()
    assert last[:4] == ["1", "here", "here-all", "n1"]
    assert "1h" in last
    assert "3G" in last
    assert json.loads(swm.ok("show", "--json", "j1"))["attempts"][0]["number"] == 1


def test_an_id_may_be_shortened_while_it_is_the_only_one(swm: Swm, core: FakeCore) -> None:
    core.state.add("abc1")
    core.state.add("abd2")
    assert "abc1" in swm.ok("show", "abc")
    result = swm("show", "ab")
    assert result.code == 1
    assert result.err == 'swm: several job ids begin with "ab": abd2, abc1; type more of it\n'
    result = swm("show", "x")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert 'no job "x"' in result.err


def test_wait_for_several_ends_with_the_first_failure(swm: Swm, core: FakeCore) -> None:
    failure = types_pb2.Failure(reason="EXIT_CODE", message="ended with exit code 9")
    core.state.add("j1", state=SUCCEEDED)
    core.state.add("j2", state=FAILED, exit_code=9, failure=failure)
    process = swm.popen("wait", "j1", "j2", "j3", "j2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b'no job "j3"' in err
    result = swm("wait", "--json", "j1", "j2", "j2")
    assert result.code == 9
    assert [json.loads(line)["job_id"] for line in result.out.splitlines()] == ["j1", "j2"]
    assert result.err == "swm: job j2 failed: ended with exit code 9\n"


def test_wait_comes_back_when_the_job_ends(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=RUNNING)
    process = swm.popen("wait", "j1")
    core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
    core.restart()
    core.state.move("j1", SUCCEEDED)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_ctrl_c_ends_a_wait_and_says_how_to_cancel(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=RUNNING)
    core.state.add("j2", state=RUNNING)
    process = swm.popen("wait", "j1", "j2")
    core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"swm cancel j1 j2" in err


def test_cancel_does_all_it_can_and_fails_if_one_failed(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1")
    core.state.add("j2", state=RUNNING)
    core.state.add("j3", state=SUCCEEDED)
    result = swm("cancel", "j1", "nope", "j2", "j3")
    assert result.code == 1
    assert result.out == "j1  CANCELLED\nj2  RUNNING, to be cancelled\nj3  SUCCEEDED\n"
    assert result.err.count("\n") == 1
    assert swm.ok("cancel", "--force", "j2") == "j2  CANCELLED\n"


def test_requeue_needs_an_end_and_the_secrets(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=RUNNING)
    assert "has not ended" in swm("requeue", "j1").err
    core.state.move("j1", FAILED)
    core.state.secrets["j1"] = {"TOKEN": "x"}
    result = swm("requeue", "j1")
    assert (result.code, result.out) == (1, "")
    assert "give them again" in result.err
    assert swm.ok("requeue", "j1", "--secret-env", "TOKEN", TOKEN="x") == "j1\n"
    assert core.state.jobs["j1"].state == QUEUED


def test_a_requeue_whose_answer_is_lost_is_one(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=FAILED, attempt=1)
    core.state.faults.requeue_answers_lost = 1
    assert swm.ok("requeue", "j1") == "j1\n"
    assert core.state.calls.count("RequeueJob") == 2
    assert core.state.jobs["j1"].state == QUEUED
    # Of one that has not ended nothing was asked before.
    core.state.move("j1", RUNNING)
    assert "has not ended" in swm("requeue", "j1").err


def test_a_delete_whose_answer_is_lost_is_done(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=SUCCEEDED)
    core.state.faults.delete_answers_lost = 1
    swm.ok("delete", "j1")
    assert core.state.calls.count("DeleteJob") == 2
    assert not core.state.jobs
    assert swm("delete", "j1").code == 1


def test_delete_forgets_what_has_ended(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=SUCCEEDED)
    core.state.add("j2", state=RUNNING)
    result = swm("delete", "j1", "j2")
    assert (result.code, result.out) == (1, "")
    assert "cancel it first" in result.err
    assert list(core.state.jobs) == ["j2"]


@pytest.mark.parametrize("state", ["nope", "QQ"])
def test_a_state_there_is_not_is_a_usage_error(swm: Swm, state: str) -> None:
    result = swm("jobs", "--state", state)
    assert result.code == 2
    assert result.err.count("\n") == 1
