"""The cables of hosts are cut in the middle of everything, for long enough that it is noticed.

That is 20 s at the least for each of them; with SKYPORT_CUT_S=60 a minute.
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

CUT_S = float(os.environ.get("SKYPORT_CUT_S", "20"))


def stays_so(since: float) -> None:
    """Wait until a cable was cut for long enough."""
    eventually(lambda: time.monotonic() - since >= CUT_S, "the time is over", within_s=CUT_S + 60)


def test_all_goes_on_where_it_was_once_the_cables_are_mended(lab: Lab, latch: MakeLatch) -> None:
    run = Run(lab, "one", latch("one"))
    follow = Follow(lab, "one")
    tunnel = Tunnel(lab, "one")
    download = Download(lab, "two", latch("two"))
    with lab.slowed("one"), lab.slowed("two"):
        upload = Upload(lab, "one")
        upload.until()
        with lab.host("one").cut():
            assert upload.is_under_way()
            run.end()
            download.begin()
            download.until()
            with lab.host("two").cut():
                last_cut = time.monotonic()
                assert download.is_under_way()
                lab.down("one")
                lab.down("two")
                stays_so(last_cut)
        upload.placed()
        download.done()
    upload.done()
    run.done()
    tunnel.broken()
    tunnel.done()
    follow.done()
