"""The cables of hosts are cut in the middle of everything, until that has been noticed."""

from __future__ import annotations

from collections.abc import Callable

from tests.ssh_gate.bad_days import HostLatch, Lab, hosts, lab, latch
from tests.ssh_gate.bad_days_work import Download, Follow, Run, Tunnel, Upload

__all__ = ["hosts", "lab", "latch"]

MakeLatch = Callable[[str], HostLatch]


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
                assert download.is_under_way()
                lab.down("one")
                lab.down("two")
        upload.placed()
        download.done()
    upload.done()
    run.done()
    tunnel.broken()
    tunnel.done()
    follow.done()
