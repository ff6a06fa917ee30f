"""What the core knows and a site has: compared all the time, and mended without a guess."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from skyport.terminal.v1 import admin_pb2, catalog_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.jobs import FAILED, QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import Site, dynamic, static
from tests.system.harness.strays import Strays
from tests.system.harness.waiting import eventually

READY = catalog_pb2.SITE_STATE_READY
BROKEN = catalog_pb2.SITE_STATE_BROKEN
DRAINED = catalog_pb2.SITE_STATE_DRAINED
SOON = {"reconciliation": {"every": 1, "grace": 0}}
NOT_NOW = {"kind": "fail", "code": "UNAVAILABLE", "reason": "SITE_UNREACHABLE", "message": "busy"}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static() | dynamic()}
    with running(tmp_path_factory.mktemp("compared"), sites, **SOON) as core:
        yield core


@pytest.fixture
def lab(core: Core) -> Iterator[Site]:
    yield core.site("lab")
    core.site("lab").faults()


@pytest.fixture
def strays(core: Core) -> Strays:
    return Strays(core, "lab")


def held(core: Core, hold: Latch, place: str = "partition hosts") -> JobHandle:
    job = core.user().submit(f"#SWM {place}\necho up; {hold.wait}")
    job.written(b"up\n")
    return job


# ---- what the core knows, and the site has no more ----------------------------------------------


def test_an_attempt_that_vanishes_unseen_is_asked_for_and_an_error_is_no_answer(
    core: Core, lab: Site, strays: Strays, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    job = held(core, latch())
    lab.faults(NOT_NOW | {"method": "GetJob"})
    # No watch tells of it: the folder is gone, as after a clean-up by somebody else.
    lab.attempt_folder(job.job_id).rename(tmp_path / "evidence")
    eventually(lambda: "tell how it is yet: busy" in job.get().text, "it is asked again")
    strays.round_passes()
    assert job.get().state == RUNNING
    lab.faults()
    ended = job.until(FAILED, within_s=60)
    assert ended.failure.reason == "END_UNKNOWN"
    assert job.output() == b"up\n"


def test_a_partition_that_vanishes_unseen_ends_its_job_as_a_lost_node(
    core: Core, lab: Site, strays: Strays, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    job = held(core, latch(), "flavor small")
    partition_id = job.get().partition_id
    (lab.root / "partitions" / partition_id).rename(tmp_path / "partition")
    ended = job.until(FAILED, within_s=60)
    assert ended.failure.reason == "NODE_FAIL"
    assert partition_id in ended.failure.message
    request = catalog_pb2.ListPartitionsRequest(site="lab")

    def listed() -> list[str]:
        answer = core.admin.catalog.ListPartitions(request, timeout=20)
        return [partition.partition_id for partition in answer.partitions]

    eventually(lambda: partition_id not in listed(), "the core has forgotten it")


def test_what_lies_on_a_node_that_does_not_answer_is_not_gone(
    core: Core, lab: Site, strays: Strays, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = held(core, hold)
    lab.unreachable(*(node.name for node in job.get().nodes))
    strays.round_passes()
    assert job.get().state == RUNNING
    hold.release()
    lab.faults()
    job.until(SUCCEEDED)


def compared(core: Core) -> admin_pb2.ListOrphansResponse | None:
    """The orphans, once all of the site was compared since the core's start."""
    answer = core.admin.admin.ListOrphans(admin_pb2.ListOrphansRequest(), timeout=20)
    return None if answer.unreachable_sites else answer


# ---- what is to be removed ----------------------------------------------------------------------


