"""Kill -9 at any moment: each job runs exactly once, tells its true end, and leaves nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.core import Core, running
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
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
from tests.system.harness.sites import Site, dynamic, node, processes_of
from tests.system.harness.waiting import eventually, gone

# Each moment has a partition of its own, so that faults befall that one only.
MOMENTS = ("staging", "starting", "running", "ended", "collecting")


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    static = {name: {"kind": "static", "nodes": [node(f"{name}-1")]} for name in MOMENTS}
    partitions = static | {"batch": {"kind": "queue", "slots": 1}}
    sites = {"lab": {"partitions": partitions}, "cloud": dynamic()}
    with running(tmp_path_factory.mktemp("crash"), sites) as core:
        yield core


@dataclasses.dataclass(frozen=True)
class Moments:
    """A job at each moment of its life, and what proves how often each has run."""

    jobs: dict[str, JobHandle]
    ran: dict[str, Path]
    hold: dict[str, Latch]


def at_each_moment(core: Core, folder: Path, latch: Callable[[], Latch]) -> Moments:
    """Bring one job to each moment, and keep it there."""
    core.site("lab").faults(
        {"kind": "never", "method": "PutFiles", "partition": "staging"},
        # It runs, and the core has not heard of it.
        {"kind": "never", "method": "StartJob", "partition": "starting", "when": "after"},
        {"kind": "never", "method": "ListFiles", "partition": "collecting"},
    )
    all_ = Moments({}, {}, {})
    for name in MOMENTS:
        all_.ran[name] = folder / f"ran-{name}"
        all_.hold[name] = latch()
        wait = all_.hold[name].wait if name in ("running", "ended") else "true"
        all_.jobs[name] = core.user().submit(
            f"#SWM partition {name}\n#SWM output r.txt\n#SWM retries 5\n"
            f"echo $SWM_ATTEMPT >> {all_.ran[name]}\necho begun\n{wait}\n"
            f"cat in.txt > r.txt; seq 1 2000; echo done",
            inputs={"in.txt": name.encode()},
        )
    all_.jobs["staging"].until(STAGING_IN)
    all_.jobs["starting"].until(STARTING)
    eventually(all_.ran["starting"].exists, "the start has had its effect")
    for name in ("running", "ended"):
        all_.jobs[name].written(b"begun\n")
    all_.jobs["collecting"].until(STAGING_OUT)
    return all_


def came_through(core: Core, moments: Moments) -> None:
    """Assert that each job has run once, ended as it did, and told all of it."""
    whole = b"begun\n" + b"".join(b"%d\n" % n for n in range(1, 2_001)) + b"done\n"
    for name, job in moments.jobs.items():
        ended = job.until(SUCCEEDED)
        assert moments.ran[name].read_text() == "1\n", name
        assert (ended.exit_code, ended.attempt) == (0, 1), name
        assert job.output() == whole, name
        assert job.outputs() == {"r.txt": File(name.encode())}, name
        core.site("lab").cleared(job.job_id)


def test_the_core_is_killed(core: Core, tmp_path: Path, latch: Callable[[], Latch]) -> None:
    moments = at_each_moment(core, tmp_path, latch)
    core.kill()
    core.site("lab").faults()
    end_unseen(moments)
    core.start()
    moments.hold["running"].release()
    came_through(core, moments)


def test_the_gate_is_killed(core: Core, tmp_path: Path, latch: Callable[[], Latch]) -> None:
    moments = at_each_moment(core, tmp_path, latch)
    core.site("lab").faults()
    core.kill_gate("lab")
    moments.hold["ended"].release()
    moments.hold["running"].release()
    came_through(core, moments)


def test_the_core_ends_in_order_and_jobs_run_on(
    core: Core, tmp_path: Path, latch: Callable[[], Latch]
) -> None:
    moments = at_each_moment(core, tmp_path, latch)
    gate = core.gate("lab").pid
    assert core.stop() == 0
    assert gone(gate)
    assert processes_of(moments.jobs["running"].job_id)
    core.site("lab").faults()
    end_unseen(moments)
    core.start()
    moments.hold["running"].release()
    came_through(core, moments)


def end_unseen(moments: Moments) -> None:
    """Have a job end while neither core nor gate is there."""
    moments.hold["ended"].release()
    job_id = moments.jobs["ended"].job_id
    eventually(lambda: not processes_of(job_id), "it has ended unseen")


def test_the_true_end_is_told_of_what_ended_unseen(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    code = core.user().submit(f"#SWM partition running\necho up; {hold.wait}; exit 43")
    killed = core.user().submit(f"#SWM partition ended\necho up; {hold.wait}; kill -9 $$")
    limit = core.user().submit("#SWM partition staging\n#SWM time 2\necho up; sleep 600")
    jobs = (code, killed, limit)
    for job in jobs:
        job.written(b"up\n")
    core.kill()
    hold.release(2)
    for job in jobs:
        eventually(lambda id_=job.job_id: not processes_of(id_), "it has ended unseen")  # type: ignore[misc]
    core.start()
    assert code.until(FAILED).exit_code == 43
    assert killed.until(FAILED).signal == signal.SIGKILL
    assert limit.until(FAILED).failure.reason == "TIME_LIMIT"


def test_gates_die_with_a_core_that_is_killed(core: Core) -> None:
    pids = [core.gate(name).pid for name in core.sites]
    core.kill()
    assert all(gone(pid) for pid in pids)
    core.start()
    core.wait_ready()
    assert not set(pids) & {core.gate(name).pid for name in core.sites}


def test_a_job_that_was_accepted_survives_whatever_comes(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    holder = core.user().submit(f"#SWM partition running\n#SWM cpus 4\n{hold.wait}")
    holder.until(RUNNING)
    jobs = [core.user().submit("#SWM partition running\n#SWM cpus 4\ntrue") for _ in range(20)]
    core.kill()
    core.start()
    assert [job.get().state for job in jobs] == [QUEUED] * len(jobs)
    for job in jobs[1:]:
        job.cancel()
    hold.release()
    jobs[0].until(SUCCEEDED)
    holder.until(SUCCEEDED)


def test_a_cancel_that_was_accepted_is_carried_out_after_a_crash(
    core: Core, latch: Callable[[], Latch]
) -> None:
    core.site("lab").faults({"kind": "never", "method": "CancelJob"})
    job = core.user().submit(f"#SWM partition running\n{latch().wait}")
    job.until(RUNNING)
    job.cancel()
    core.kill()
    core.site("lab").faults()
    core.start()
    assert not job.until(CANCELLED).cancel_forced
    assert not processes_of(job.job_id)


def test_a_job_in_a_site_s_queue_is_found_again(
    core: Core, tmp_path: Path, latch: Callable[[], Latch]
) -> None:
    hold, ran = latch(), tmp_path / "ran"
    first = core.user().submit(f"#SWM partition batch\n{hold.wait}")
    first.until(RUNNING)
    second = core.user().submit(f"#SWM partition batch\necho $SWM_ATTEMPT >> {ran}")
    second.until(QUEUED_AT_SITE)
    core.restart()
    core.kill_gate("lab")
    hold.release()
    second.until(SUCCEEDED)
    first.until(SUCCEEDED)
    assert ran.read_text() == "1\n"


def test_what_was_to_be_removed_is_removed_after_a_crash(core: Core) -> None:
    lab = core.site("lab")
    lab.faults({"kind": "never", "method": "RemoveJob"})
    job = core.user().submit("#SWM partition running\ntrue")
    job.until(SUCCEEDED)
    assert lab.attempts() == [f"{job.job_id}.1"]
    core.kill()
    lab.faults()
    core.start()
    lab.cleared(job.job_id)


# Partitions.


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_a_create_whose_answer_is_lost_makes_one_partition(core: Core, when: str) -> None:
    cloud = core.site("cloud")
    cloud.faults({"kind": "lose", "method": "CreatePartition", "when": when, "times": 2})
    before = set(made(cloud))
    job = core.user().submit("true", site="cloud")
    ended = job.until(SUCCEEDED)
    assert ended.attempt == 1
    assert set(made(cloud)) - before == {ended.partition_id}


@pytest.mark.parametrize("who", ["core", "gate"])
def test_a_crash_while_a_partition_is_created_makes_one_partition(core: Core, who: str) -> None:
    cloud = core.site("cloud")
    cloud.faults({"kind": "never", "method": "CreatePartition", "when": "inside"})
    before = set(made(cloud))
    job = core.user().submit("true", site="cloud")
    job.until(PROVISIONING)
    eventually(cloud.partitions, "the site has begun to make it")
    (partition_id,) = cloud.partitions()
    cloud.faults()
    if who == "core":
        core.restart()
    else:
        core.kill_gate("cloud")
    assert job.until(SUCCEEDED).partition_id == partition_id
    cloud.given_back()
    assert set(made(cloud)) - before == {partition_id}


def made(site: Site) -> list[str]:
    """The partitions that were made and deleted, by their tombstones."""
    site.given_back()
    return [path.name for path in site.root.glob("gone_partitions/*")]


@pytest.mark.parametrize("who", ["core", "gate"])
def test_a_crash_while_a_partition_is_deleted_leaves_none(core: Core, who: str) -> None:
    cloud = core.site("cloud")
    cloud.faults({"kind": "never", "method": "DeletePartition", "when": "before"})
    job = core.user().submit("true", site="cloud")
    job.until(SUCCEEDED)
    assert cloud.partitions()
    cloud.faults()
    if who == "core":
        core.restart()
    else:
        core.kill_gate("cloud")
    cloud.given_back()


def test_a_job_that_is_cancelled_while_everything_is_down_leaves_no_partition(
    core: Core, latch: Callable[[], Latch]
) -> None:
    cloud = core.site("cloud")
    job = core.user().submit(latch().wait, site="cloud")
    job.until(RUNNING)
    cloud.faults({"kind": "never", "method": "CancelJob"})
    job.cancel()
    core.kill()
    for pid in processes_of(job.job_id):
        os.kill(pid, signal.SIGKILL)
    cloud.faults()
    core.start()
    job.until(CANCELLED)
    cloud.given_back()
