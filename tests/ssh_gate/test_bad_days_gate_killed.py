"""The gate is killed in the middle of something: the next one goes on with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ssh_gate.bad_days import AGAIN_S, HostLatch, Lab, hosts, lab, latch
from tests.ssh_gate.bad_days_work import Download, Follow, Run, Tunnel, Upload
from tests.system.harness.jobs import CANCELLED, SUCCEEDED
from tests.system.harness.waiting import eventually

__all__ = ["hosts", "lab", "latch"]

MakeLatch = Callable[[str], HostLatch]


def test_an_upload_goes_on_where_it_was(lab: Lab) -> None:
    with lab.slowed("one"):
        upload = Upload(lab, "one")
        upload.until()
        assert upload.is_under_way()
        lab.kill_gate()
        upload.placed()
    upload.done()


def test_a_download_goes_on_where_it_was(lab: Lab, latch: MakeLatch) -> None:
    download = Download(lab, "one", latch("one"))
    with lab.slowed("one"):
        download.begin()
        download.until()
        assert download.is_under_way()
        lab.kill_gate()
        download.done()


@pytest.mark.parametrize("there", ["labels", "spec", "claim.h1"])
def test_a_start_happens_once_whenever_the_gate_dies(lab: Lab, there: str) -> None:
    job = lab.submit("one", "#SWM output r\necho $SWM_ATTEMPT >>r; cat r")

    def has_begun() -> bool:
        folder = lab.attempt("one", job)
        return folder is None or (folder / there).exists()

    eventually(lambda: lab.attempt("one", job), "the attempt has a folder")
    eventually(has_begun, f"{there} is there")
    lab.kill_gate()
    job.until(SUCCEEDED, within_s=AGAIN_S)
    assert job.output() == b"1\n"
    lab.cleared("one", job)


def test_what_runs_is_followed_and_reached_by_the_next_gate(lab: Lab, latch: MakeLatch) -> None:
    run = Run(lab, "one", latch("one"))
    follow = Follow(lab, "one")
    tunnel = Tunnel(lab, "one")
    lab.kill_gate()
    run.end()
    run.done()
    tunnel.broken()
    tunnel.done()
    follow.done()


def test_a_cancel_is_carried_out_by_the_next_gate(lab: Lab, latch: MakeLatch) -> None:
    hold = latch("one")
    job = lab.submit("one", f"trap 'echo term; {hold.wait}; exit' TERM; echo up; sleep 600 & wait")
    job.written(b"up\n")
    job.cancel()
    job.written(b"term\n")
    lab.kill_gate()
    hold.release()
    job.until(CANCELLED, within_s=AGAIN_S)
    assert not lab.processes("one", job)
    lab.cleared("one", job)
