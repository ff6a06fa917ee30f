"""What a site has and the core does not know: told at once, deleted in time, never another's."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from skyport.terminal.v1 import admin_pb2
from tests.system.harness.core import Core, end_jobs, running_sites
from tests.system.harness.jobs import RUNNING, SUCCEEDED
from tests.system.harness.latch import Latch
from tests.system.harness.orphans import JOB, PARTITION, delete, orphans, told, until_text
from tests.system.harness.refusals import refused
from tests.system.harness.sites import (
    GateProcess,
    Site,
    dynamic,
    processes_of,
    queue,
    static,
)
from tests.system.harness.strays import Strays, generations
from tests.system.harness.waiting import eventually

SOON = {"reconciliation": {"every": 1, "grace": 1}}
LAB: dict[str, Any] = {
    "partitions": static()["partitions"] | queue()["partitions"],
    "dynamic": dynamic()["dynamic"],
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """At a gate that another core can use, too."""
    folder = tmp_path_factory.mktemp("orphans")
    site = Site.make("lab", folder / "lab", LAB, endpoint=f"unix://{folder}/s/lab.sock")
    with contextlib.closing(GateProcess(site)) as gate:
        gate.start()
        with running_sites(folder, [site], **SOON) as core:
            yield core


@pytest.fixture
def lab(core: Core) -> Site:
    return core.site("lab")


@pytest.fixture
def strays(core: Core) -> Strays:
    return Strays(core, "lab")


def has_none(core: Core) -> bool:
    return not orphans(core)


def test_what_the_core_does_not_know_is_told_and_deleted_after_the_grace_time(
    core: Core, lab: Site, strays: Strays
) -> None:
    refuse = {"kind": "fail", "code": "UNAVAILABLE", "reason": "SITE_UNREACHABLE"}
    lab.faults(
        refuse | {"method": "DeletePartition", "message": "not now"},
        refuse | {"method": "RemoveJob", "message": "not now"},
    )
    partition_id = strays.partition()
    job_id = strays.attempt()
    partition, attempt = told(core, partition_id, f"{job_id}/1")
    assert (partition.site, partition.kind) == ("lab", PARTITION)
    assert (attempt.site, attempt.kind) == ("lab", JOB)
    for orphan in (partition, attempt):
        assert orphan.delete_time.seconds - orphan.seen_time.seconds == 1
    assert core.gate("lab").orphans == 2
    # A site that refuses is asked again, and that is seen.
    for each in (partition_id, f"{job_id}/1"):
        until_text(core, each, "not now")
    assert partition_id in core.log()
    # The next core goes on with it.
    core.restart()
    told(core, partition_id, f"{job_id}/1")
    assert processes_of(job_id)
    lab.faults()
    lab.cleared(job_id)
    lab.given_back()
    eventually(lambda: not orphans(core), "none is told of any more")
    assert core.gate("lab").orphans == 0


def test_what_another_store_generation_made_is_told_and_left_to_the_administrator(
    core: Core, lab: Site, strays: Strays
) -> None:
    partition_id = strays.partition("0123456789abcdef")
    job_id = strays.attempt("0123456789abcdef")
    both = told(core, partition_id, f"{job_id}/1")
    strays.round_passes()
    for orphan in both:
        assert not orphan.HasField("delete_time")
        assert "backup" in orphan.message
    assert processes_of(job_id)
    assert partition_id in lab.partitions()
    for orphan in both:
        delete(core, orphan)
    lab.cleared(job_id)
    lab.given_back()
    eventually(lambda: not orphans(core), "none is told of any more")


def test_what_is_of_another_installation_is_neither_told_nor_deleted(
    core: Core, lab: Site, strays: Strays
) -> None:
    partition_id = strays.partition(installation="somebodyelse")
    job_id = strays.attempt(installation="somebodyelse", node="n2")
    strays.round_passes()
    assert not {partition_id, f"{job_id}/1"} & set(orphans(core))
    assert partition_id in lab.partitions()
    assert processes_of(job_id)
    refused(
        core.admin.admin.DeleteOrphan,
        admin_pb2.DeleteOrphanRequest(site="lab", kind=PARTITION, id=partition_id),
        grpc.StatusCode.NOT_FOUND,
        "ORPHAN_NOT_FOUND",
    )
    Strays(core, "lab").end(job_id, partition_id, installation="somebodyelse", node="n2")
    lab.cleared(job_id)


def test_what_had_gone_and_is_there_again_is_an_orphan(
    core: Core, lab: Site, strays: Strays
) -> None:
    job = core.user().submit("#SWM partition hosts\ntrue")
    job.until(SUCCEEDED)
    lab.cleared(job.job_id)
    # A site that was put back from a backup of its own.
    for tombstone in lab.root.glob(f"tombstones/*/*/{job.job_id}.1"):
        tombstone.unlink()
    lab.faults({"kind": "fail", "code": "UNAVAILABLE", "reason": "X", "method": "RemoveJob"})
    strays.attempt(job_id=job.job_id)
    told(core, f"{job.job_id}/1")
    lab.faults()
    lab.cleared(job.job_id)
    eventually(lambda: not orphans(core), "it is told of no more")


def test_jobs_and_partitions_that_are_under_way_are_never_orphans(
    core: Core, lab: Site, strays: Strays, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    scripts = ("#SWM partition hosts\n", "#SWM partition batch\n", "#SWM flavor small\n")
    jobs = [core.user().submit(f"{script}{hold.wait}") for script in scripts]
    for job in jobs:
        job.until(RUNNING)
    for _ in range(20):
        # Placed, run and removed while the site is listed again and again.
        core.user().submit("#SWM partition hosts\ntrue").until(SUCCEEDED)
    strays.round_passes()
    assert not {f"{job.job_id}/1" for job in jobs} & set(orphans(core))
    hold.release(len(jobs))
    for job in jobs:
        job.until(SUCCEEDED)
    assert "does not know: " in core.log(), "the strays of these tests were told"
    for job in jobs:
        assert f"attempt {job.job_id}/1 in" not in core.log()


def test_orphans_are_for_administrators(core: Core) -> None:
    denied = (grpc.StatusCode.PERMISSION_DENIED, "ADMIN_REQUIRED")
    user = core.user().admin
    refused(user.ListOrphans, admin_pb2.ListOrphansRequest(), *denied)
    refused(user.DeleteOrphan, admin_pb2.DeleteOrphanRequest(site="nowhere"), *denied)
    admin = core.admin.admin
    refused(
        admin.DeleteOrphan,
        admin_pb2.DeleteOrphanRequest(site="nowhere", kind=JOB, id="x/1"),
        grpc.StatusCode.NOT_FOUND,
        "SITE_NOT_FOUND",
        says="lab",
    )
    for request in (
        admin_pb2.DeleteOrphanRequest(site="lab", kind=PARTITION, id="hosts"),
        admin_pb2.DeleteOrphanRequest(site="lab", kind=PARTITION, id="batch"),
        admin_pb2.DeleteOrphanRequest(site="lab", id="x"),
        admin_pb2.DeleteOrphanRequest(site="lab", kind=JOB, id="x/y/z"),
    ):
        refused(admin.DeleteOrphan, request, grpc.StatusCode.NOT_FOUND, "ORPHAN_NOT_FOUND")
    refused(
        admin.ListOrphans,
        admin_pb2.ListOrphansRequest(page_token="x"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
    )


def test_many_orphans_come_in_pages(core: Core, lab: Site, strays: Strays) -> None:
    ids = sorted(strays.partition("fedcba9876543210") for _ in range(3))
    told(core, *ids)
    request = admin_pb2.ListOrphansRequest(page_size=2)
    first = core.admin.admin.ListOrphans(request, timeout=20)
    request.page_token = first.next_page_token
    second = core.admin.admin.ListOrphans(request, timeout=20)
    assert [orphan.id for orphan in (*first.orphans, *second.orphans)] == ids
    assert (len(first.orphans), second.next_page_token) == (2, "")
    for orphan in (*first.orphans, *second.orphans):
        delete(core, orphan)
    lab.given_back()


# ---- stores that were copied or put back --------------------------------------------------------


def test_a_store_that_was_put_back_deletes_nothing_that_it_does_not_know(
    core: Core, lab: Site, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    backup = tmp_path / "swm.db"
    copy_running(core, backup)
    hold = latch()
    jobs = {
        script: core.user().submit(f"#SWM {script}\n{hold.wait}; echo ran on > {tmp_path}/{n}")
        for n, script in enumerate(("partition hosts", "flavor small"))
    }
    partition_id = jobs["flavor small"].until(RUNNING).partition_id
    jobs["partition hosts"].until(RUNNING)
    core.stop()
    put_back(core, backup)
    core.start()
    core.wait_ready()
    # The generation that made them is in its history, and yet it is not to be trusted.
    assert len(generations(core)) > 1
    found = told(core, partition_id, *(f"{job.job_id}/1" for job in jobs.values()))
    Strays(core, "lab").round_passes()
    assert not [orphan.id for orphan in found if orphan.HasField("delete_time")]
    assert all(processes_of(job.job_id) for job in jobs.values())
    hold.release(len(jobs))
    for number in range(len(jobs)):
        eventually((tmp_path / f"{number}").exists, "the job ran to its end")
    for orphan in orphans(core).values():
        delete(core, orphan)
    lab.cleared()
    lab.given_back()


def copy_running(core: Core, backup: Path) -> None:
    """As a backup of files while the core runs would: in the middle of its generation."""
    with (
        contextlib.closing(sqlite3.connect(core.home.database)) as source,
        contextlib.closing(sqlite3.connect(backup)) as target,
    ):
        source.backup(target)


def put_back(core: Core, backup: Path) -> None:
    """Over the same file, as `cp` does."""
    for left in core.home.database.parent.glob("swm.db-*"):
        left.unlink()
    core.home.database.write_bytes(backup.read_bytes())


# ---- two cores ----------------------------------------------------------------------------------


def test_two_cores_on_one_site_leave_each_other_s_things_alone(
    core: Core, lab: Site, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    hold = latch()
    other = Core(tmp_path / "other", [lab], **SOON)
    with contextlib.ExitStack() as closing:
        closing.callback(end_jobs, other)
        closing.enter_context(contextlib.closing(other))
        other.start()
        other.wait_ready()
        jobs = [
            each.user().submit(f"#SWM {script}\n{hold.wait}")
            for each in (core, other)
            for script in ("partition hosts", "flavor small")
        ]
        for job in jobs:
            job.until(RUNNING)
        for each in (core, other):
            Strays(each, "lab").round_passes()
            eventually(functools.partial(has_none, each), "nothing of the other is an orphan")
        hold.release(len(jobs))
        for job in jobs:
            job.until(SUCCEEDED)
        lab.cleared()
        lab.given_back()
