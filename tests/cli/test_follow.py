from __future__ import annotations

import signal
import threading
from queue import SimpleQueue

import pytest

from skyport.terminal.v1 import job_pb2
from terminals.cli import following
from tests.cli.terminal import Swm
from tests.cli.test_submit import script
from tests.client.fake_core import FakeCore

RUNNING = job_pb2.JOB_STATE_RUNNING
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


def test_follow_keeps_the_streams_apart_and_ends_with_the_exit_code(swm: Swm) -> None:
    result = swm("submit", "--follow", script(swm, "echo out; echo err >&2; exit 3"))
    assert result.code == 3
    assert result.out == "out\n"
    first, *rest = result.err.splitlines()
    assert first.startswith("swm: job j")
    assert rest == ["err", f"{first} failed: ended with exit code 3"]


def test_follow_of_a_success_says_nothing_more(swm: Swm) -> None:
    result = swm("submit", "--follow", script(swm, "printf 'no newline'"))
    assert (result.code, result.out) == (0, "no newline")
    assert result.err.count("\n") == 1


def test_follow_of_a_signal_is_128_and_its_number(swm: Swm) -> None:
    assert swm("submit", "--follow", script(swm, "kill -KILL $$")).code == 137


def test_output_of_any_bytes_passes_as_it_is(swm: Swm) -> None:
    done = swm.popen("submit", "--follow", script(swm, r"printf '\377\000\033[2J'"))
    out, _ = done.communicate(timeout=60)
    assert out == b"\xff\x00\x1b[2J"


def test_a_lot_of_output_passes_in_order(swm: Swm) -> None:
    result = swm("submit", "--follow", script(swm, "seq 1 200000"))
    assert result.out == "".join(f"{number}\n" for number in range(1, 200_001))


def test_ctrl_c_leaves_the_job_running_and_says_how_to_cancel_it(swm: Swm, core: FakeCore) -> None:
    name = script(swm, "echo begun; exec sleep 60")
    with swm.on_terminal("submit", "--follow", name) as terminal:
        terminal.read_until("begun")
        terminal.type("\x03")
        assert terminal.finish() == 130
    (job_id,) = core.state.jobs
    assert f"swm: job {job_id} runs on; cancel it with `swm cancel {job_id}`" in terminal.text
    assert "Traceback" not in terminal.text
    assert core.state.jobs[job_id].state == RUNNING
    assert swm("cancel", "--wait", job_id).code == 0


def test_a_cancelled_job_ends_the_follow_with_1(swm: Swm, core: FakeCore) -> None:
    following_it = swm.popen("submit", "--follow", script(swm, "echo begun; exec sleep 60"))
    assert following_it.stdout
    assert following_it.stdout.readline() == b"begun\n"
    (job_id,) = core.state.jobs
    swm.ok("cancel", job_id)
    _, err = following_it.communicate(timeout=60)
    assert following_it.returncode == 1
    assert f"swm: job {job_id} was cancelled".encode() in err


def test_follow_outlives_restarts_of_the_core(swm: Swm, core: FakeCore) -> None:
    core.runs_jobs = False
    core.restart()
    process = swm.popen("submit", "--follow", script(swm))
    core.state.wait_until(lambda: core.state.jobs)
    (job_id,) = core.state.jobs
    core.state.move(job_id, RUNNING, attempt=1, site="here")
    assert process.stdout
    for number in range(3):
        core.state.write(job_id, b"line %d\n" % number)
        assert process.stdout.readline() == b"line %d\n" % number
        core.restart()
    core.state.finish_logs(job_id)
    core.state.move(job_id, SUCCEEDED, exit_code=0)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"")


def test_follow_goes_on_with_the_next_attempt(swm: Swm, core: FakeCore) -> None:
    core.runs_jobs = False
    core.restart()
    process = swm.popen("submit", "--follow", script(swm))
    core.state.wait_until(lambda: core.state.jobs)
    (job_id,) = core.state.jobs
    core.state.move(job_id, RUNNING, attempt=1, site="here")
    core.state.write(job_id, b"first\n")
    assert process.stdout
    assert process.stdout.readline() == b"first\n"
    core.state.finish_logs(job_id, 1)
    core.state.move(job_id, job_pb2.JOB_STATE_QUEUED)
    core.state.move(job_id, RUNNING, attempt=2)
    core.state.write(job_id, b"second\n", attempt=2)
    assert process.stdout.readline() == b"second\n"
    core.state.finish_logs(job_id, 2)
    core.state.move(job_id, SUCCEEDED, exit_code=0)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"runs again: attempt 2" in err


def test_each_step_of_machines_that_are_made_is_told_without_a_terminal(
    swm: Swm, core: FakeCore
) -> None:
    core.runs_jobs = False
    core.restart()
    process = swm.popen("submit", "--follow", script(swm))
    core.state.wait_until(lambda: core.state.jobs)
    (job_id,) = core.state.jobs
    assert process.stderr is not None
    process.stderr.readline()
    steps = (
        (job_pb2.JOB_STATE_PROVISIONING, 1, "making the network"),
        (job_pb2.JOB_STATE_PROVISIONING, 1, "booting 1 node, 0 s"),
        (job_pb2.JOB_STATE_PROVISIONING, 1, "booting 1 node, 1 s"),
        (job_pb2.JOB_STATE_QUEUED, 1, "attempt 1 failed (no room); trying again"),
        (job_pb2.JOB_STATE_PROVISIONING, 2, "booting 1 node"),
    )
    for state, attempt, text in steps:
        core.state.move(job_id, state, attempt=attempt, text=text)
        if not text.endswith(", 1 s"):  # how long it takes is no step
            assert process.stderr.readline().decode() == f"swm: job {job_id}: {text}\n"
    core.state.move(job_id, RUNNING, attempt=2)
    core.state.finish_logs(job_id)
    core.state.move(job_id, SUCCEEDED)
    assert process.communicate(timeout=60) == (b"", b"")


def test_a_reader_that_goes_away_ends_it_quietly(swm: Swm, core: FakeCore) -> None:
    name = script(swm, "echo begun; while :; do echo more; sleep 0.05; done")
    process = swm.popen("submit", "--follow", name)
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == b"begun\n"
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read().count(b"\n") == 1
    process.stderr.close()
    (job_id,) = core.state.jobs
    swm.ok("cancel", job_id)


def test_sigint_without_a_terminal_is_the_same(swm: Swm, core: FakeCore) -> None:
    process = swm.popen("submit", "--wait", script(swm, "exec sleep 60"))
    assert process.stdout
    job_id = process.stdout.readline().decode().strip()
    core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"job {job_id} runs on".encode() in err
    swm.ok("cancel", job_id)


def test_a_slow_reader_is_waited_for() -> None:
    """What is held up by our own reader is no reason to give a job's output up."""

    class Stuck:
        def __init__(self) -> None:
            self.entered, self.go_on = threading.Event(), threading.Event()

        def write(self, _: bytes) -> None:
            self.entered.set()
            self.go_on.wait(30)

        def flush(self) -> None: ...

    class Reader:
        offset = 0

        def __iter__(self) -> object:
            return iter([b"x"])

    stuck = Stuck()
    pump = following.Pump(Reader(), stuck, "standard output", SimpleQueue())  # type: ignore[arg-type]
    pump.start()
    assert stuck.entered.wait(10)
    threading.Timer(0.5, stuck.go_on.set).start()
    assert pump.finish(0.05)


@pytest.mark.parametrize("other", ["--wait", "--json"])
def test_follow_excludes_what_it_would_mix_with(
    swm: Swm, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = swm("submit", "--follow", other, script(swm))
    assert result.code == 2
