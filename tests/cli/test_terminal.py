"""What a person sees on a terminal."""

from __future__ import annotations

from skyport.terminal.v1 import job_pb2
from tests.cli.terminal import Swm
from tests.cli.test_submit import script
from tests.client.fake_core import FakeCore


def test_a_table_fits_the_terminal_and_keeps_ids_whole(swm: Swm, core: FakeCore) -> None:
    spec = job_pb2.JobSpec(name="a-rather-long-name-for-a-job-" * 3)
    core.state.add("job-id-of-some-length", spec=spec, text="waits " * 40)
    for columns in (80, 120):
        with swm.on_terminal("jobs", columns=columns) as terminal:
            assert terminal.finish() == 0
        lines = terminal.text.splitlines()
        assert len(lines) == 2
        assert all(len(line) <= columns for line in lines)
        assert "job-id-of-some-length" in lines[1]
        assert "…" in lines[1]
        assert "\x1b[1m" in terminal.raw, "titles are bold"


def test_colours_can_be_switched_off(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=job_pb2.JOB_STATE_FAILED)
    with swm.on_terminal("jobs") as terminal:
        terminal.finish()
    assert "\x1b[31m" in terminal.raw
    swm.environment["NO_COLOR"] = "1"
    with swm.on_terminal("jobs") as terminal:
        terminal.finish()
    assert "\x1b[31m" not in terminal.raw


def test_an_upload_has_a_bar_on_a_terminal_only(swm: Swm, core: FakeCore) -> None:
    with (swm.cwd / "large").open("wb") as file:
        file.truncate(100 << 20)
    args = ("submit", script(swm), "-i", "large")
    with swm.on_terminal(*args) as terminal:
        assert terminal.finish(60) == 0
    assert "reading" in terminal.text
    assert "uploading" in terminal.text
    assert "1/1 files" in terminal.text
    job_id = next(iter(core.state.jobs))
    assert terminal.text.rstrip().endswith(job_id)
    result = swm(*args)
    assert result.err == ""


def test_a_wait_says_what_it_waits_for_on_a_terminal(swm: Swm, core: FakeCore) -> None:
    core.state.add("j1", state=job_pb2.JOB_STATE_PROVISIONING, text="a machine boots [50%]")
    with swm.on_terminal("wait", "j1") as terminal:
        terminal.read_until("PROVISIONING  a machine boots [50%]")
        core.state.move("j1", job_pb2.JOB_STATE_RUNNING)
        terminal.read_until("RUNNING")
        core.state.move("j1", job_pb2.JOB_STATE_SUCCEEDED)
        assert terminal.finish() == 0


def test_follow_shows_the_way_to_the_start_and_then_the_output_alone(
    swm: Swm, core: FakeCore
) -> None:
    core.runs_jobs = False
    core.restart()
    with swm.on_terminal("submit", "--follow", script(swm)) as terminal:
        core.state.wait_until(lambda: core.state.jobs)
        (job_id,) = core.state.jobs
        terminal.read_until("QUEUED")
        core.state.move(job_id, job_pb2.JOB_STATE_RUNNING, attempt=1)
        core.state.write(job_id, b"hello\n")
        terminal.read_until("hello")
        core.state.finish_logs(job_id)
        core.state.move(job_id, job_pb2.JOB_STATE_SUCCEEDED)
        assert terminal.finish() == 0
    assert terminal.text.rstrip().endswith("hello")


def test_follow_shows_the_way_to_the_next_attempt(swm: Swm, core: FakeCore) -> None:
    core.runs_jobs = False
    core.restart()
    with swm.on_terminal("submit", "--follow", script(swm)) as terminal:
        core.state.wait_until(lambda: core.state.jobs)
        (job_id,) = core.state.jobs
        core.state.move(job_id, job_pb2.JOB_STATE_RUNNING, attempt=1)
        core.state.write(job_id, b"hello\n")
        terminal.read_until("hello")
        core.state.move(job_id, job_pb2.JOB_STATE_QUEUED, text="attempt 1 failed; trying again")
        terminal.read_until(f"swm: job {job_id}: attempt 1 failed; trying again\n")
        core.state.move(job_id, job_pb2.JOB_STATE_PROVISIONING, text="booting 1 node")
        terminal.read_until("PROVISIONING  booting 1 node")


def test_a_dumb_terminal_gets_no_bars(swm: Swm, core: FakeCore) -> None:
    swm.environment["TERM"] = "dumb"
    core.state.add("j1", state=job_pb2.JOB_STATE_SUCCEEDED)
    with swm.on_terminal("wait", "j1") as terminal:
        assert terminal.finish() == 0
