"""Cancel, in every state: it takes effect at the site, and CANCELLED means that nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.core import Core, running
from tests.system.harness.jobs import (
    CANCELLED,
    PROVISIONING,
    QUEUED,
    QUEUED_AT_SITE,
    RUNNING,
    STAGING_IN,
    STAGING_OUT,
    STARTING,
    SUCCEEDED,
    JobHandle,
)
from tests.system.harness.latch import Latch
from tests.system.harness.sites import Site, dynamic, node, processes_of, queue, static
from tests.system.harness.waiting import eventually

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(node("n1")), "batch": queue(), "cloud": dynamic()}
    with running(tmp_path_factory.mktemp("cancel"), sites) as core:
        yield core


def cancelled(job: JobHandle, site: Site) -> None:
    """Cancel, and have nothing of the job left."""
    told = job.cancel()
    assert told.cancel_requested
    ended = job.until(CANCELLED)
    assert not ended.cancel_forced
    assert not ended.HasField("failure")
    assert not any(attempt.HasField("failure") for attempt in ended.attempts)
    assert not processes_of(job.job_id)
    site.cleared(job.job_id)


def test_queued(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    holder = core.user().submit(f"#SWM cpus 4\n{hold.wait}", site="lab")
    holder.until(RUNNING)
    job = core.user().submit("#SWM cpus 4\ntrue", site="lab")
    job.until(QUEUED)
    cancelled(job, core.site("lab"))
    assert job.get().attempt == 0
    hold.release()
    holder.until(SUCCEEDED)


def test_provisioning(core: Core) -> None:
    core.site("cloud").faults({"kind": "boot_never"})
    job = core.user().submit("true", site="cloud")
    job.until(PROVISIONING)
    cancelled(job, core.site("cloud"))


@pytest.mark.parametrize("kind", [{"kind": "never"}, {"kind": "delay", "seconds": 5.0}])
def test_staging_in(core: Core, kind: dict[str, object]) -> None:
    core.site("lab").faults({"method": "PutFiles", **kind})
    job = core.user().submit("cat in.txt", site="lab", inputs={"in.txt": b"x" * 100_000})
    job.until(STAGING_IN)
    cancelled(job, core.site("lab"))


def test_staging_in_half_way(core: Core) -> None:
    core.site("lab").faults({"kind": "never", "method": "PutFiles", "after_requests": 4})
    inputs = {f"{n}.bin": bytes([n]) * 700_000 for n in range(8)}
    job = core.user().submit("true", site="lab", inputs=inputs)
    job.until(STAGING_IN)
    eventually(core.site("lab").attempts, "something of it is at the site")
    cancelled(job, core.site("lab"))


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_starting_with_a_start_that_never_answers(core: Core, tmp_path: Path, when: str) -> None:
    core.site("lab").faults({"kind": "never", "method": "StartJob", "when": when})
    job = core.user().submit(f"touch {tmp_path}/ran; sleep 600", site="lab")
    job.until(STARTING)
    cancelled(job, core.site("lab"))
    core.site("lab").cleared(job.job_id)
    if when != "after":
        assert not (tmp_path / "ran").exists()


def test_queued_at_site(core: Core, latch: Callable[[], Latch], tmp_path: Path) -> None:
    hold = latch()
    holder = core.user().submit(hold.wait, site="batch")
    holder.until(RUNNING)
    job = core.user().submit(f"touch {tmp_path}/ran", site="batch")
    job.until(QUEUED_AT_SITE)
    cancelled(job, core.site("batch"))
    hold.release()
    holder.until(SUCCEEDED)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("site", ["lab", "batch", "cloud"])
def test_running(core: Core, latch: Callable[[], Latch], site: str) -> None:
    job = core.user().submit(
        f"#SWM output r.txt\necho r > r.txt; echo heard; setsid sleep 600 & {latch().wait}",
        site=site,
    )
    job.written(b"heard\n")
    cancelled(job, core.site(site))
    # Logs are kept, outputs are not collected.
    assert job.output() == b"heard\n"
    assert not job.outputs()


def test_running_with_a_time_limit(core: Core, latch: Callable[[], Latch]) -> None:
    job = core.user().submit(f"#SWM time 10m\necho up; {latch().wait}", site="lab")
    job.written(b"up\n")
    cancelled(job, core.site("lab"))


def test_running_on_several_nodes(core: Core, latch: Callable[[], Latch]) -> None:
    job = core.user().submit(
        f"#SWM nodes 2\n#SWM launch every\necho up; {latch().wait}", site="cloud"
    )
    job.until(RUNNING)
    cancelled(job, core.site("cloud"))


@pytest.mark.parametrize("method", ["ListFiles", "GetFiles"])
def test_staging_out(core: Core, method: str) -> None:
    core.site("lab").faults({"kind": "never", "method": method})
    job = core.user().submit("#SWM output r.txt\necho r > r.txt; echo done", site="lab")
    job.until(STAGING_OUT)
    cancelled(job, core.site("lab"))
    ended = job.get()
    # Once the cancel is on disk the job ends so, whatever the script made of it.
    assert ended.attempts[0].exit_code == 0
    assert job.output() == b"done\n"


def test_a_second_cancel_changes_nothing(core: Core, latch: Callable[[], Latch]) -> None:
    job = core.user().submit(latch().wait, site="lab")
    job.until(RUNNING)
    job.cancel()
    job.cancel()
    job.until(CANCELLED)
    before = job.get()
    job.cancel()
    job.cancel(force=True)
    assert job.get() == before


def test_cancelling_a_job_that_has_ended_leaves_it_as_it_is(core: Core) -> None:
    job = core.user().submit("true", site="lab")
    job.until(SUCCEEDED)
    assert job.cancel().state == SUCCEEDED
    assert job.get().state == SUCCEEDED


def test_it_is_not_cancelled_before_the_site_has_confirmed_it(
    core: Core, latch: Callable[[], Latch]
) -> None:
    site = core.site("lab")
    refusal = {"kind": "fail", "method": "CancelJob", "code": "UNAVAILABLE"}
    site.faults(refusal | {"reason": "SITE_UNREACHABLE", "message": "the road is closed"})
    job = core.user().submit(latch().wait, site="lab")
    job.until(RUNNING)
    job.cancel()
    job.until_text("cancelling")
    assert job.get().state == RUNNING
    assert processes_of(job.job_id)
    site.faults()
    job.until(CANCELLED)
    assert not processes_of(job.job_id)


def test_force_ends_the_job_at_once_says_so_and_still_clears_the_site(
    core: Core, latch: Callable[[], Latch]
) -> None:
    site = core.site("lab")
    site.faults({"kind": "never", "method": "CancelJob", "times": 1})
    job = core.user().submit(latch().wait, site="lab")
    job.until(RUNNING)
    job.cancel()
    job.until_text("cancelling")
    assert job.get().state == RUNNING
    job.cancel(force=True)
    ended = job.until(CANCELLED)
    assert ended.cancel_forced
    assert "never confirmed" in ended.text
    # The site is asked on: what was given up on must not run for ever.
    site.cleared(job.job_id)


def test_force_in_staging_out_gives_the_rest_up(core: Core) -> None:
    site = core.site("lab")
    site.faults({"kind": "never", "method": "ListFiles"}, {"kind": "never", "method": "CancelJob"})
    job = core.user().submit("#SWM output r.txt\necho r > r.txt", site="lab")
    job.until(STAGING_OUT)
    job.cancel(force=True)
    assert job.until(CANCELLED).cancel_forced


def test_a_cancel_frees_the_place_for_the_next(core: Core, latch: Callable[[], Latch]) -> None:
    job = core.user().submit(f"#SWM cpus 4\n{latch().wait}", site="lab")
    job.until(RUNNING)
    behind = core.user().submit("#SWM cpus 4\ntrue", site="lab")
    job.cancel()
    behind.until(SUCCEEDED)
    assert job.get().state == CANCELLED
