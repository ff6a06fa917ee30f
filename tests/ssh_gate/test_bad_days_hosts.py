"""Hosts that are down, strange, silent or incomplete: their jobs wait, and no others do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.ssh_gate.bad_days import AGAIN_S, SITE, USER, HostLatch, Lab, hosts, lab, latch
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, RUNNING, SUCCEEDED
from tests.system.harness.waiting import eventually

__all__ = ["hosts", "lab", "latch"]

MakeLatch = Callable[[str], HostLatch]


@pytest.fixture(autouse=True)
def _as_before(lab: Lab) -> Iterator[None]:
    """Leave hosts that all is well with."""
    yield
    lab.bed.trust()
    lab.bed.heal()
    lab.up()


def test_a_host_that_is_down_at_the_start_takes_its_jobs_once_it_is_up(lab: Lab) -> None:
    lab.host("two").crash()
    lab.restart_gate()
    lab.down("two", "can't be reached")
    waiting = lab.submit("two", "echo here")
    lab.submit("one", "true").until(SUCCEEDED)
    assert waiting.get().state < RUNNING
    degraded = f"1 of {len(lab.bed.hosts)} hosts is down"
    eventually(lambda: degraded in lab.core.gate(SITE).message, degraded, within_s=AGAIN_S)
    lab.host("two").boot()
    waiting.until(SUCCEEDED, within_s=AGAIN_S)
    assert waiting.output() == b"here\n"
    eventually(lambda: not lab.core.gate(SITE).message, "all is well", within_s=AGAIN_S)


def test_a_host_that_crashes_fails_its_jobs_once_that_is_certain_and_no_others(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("one")
    other = lab.submit("one", f"echo up; {hold.wait}; echo down")
    job = lab.submit("two", "echo up; sleep 600")
    for each in (other, job):
        each.written(b"up\n")
    lab.host("two").crash()
    lab.down("two")
    hold.release()
    other.until(SUCCEEDED)
    # Nobody can know: it may be the cable.
    assert job.get().state == RUNNING
    lab.host("two").boot()
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert ended.failure.reason == "NODE_FAIL"
    assert ended.attempt == 1
    assert job.output() == b"up\n"
    lab.submit("two", "true").until(SUCCEEDED, within_s=AGAIN_S)


def test_an_account_whose_key_was_taken_away_is_out_until_it_is_back(
    lab: Lab, latch: MakeLatch
) -> None:
    host = lab.host("two")
    keys = host.home(USER) / ".ssh/authorized_keys"
    kept = keys.read_text()

    def take_away() -> None:
        keys.write_text("")
        host.stop_sshd()
        host.start_sshd()

    def give_back() -> None:
        keys.write_text(kept)

    out_and_in_again(lab, latch, take_away, "takes none of the keys", give_back)


def test_a_host_whose_key_has_changed_is_out_until_it_is_trusted(
    lab: Lab, latch: MakeLatch
) -> None:
    host = lab.host("two")
    out_and_in_again(lab, latch, host.change_host_key, "ssh-keygen -R", lab.bed.trust)


def out_and_in_again(
    lab: Lab,
    latch: MakeLatch,
    take_out: Callable[[], None],
    why: str,
    mend: Callable[[], None],
) -> None:
    """Nothing is lost of a job that ran, and one that comes meanwhile waits, while others run."""
    hold = latch("two")
    job = lab.submit("two", f"#SWM output r\necho up; {hold.wait}; echo done | tee r")
    job.written(b"up\n")
    take_out()
    lab.down("two", why)
    hold.release()
    waiting = lab.submit("two", "true")
    lab.submit("one", "true").until(SUCCEEDED)
    assert (job.get().state, waiting.get().state < RUNNING) == (RUNNING, True)
    mend()
    ended = job.until(SUCCEEDED, within_s=AGAIN_S)
    assert ended.attempt == 1
    assert job.output() == b"up\ndone\n"
    assert job.outputs() == {"r": File(b"done\n")}
    waiting.until(SUCCEEDED, within_s=AGAIN_S)


def test_a_login_shell_that_talks_and_takes_its_time_spoils_nothing(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("two")
    noise = lab.host("two").home(USER) / ".bashrc"
    # No line ends it: what comes next stands in the same line.
    noise.write_text("printf 'Welcome!\\n.\\n=\\0#9\\n!GONE '; echo oh >&2; sleep 1\n")
    lab.restart_gate()
    lab.up("two")
    job = lab.submit(
        "two",
        f"#SWM input-files in\n#SWM output out\ncat in; tr a-z A-Z <in >out; echo; {hold.wait}",
        inputs={"in": b"hello"},
    )
    job.written(b"hello\n", within_s=AGAIN_S)
    hold.release()
    job.until(SUCCEEDED, within_s=AGAIN_S)
    assert job.output() == b"hello\n"
    assert job.outputs() == {"out": File(b"HELLO")}
    noise.unlink()


def test_a_host_that_lacks_a_tool_is_out_and_says_which(lab: Lab) -> None:
    host = lab.host("two")
    tool = host.run("command -v xargs").strip()
    host.run(f"touch /run/none && mount --bind /run/none {tool}")
    try:
        lab.restart_gate()
        lab.down("two", "lacks xargs")
        waiting = lab.submit("two", "true")
        lab.submit("one", "true").until(SUCCEEDED)
    finally:
        host.run(f"umount {tool}")
    waiting.until(SUCCEEDED, within_s=AGAIN_S)
