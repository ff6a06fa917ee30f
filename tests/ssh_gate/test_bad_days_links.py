"""The cables of hosts are cut in the middle of everything, until that has been noticed.

With SKYPORT_CUT_S=60 they stay so for at least so many seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tests.ssh_gate.bad_days import HostLatch, Lab, hosts, lab, latch
from tests.ssh_gate.bad_days_work import Download, Follow, Run, Tunnel, Upload
from tests.system.harness.waiting import eventually

__all__ = ["hosts", "lab", "latch"]

MakeLatch = Callable[[str], HostLatch]

CUT_S = float(os.environ.get("SKYPORT_CUT_S", "0"))


def stays_so(since: float) -> None:
    """Wait until the cables were cut for as long as was asked for."""
    eventually(lambda: time.monotonic() - since >= CUT_S, "the time is over", within_s=CUT_S + 1)


def test_all_goes_on_where_it_was_once_the_cables_are_mended(lab: Lab, latch: MakeLatch) -> None:
    run = Run(lab, "one", latch("one"))
    follow = Follow(lab, "one")
    tunnel = Tunnel(lab, "one")
    download = Download(lab, "two", latch("two"))
    with lab.slowed("one"), lab.slowed("two"):
        upload = Upload(lab, "one")
        upload.until()
        begun = time.monotonic()
        with lab.host("one").cut():
            assert upload.is_under_way()
            run.end()
            download.begin()
            download.until()
            with lab.host("two").cut():
                assert download.is_under_way()
                lab.down("one")
                lab.down("two")
                stays_so(begun)
        upload.placed()
        download.done()
    upload.done()
    run.done()
    tunnel.broken()
    tunnel.done()
    follow.done()
