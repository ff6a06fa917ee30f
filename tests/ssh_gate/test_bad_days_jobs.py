"""Jobs that behave badly: each ends as it should, and nothing of it is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.ssh_gate.bad_days import AGAIN_S, HostLatch, Lab, hosts, lab, latch
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, RUNNING, STDERR, SUCCEEDED
from tests.system.harness.tunnels import ask
from tests.system.harness.waiting import eventually

__all__ = ["hosts", "lab", "latch"]

MakeLatch = Callable[[str], HostLatch]

_DAEMONS = """
for n in 1 2 3; do
    (trap '' TERM HUP; setsid sh -c "trap '' TERM HUP; echo d$n; exec sleep 600" &)
done
(cd /; exec nohup sleep 600) &
"""


def test_what_ignores_term_and_what_was_left_behind_is_ended(lab: Lab, latch: MakeLatch) -> None:
    hold = latch("one")
    daemons = lab.submit("one", _DAEMONS + hold.wait)
    stubborn = lab.submit(
        "one", "#SWM time 1\ntrap 'echo no' TERM; echo up; while :; do sleep 1; done"
    )
    for name in (b"d1\n", b"d2\n", b"d3\n"):
        daemons.written(name)
    hold.release()
    ended = stubborn.until(FAILED, within_s=AGAIN_S)
    assert ended.failure.reason == "TIME_LIMIT"
    assert stubborn.output().startswith(b"up\nno\n")
    daemons.until(SUCCEEDED, within_s=AGAIN_S)
    for job in (daemons, stubborn):
        lab.cleared("one", job)


def test_a_job_that_closes_its_streams_is_followed_to_its_end(lab: Lab, latch: MakeLatch) -> None:
    hold = latch("one")
    script = f"#SWM output r\necho up; exec >&- 2>&- <&-; {hold.wait}; echo x >r; exit 0"
    job = lab.submit("one", script)
    job.written(b"up\n")
    following = job.follow(within_s=AGAIN_S)
    hold.release()
    assert b"".join(answer.data for answer in following) == b"up\n"
    job.until(SUCCEEDED)
    assert job.outputs() == {"r": File(b"x\n")}


def test_bytes_that_are_no_text_come_home_as_they_are(lab: Lab) -> None:
    script = r"printf 'a\0b\0\377\n\r\0'; printf '\0\0' >&2; head -c 70000 /dev/zero"
    job = lab.submit("one", script)
    job.until(SUCCEEDED)
    assert job.output() == b"a\0b\0\377\n\r\0" + bytes(70_000)
    assert job.output(STDERR) == b"\0\0"


def test_a_port_that_a_job_never_opens_refuses_each_connection_and_harms_nobody(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("one")
    job = lab.submit("one", f"#SWM ports 0/tcp/in WEB\necho up; {hold.wait}")
    job.written(b"up\n")
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            assert ask(lab.port(job), b"x") == b""
    assert job.get().state == RUNNING
    hold.release()
    job.until(SUCCEEDED)


def test_a_job_that_deletes_its_own_folder_keeps_its_log_and_fails_for_what_is_missing(
    lab: Lab,
) -> None:
    script = 'echo a >r; echo up; rm -rf "$SWM_WORKDIR"; echo down; echo err >&2'
    job = lab.submit("one", script)
    job.until(SUCCEEDED)
    assert (job.output(), job.output(STDERR)) == (b"up\ndown\n", b"err\n")
    lab.cleared("one", job)
    job = lab.submit("one", f"#SWM output r\n{script}")
    ended = job.until(FAILED)
    assert (ended.failure.reason, ended.exit_code) == ("OUTPUT_MISSING", 0)
    assert job.output() == b"up\ndown\n"
    lab.cleared("one", job)


def test_a_job_that_deletes_all_that_it_can_reach_takes_no_other_with_it(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("one")
    other = lab.submit("one", f"echo up; {hold.wait}; echo down")
    other.written(b"up\n")
    go_on = latch("one")
    script = 'echo up; rm -rf "$(dirname "$SWM_WORKDIR")"; echo down; '
    job = lab.submit("one", script + go_on.wait)
    # The gate has nothing to read any more.
    eventually(lambda: lab.attempt("one", job) is None and lab.processes("one", job), "all is gone")
    go_on.release()
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert ended.failure.reason == "END_UNKNOWN"
    assert ended.attempt == 1
    hold.release()
    other.until(SUCCEEDED)
    assert other.output() == b"up\ndown\n"


@pytest.mark.parametrize("code", [0, 3])
def test_an_output_that_is_missing_is_told_after_all_others_are_home(lab: Lab, code: int) -> None:
    script = (
        "#SWM output there missing none* dir\n"
        f"echo 1 >there; mkdir -p dir/deep; echo 2 >dir/deep/x; exit {code}"
    )
    job = lab.submit("one", script)
    ended = job.until(FAILED)
    reason = "EXIT_CODE" if code else "OUTPUT_MISSING"
    assert (ended.failure.reason, ended.exit_code) == (reason, code)
    if not code:
        assert "missing" in ended.failure.message
        assert "none" not in ended.failure.message
    assert job.outputs() == {"there": File(b"1\n"), "dir/deep/x": File(b"2\n")}
    lab.cleared("one", job)
