"""Disks that are full, can't be written, or are others than before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.ssh_gate.bad_days import AGAIN_S, ROOT, SITE, USER, HostLatch, Lab, hosts, lab, latch
from tests.system.harness.files import File
from tests.system.harness.jobs import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.waiting import eventually

__all__ = ["hosts", "lab", "latch"]

MakeLatch = Callable[[str], HostLatch]

_FILL = "cat /dev/zero >fill 2>/dev/null; "


@contextlib.contextmanager
def mounted(lab: Lab, partition: str, options: str = "size=4m") -> Iterator[None]:
    """Have the work root of a host be another, empty disk."""
    uid = lab.bed.uid(USER)
    own = f"mode=700,uid={uid},gid={uid}"
    host = lab.host(partition)
    host.run(f"mkdir -p {ROOT} && mount -t tmpfs -o {options},{own} tmpfs {ROOT}")
    try:
        yield
    finally:
        host.run(f"umount -l {ROOT}")


@pytest.fixture(scope="module")
def small(lab: Lab) -> Iterator[Lab]:
    """The host of partition `one` has 4 MiB for all that is kept there."""
    with mounted(lab, "one"):
        yield lab


@pytest.fixture
def _is_cleared(small: Lab) -> Iterator[None]:
    """Whatever happened, nothing of attempts is left in the end, and a job runs."""
    yield
    left = f"cd {ROOT} && find jobs trash -mindepth 4 -o -path 'trash/*' 2>&1 || true"
    eventually(lambda: not small.host("one").run(left), "all is removed")
    small.submit("one", "true").until(SUCCEEDED, within_s=AGAIN_S)


@pytest.mark.usefixtures("_is_cleared")
def test_inputs_for_which_there_is_no_room_fail_the_job_and_say_so(small: Lab) -> None:
    data = os.urandom(6 << 20)
    job = small.submit("one", "#SWM input-files big\ntrue", inputs={"big": data})
    failure = job.until(FAILED, within_s=AGAIN_S).failure
    assert failure.reason == "STAGING_FAILED"
    assert "no space" in failure.message.lower()
    assert "h1" in failure.message
    small.cleared("one", job)


@pytest.mark.usefixtures("_is_cleared")
def test_a_job_that_fills_the_disk_ends_as_it_ends(small: Lab) -> None:
    job = small.submit("one", f"#SWM output kept\necho x >kept; echo up; {_FILL}exit 7")
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert (ended.failure.reason, ended.exit_code) == ("EXIT_CODE", 7)
    assert job.output() == b"up\n"
    assert job.outputs() == {"kept": File(b"x\n")}


@pytest.mark.usefixtures("_is_cleared")
def test_a_job_that_has_filled_the_disk_is_cancelled_as_any_other(small: Lab) -> None:
    job = small.submit("one", f"echo up; {_FILL}echo full >/tmp/full; sleep 600")
    job.until(RUNNING)
    small.host("one").run("until [ -s /tmp/full ]; do sleep 0.05; done; rm /tmp/full")
    job.cancel()
    job.until(CANCELLED, within_s=AGAIN_S)
    assert not small.processes("one", job)
    assert job.output() == b"up\n"


def test_a_job_waits_while_its_work_root_cannot_be_written_and_others_run(small: Lab) -> None:
    host = small.host("one")
    host.run(f"mount -o remount,ro {ROOT}")
    job = small.submit("one", "echo ran")
    job.until_text("Read-only file system", within_s=AGAIN_S)
    small.submit("two", "true").until(SUCCEEDED, within_s=AGAIN_S)
    # A gate looks at it when it starts, and every few minutes: then nothing more is placed there.
    small.restart_gate()
    small.drained("one", f"/home/{USER}/.skyport can't be written")
    waiting = small.submit("one", "true")
    for _ in range(3):
        elsewhere = small.core.user().submit("true", site=SITE)
        ended = elsewhere.until(SUCCEEDED, within_s=AGAIN_S)
        assert ended.attempts[-1].partition_id == "two"
    assert waiting.get().state == QUEUED
    host.run(f"mount -o remount,rw {ROOT}")
    small.up("one")
    for each in (job, waiting):
        assert each.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
    assert job.output() == b"ran\n"


def listing(lab: Lab) -> str:
    """All that lies in the work root of `two`, with times of change.

    Where it has the mark of a work root any gate keeps its runner and its pipes there.
    """
    ours = "-path ./events -o -path './events/*' -o -path './runner-*'"
    text = lab.host("two").run(
        f"cd {ROOT} && find . -mindepth 1 ! '(' {ours} ')' -printf '%p %i %s %C@\\n' | sort"
    )
    return text if "root_uid" in text else lab.host("two").run(f"ls -A {ROOT}")


def says_why(job: JobHandle, why: str) -> None:
    """Wait until the job's text has it, whether it has a place or not."""
    eventually(lambda: why in job.get().text, f"it says {why!r}", within_s=AGAIN_S)


def test_a_work_root_on_another_mount_is_left_alone_and_nothing_is_concluded(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("two")
    running = lab.submit("two", f"#SWM output r\necho up; {hold.wait}; echo done | tee r")
    running.written(b"up\n")
    cancelled = lab.submit("two", "sleep 600")
    cancelled.until(RUNNING)
    with mounted(lab, "two"):
        lab.restart_gate()
        lab.up("two")
        # It is placed there or not, as whatever asked first has told; it says why in both cases.
        new = lab.submit("two", "echo new")
        says_why(new, "its root is missing")
        cancelled.cancel()
        hold.release()
        assert listing(lab) == ""
        # As if it had been used by somebody before.
        uid = lab.bed.uid(USER)
        line = f"cd {ROOT}; echo other >root_uid; mkdir jobs tombstones; chown -R {uid} {ROOT}"
        lab.host("two").run(line)
        before = listing(lab)
        says_why(new, "its root is other")
        assert [job.get().state for job in (running, cancelled)] == [RUNNING, RUNNING]
        assert new.get().state < RUNNING
        assert "takes nothing new of bo" in lab.node("two").message
        assert listing(lab) == before
    assert running.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
    assert running.output() == b"up\ndone\n"
    assert running.outputs() == {"r": File(b"done\n")}
    cancelled.until(CANCELLED, within_s=AGAIN_S)
    assert not lab.processes("two", cancelled)
    new.until(SUCCEEDED, within_s=AGAIN_S)


def test_jobs_run_where_nothing_can_be_executed_from_tmp(lab: Lab) -> None:
    host = lab.host("two")
    host.run("mount -o remount,bind,noexec /tmp")
    job = lab.submit(
        "two",
        "#SWM input-files tool.sh\n#SWM workdir /tmp/place\n#SWM output o\n"
        "sh ./tool.sh >o; ./tool.sh || echo no",
        inputs={"tool.sh": File(b"echo tool\n", 0o755)},
    )
    job.until(SUCCEEDED, within_s=AGAIN_S)
    assert job.output() == b"no\n"
    assert job.outputs() == {"o": File(b"tool\n")}
    host.run("mount -o remount,bind,exec /tmp")


def test_a_work_root_from_which_nothing_can_be_executed_serves(lab: Lab) -> None:
    with mounted(lab, "two", "size=8m,noexec"):
        # Of another owner: it is another place than that of the jobs before.
        script = "#!/bin/bash\necho ${BASH_VERSION:+bash}"
        job = lab.submit("two", script, user="cy")
        job.until(SUCCEEDED, within_s=AGAIN_S)
        assert job.output() == b"bash\n"