def test_a_removal_that_fails_is_seen_and_tried_until_it_is_done(
    core: Core, lab: Site, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    stuck = held(core, hold)
    lab.faults(
        NOT_NOW | {"method": "RemoveJob", "job": stuck.job_id},
        NOT_NOW | {"method": "DeletePartition"},
    )
    hold.release()
    stuck.until(SUCCEEDED)
    paid = core.user().submit("#SWM flavor small\ntrue").until(SUCCEEDED)

    def failed() -> dict[str, catalog_pb2.FailedRemoval]:
        found = core.gate("lab").failed_removals
        return {each.job_id or each.partition_id: each for each in found if each.tries > 1}

    wanted = {stuck.job_id, paid.partition_id}
    eventually(lambda: wanted == set(failed()), "both are told")
    # Others are not held up.
    other = core.user().submit("#SWM partition hosts\ntrue")
    other.until(SUCCEEDED)
    lab.cleared(other.job_id)
    core.restart()
    eventually(lambda: set(failed()) == wanted, "the next core goes on")
    # They are known: what waits to be removed is no orphan.
    listed = eventually(lambda: compared(core), "the site was compared anew")
    assert listed is not None
    assert not listed.orphans
    for each in failed().values():
        assert "busy" in each.message
    assert core.gate("lab").pending_removals == 2
    # Ids of others' jobs are for administrators.
    (site,) = core.user().catalog.ListSites(catalog_pb2.ListSitesRequest(), timeout=20).sites
    assert (site.pending_removals, list(site.failed_removals)) == (2, [])
    lab.faults()
    lab.cleared(stuck.job_id)
    lab.given_back()
    eventually(lambda: not core.gate("lab").pending_removals, "nothing is pending")
    assert not core.gate("lab").failed_removals


# ---- what administrators decide -----------------------------------------------------------------


def test_a_drained_site_takes_nothing_new_also_after_a_restart(core: Core) -> None:
    admin = core.admin.admin
    admin.DrainSite(admin_pb2.DrainSiteRequest(site="lab", drained=True), timeout=20)
    assert core.gate("lab").state == DRAINED
    job = core.user().submit("#SWM partition hosts\ntrue")
    eventually(lambda: "drained" in job.get().text, "it is told why it waits")
    core.restart()
    eventually(lambda: core.gate("lab").state == DRAINED, "it is drained still")
    assert job.get().state == QUEUED
    admin.DrainSite(admin_pb2.DrainSiteRequest(site="lab"), timeout=20)
    job.until(SUCCEEDED)
    assert core.gate("lab").state == READY


def test_only_administrators_decide_about_sites_that_there_are(core: Core) -> None:
    calls = [
        ("DrainSite", admin_pb2.DrainSiteRequest),
        ("RestartGate", admin_pb2.RestartGateRequest),
        ("AcceptSiteChange", admin_pb2.AcceptSiteChangeRequest),
    ]
    for name, request in calls:
        for site in ("lab", "nowhere"):
            refused(
                getattr(core.user().admin, name),
                request(site=site),
                grpc.StatusCode.PERMISSION_DENIED,
                "ADMIN_REQUIRED",
            )
        refused(
            getattr(core.admin.admin, name),
            request(site="nowhere"),
            grpc.StatusCode.NOT_FOUND,
            "SITE_NOT_FOUND",
            says="lab",
        )
    refused(
        core.admin.admin.AcceptSiteChange,
        admin_pb2.AcceptSiteChangeRequest(site="lab", partition_id="none"),
        grpc.StatusCode.NOT_FOUND,
        "PARTITION_NOT_FOUND",
    )


def accept(core: Core, **place: str) -> None:
    request = admin_pb2.AcceptSiteChangeRequest(site="lab", **place)
    core.admin.admin.AcceptSiteChange(request, timeout=30)


def test_another_root_is_never_gone_until_an_administrator_takes_it(
    core: Core, lab: Site, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    hold = latch()
    accept(core)  # Nothing has changed, and nothing comes of it.
    job = held(core, hold)
    accept(core)
    assert job.get().state == RUNNING
    # Another disk is mounted, which has nothing of it.
    lab.attempt_folder(job.job_id).rename(tmp_path / "old disk")
    (lab.root / "root_uid").write_text("another")
    eventually(lambda: "accept-change lab" in core.gate("lab").message, "it is told what to do")
    eventually(lambda: "tell how it is yet" in job.get().text, "it is asked again")
    assert job.get().state == RUNNING
    accept(core, partition_id="hosts")
    ended = job.until(FAILED)
    assert ended.failure.reason == "SITE_LOST"
    assert "administrator" in ended.failure.message
    assert not core.gate("lab").message
    core.user().submit("#SWM partition hosts\ntrue").until(SUCCEEDED)
    eventually(lambda: not core.gate("lab").pending_removals, "nothing is asked of the old disk")


def test_another_account_scope_breaks_a_site_until_an_administrator_takes_it(
    core: Core, lab: Site, latch: Callable[[], Latch]
) -> None:
    job = held(core, latch(), "flavor small")
    partition_id = job.get().partition_id
    (lab.root / "scope_uid").write_text("another")
    core.restart()
    told = eventually(lambda: site if (site := core.gate("lab")).state == BROKEN else None, "seen")
    assert told is not None
    assert "accept-change lab" in told.message
    assert job.get().state == RUNNING
    accept(core)
    ended = job.until(FAILED)
    assert (ended.failure.reason, ended.partition_id) == ("SITE_LOST", partition_id)
    core.wait_ready()
    core.user().submit("#SWM flavor small\ntrue").until(SUCCEEDED)


# ---- one core for a home ------------------------------------------------------------------------


def test_a_second_core_on_a_home_is_refused_in_one_line(core: Core) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swm_core", "serve"],
        env={**os.environ, "SWM_HOME": str(core.home.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(core.home.path) in line
    assert f"process {core.pid}" in line
    assert core.gate("lab").state == READY
