"""No state that waits on us or on a site lasts for ever, and none ends in a leak."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.core import Core
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
    PROVISIONING,
    QUEUED_AT_SITE,
    RUNNING,
    STAGING_IN,
    STAGING_OUT,
    STARTING,
    SUCCEEDED,
)
from tests.system.harness.latch import Latch
from tests.system.harness.sites import GateProcess, Site, dynamic, node, queue, static
from tests.system.harness.waiting import eventually

LIMIT_S = 2
# Longer than a gate takes to be there again, also on a machine that is busy with other things.
LOST_S = 6


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateProcess]:
    """A gate that a test can have away for as long as it likes."""
    folder = tmp_path_factory.mktemp("near")
    site = Site.make("near", folder / "near", static(), endpoint=f"unix://{folder}/s/near.sock")
    with contextlib.closing(GateProcess(site)) as gate:
        gate.start()
        yield gate


@pytest.fixture(scope="module")
def core(near: GateProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("deadlines")
    configs = {"lab": static(node("n1")), "cloud": dynamic(), "batch": queue()}
    sites = [Site.make(name, folder / name, config) for name, config in configs.items()]
    names = ("provisioning", "staging", "starting", "staging_out", "site_lost")
    deadlines = dict.fromkeys(names, f"{LIMIT_S}") | {"site_lost": f"{LOST_S}"}
    core = Core(folder / "home", [*sites, near.site], deadlines=deadlines)
    with contextlib.closing(core):
        core.start()
        core.wait_ready()
        yield core


@pytest.fixture
def lab(core: Core) -> Site:
    return core.site("lab")


def test_a_partition_that_never_comes_up_is_given_back(core: Core) -> None:
    core.site("cloud").faults({"kind": "boot_never"})
    job = core.user().submit("true", site="cloud")
    job.until(PROVISIONING)
    ended = job.until(FAILED)
    assert ended.failure.reason == "DEADLINE"
    assert "PROVISIONING" in ended.failure.message
    core.site("cloud").given_back()


def test_inputs_that_never_arrive(core: Core, lab: Site) -> None:
    lab.faults({"kind": "never", "method": "PutFiles"})
    job = core.user().submit("true", site="lab", inputs={"a": b"a"})
    job.until(STAGING_IN)
    ended = job.until(FAILED)
    assert ended.failure.reason == "DEADLINE"
    assert "STAGING_IN" in ended.failure.message


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_start_that_is_never_answered_runs_nowhere_afterwards(
    core: Core, lab: Site, tmp_path: Path, when: str
) -> None:
    lab.faults({"kind": "never", "method": "StartJob", "when": when})
    job = core.user().submit(f"touch {tmp_path}/ran; sleep 600", site="lab")
    job.until(STARTING)
    ended = job.until(FAILED)
    assert ended.failure.reason == "DEADLINE"
    lab.cleared(job.job_id)
    assert not (tmp_path / "ran").exists()


def test_results_that_never_come_back_are_given_up_and_the_partition_is_deleted(
    core: Core,
) -> None:
    core.site("cloud").faults({"kind": "never", "method": "ListFiles"})
    job = core.user().submit("#SWM output r.txt\necho r > r.txt; echo said", site="cloud")
    job.until(STAGING_OUT)
    ended = job.until(FAILED)
    assert ended.failure.reason == "STAGING_FAILED"
    assert ended.exit_code == 0
    assert job.output() == b"said\n"
    core.site("cloud").given_back()


def test_a_site_that_stays_away_loses_the_job(core: Core, near: GateProcess) -> None:
    job = core.user().submit("echo up; sleep 600", site="near")
    job.written(b"up\n")
    near.kill()
    ended = job.until(FAILED)
    assert ended.failure.reason == "SITE_LOST"
    assert job.output() == b"up\n"
    # When it is back, what runs on there is ended.
    near.start()
    core.site("near").cleared(job.job_id)


def test_a_site_that_is_away_for_less_loses_nothing(core: Core, near: GateProcess) -> None:
    job = core.user().submit("echo up; sleep 600", site="near")
    job.written(b"up\n")
    near.kill()
    near.start()
    assert job.get().state == RUNNING
    job.cancel()
    job.until(CANCELLED)


def test_time_in_a_site_s_own_queue_has_no_deadline(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    first = core.user().submit(hold.wait, site="batch")
    first.until(RUNNING)
    second = core.user().submit("true", site="batch")
    queued = second.until(QUEUED_AT_SITE)
    entered = queued.state_time.ToNanoseconds() / 1e9
    eventually(lambda: time.time() > entered + 1.5 * LIMIT_S, "the time has passed")
    assert second.get().state == QUEUED_AT_SITE
    hold.release()
    second.until(SUCCEEDED)
    first.until(SUCCEEDED)


def test_time_in_which_the_core_does_not_run_counts_for_no_deadline(core: Core, lab: Site) -> None:
    lab.faults({"kind": "never", "method": "PutFiles"})
    job = core.user().submit("true", site="lab", inputs={"a": b"a"})
    entered = job.until(STAGING_IN).state_time.ToNanoseconds() / 1e9
    core.kill()
    lab.faults()
    eventually(lambda: time.time() > entered + 2 * LIMIT_S, "the time has passed")
    core.start()
    job.until(SUCCEEDED)
    core.wait_ready()
