from __future__ import annotations

import pytest

from skyport.terminal.v1 import job_pb2
from tests.cli.terminal import Swm
from tests.client.fake_core import FakeCore

LINES = "".join(f"line {number}\n" for number in range(1000))


@pytest.fixture(autouse=True)
def ended(core: FakeCore) -> None:
    core.state.add("j1", state=job_pb2.JOB_STATE_RUNNING, attempt=2)
    core.state.write("j1", b"earlier\n", attempt=1)
    core.state.write("j1", LINES.encode(), attempt=2)
    core.state.write("j1", b"oops\n", attempt=2, stderr=True)


def test_both_streams_go_to_ours(swm: Swm) -> None:
    result = swm("logs", "j1")
    assert (result.code, result.out, result.err) == (0, LINES, "oops\n")


def test_one_stream_goes_to_our_output(swm: Swm) -> None:
    assert swm("logs", "--stdout", "j1").err == ""
    result = swm("logs", "--stderr", "j1")
    assert (result.out, result.err) == ("oops\n", "")
    assert swm("logs", "--stdout", "--stderr", "j1").code == 2


def test_an_earlier_attempt_can_be_read(swm: Swm) -> None:
    assert swm.ok("logs", "--attempt", "1", "j1") == "earlier\n"


@pytest.mark.parametrize("count", [0, 1, 3, 400, 1000, 5000])
def test_the_last_lines(swm: Swm, count: int) -> None:
    lines = LINES.splitlines(keepends=True)
    wanted = "".join(lines[max(0, len(lines) - count) :]) if count else ""
    assert swm.ok("logs", "--stdout", "-n", str(count), "j1") == wanted


def test_the_last_line_may_be_long_or_without_an_end(swm: Swm, core: FakeCore) -> None:
    core.state.write("j1", b"x" * 100_000, attempt=2)
    assert swm.ok("logs", "--stdout", "-n", "2", "j1") == "line 999\n" + "x" * 100_000


def test_following_goes_on_from_the_last_lines_to_the_end(swm: Swm, core: FakeCore) -> None:
    process = swm.popen("logs", "-f", "-n", "1", "j1")
    assert process.stdout
    assert process.stdout.readline() == b"line 999\n"
    core.state.write("j1", b"more\n", attempt=2)
    assert process.stdout.readline() == b"more\n"
    core.restart()
    core.state.write("j1", b"and more\n", attempt=2)
    assert process.stdout.readline() == b"and more\n"
    core.state.finish_logs("j1", 2)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"oops\n")


def test_bytes_that_were_dropped_are_told_of(swm: Swm, core: FakeCore) -> None:
    core.state.log("j1", 2).kept_from = len(LINES) - 9
    result = swm("logs", "--stdout", "j1")
    assert result.out == "line 999\n"
    assert "of standard output were not kept" in result.err


def test_a_reader_that_goes_away_is_no_error(swm: Swm, core: FakeCore) -> None:
    core.state.write("j1", b"y" * (4 << 20), attempt=2)
    process = swm.popen("logs", "--stdout", "j1")
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
