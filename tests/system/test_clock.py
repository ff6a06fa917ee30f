"""Clocks that jump by hours, and machines that sleep for days: nothing is thrown away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.clock import Clock
from tests.system.harness.core import Core, end_jobs
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    PROVISIONING,
    QUEUED,
    QUEUED_AT_SITE,
    RUNNING,
    STAGING_IN,
    STAGING_OUT,
    STARTING,
    SUCCEEDED,
    JobHandle,
    State,
)
from tests.system.harness.latch import Latch
from tests.system.harness.sites import Site, dynamic, node
from tests.system.harness.waiting import eventually
from tests.system.harness.watcher import Watcher

HOUR = 3_600
DAY = 24 * HOUR
AGAIN_S = 60.0
FREE = "#SWM partition free\ntrue"
"""A script for which there is a place whatever the others do."""
STATES = {
    "queued": QUEUED,
    "provisioning": PROVISIONING,
    "staging": STAGING_IN,
    "starting": STARTING,
    "waiting": QUEUED_AT_SITE,
    "running": RUNNING,
    "collecting": STAGING_OUT,
}
_AWAY = {"kind": "fail", "code": "UNAVAILABLE", "reason": "SITE_UNREACHABLE"}
HELD = (
    _AWAY | {"method": "PutFiles", "partition": "staging"},
    # It runs, and the core has not heard of it.
    {"kind": "lose", "method": "StartJob", "partition": "starting"},
    _AWAY | {"method": "ListFiles", "partition": "collecting"},
)

MakeLatch = Callable[[], Latch]

# A job in each state takes some twenty starts: long on a machine that does much else.
pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock") / "ahead")


@pytest.fixture(scope="module")
def core(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("core")
    names = ("running", "staging", "starting", "collecting", "free")
    parts = {name: {"kind": "static", "nodes": [node(f"{name}-1")]} for name in names}
    batch = {"batch": {"kind": "queue", "slots": 1}}
    sites = {
        "lab": {"partitions": parts | batch},
        "cloud": dynamic(expiry="none"),
        "spot": dynamic(),
    }
    core = Core(folder / "home", [Site.make(name, folder / name, sites[name]) for name in sites])
    with contextlib.ExitStack() as ending:
        ending.callback(end_jobs, core)
        ending.callback(core.close)
        core.environment = clock.environment
        core.start()
        core.wait_ready()
        yield core


@contextlib.contextmanager
def asleep(core: Core) -> Iterator[None]:
    """Have the machine of the core stand still meanwhile."""
    pids = [core.pid, *(core.gate(name).pid for name in core.sites)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def sleeps_for_two_days(core: Core, clock: Clock) -> None:
    with asleep(core):
        clock.jump(2 * DAY)


def is_off_for_two_days(core: Core, clock: Clock) -> None:
    core.kill()
    clock.jump(2 * DAY)
    core.start()


def is_set_back(core: Core, clock: Clock) -> None:
    clock.jump(-5 * HOUR)
    core.restart()


def is_set_forward(core: Core, clock: Clock) -> None:
    clock.jump(5 * HOUR)


def comes_to(job: JobHandle, state: State) -> None:
    eventually(
        lambda: job.get().state == state, f"{job.job_id} is in state {state}", within_s=AGAIN_S
    )


def goes_by(core: Core, clock: Clock) -> None:
    """Wait until the core has seen what its clock says now."""

    def has_seen() -> bool:
        job = core.admin.submit(FREE).get()
        ahead_s = job.submit_time.seconds - time.time()
        return abs(ahead_s - clock.ahead_s) < HOUR

    eventually(has_seen, "the core goes by its clock", within_s=AGAIN_S)


def in_each_state(
    core: Core, folder: Path, latch: MakeLatch
) -> tuple[dict[str, JobHandle], list[Latch]]:
    """A job in each state, and what holds those that run."""
    holds = [latch(), latch()]
    core.site("lab").faults(*HELD)
    core.site("cloud").faults(_AWAY | {"method": "CreatePartition"})
    jobs = {}

    def submit(name: str, where: str, then: str = "") -> JobHandle:
        jobs[name] = core.user().submit(
            f"#SWM {where}\n#SWM output r\n"
            f"echo $SWM_ATTEMPT >>{folder}/ran-{name}; echo begun\n{then}\ncat in >r; echo end",
            inputs={"in": name.encode()},
        )
        return jobs[name]

    submit("running", "partition running\n#SWM cpus 4", holds[0].wait).written(
        b"begun\n", within_s=AGAIN_S
    )
    submit("queued", "partition running\n#SWM cpus 4")
    submit("provisioning", "site cloud")
    for name in ("staging", "starting", "collecting"):
        submit(name, f"partition {name}")
    submit("ahead", "partition batch", holds[1].wait).written(b"begun\n", within_s=AGAIN_S)
    submit("waiting", "partition batch")
    for name, state in STATES.items():
        comes_to(jobs[name], state)
    return jobs, holds


@pytest.mark.parametrize(
    "happens", [sleeps_for_two_days, is_off_for_two_days, is_set_forward, is_set_back]
)
def test_a_job_in_any_state_comes_through_when_its_core(
    core: Core,
    clock: Clock,
    tmp_path: Path,
    latch: MakeLatch,
    happens: Callable[[Core, Clock], None],
) -> None:
    jobs, holds = in_each_state(core, tmp_path, latch)
    watcher = Watcher(core.user())
    happens(core, clock)
    goes_by(core, clock)
    # Long enough for a deadline that has passed to be noticed.
    core.admin.submit(FREE).until(SUCCEEDED, within_s=AGAIN_S)
    for name, state in STATES.items():
        assert jobs[name].get().state == state, jobs[name].story()
    for site in ("lab", "cloud"):
        core.site(site).faults()
    for hold in holds:
        hold.release()
    for name, job in jobs.items():
        assert job.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
        assert job.output() == b"begun\nend\n"
        assert job.outputs() == {"r": File(name.encode())}
        assert (tmp_path / f"ran-{name}").read_text() == "1\n"
    if happens in (sleeps_for_two_days, is_set_forward):
        watcher.saw_the_ends_of(jobs.values(), within_s=AGAIN_S)


def test_nodes_with_an_end_of_their_own_are_renewed_by_the_clock_on_the_wall(
    core: Core, clock: Clock, latch: MakeLatch
) -> None:
    hold = latch()
    job = core.user().submit(f"echo up; {hold.wait}", site="spot")
    job.written(b"up\n", within_s=AGAIN_S)
    (partition,) = core.site("spot").partitions()
    folder = core.site("spot").root / "partitions" / partition

    def told() -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]

    def renewed_after(before: list[bytes]) -> None:
        eventually(lambda: told() != before, "it is renewed", within_s=AGAIN_S)

    for _ in range(2):
        before = told()
        # The machine slept: no time that runs on for the core itself has passed.
        with asleep(core):
            clock.jump(20 * HOUR)
        renewed_after(before)
    assert job.get().state == RUNNING
    hold.release()
    job.until(SUCCEEDED)


def spent_s(core: Core, job: JobHandle) -> float:
    """What the store has of the time that a job's deadline has spent, in whatever state."""
    with contextlib.closing(sqlite3.connect(core.home.database)) as store:
        found = store.execute("SELECT value FROM meta WHERE key = 'deadlines_spent_s'").fetchone()
    table: dict[str, float] = json.loads(found[0]) if found else {}
    return sum(value for key, value in table.items() if key.startswith(job.job_id))


def test_what_a_deadline_has_spent_is_kept_and_no_more_is_while_the_core_is_off(
    core: Core, clock: Clock
) -> None:
    core.site("lab").faults(HELD[0])
    job = core.user().submit("#SWM partition staging\ntrue", inputs={"in": b"in"})
    comes_to(job, STAGING_IN)
    before = eventually(lambda: spent_s(core, job), "some is spent", within_s=AGAIN_S)
    is_off_for_two_days(core, clock)
    core.wait_ready()
    eventually(lambda: spent_s(core, job) > before, "more is spent", within_s=AGAIN_S)
    assert spent_s(core, job) < HOUR
    core.site("lab").faults()
    job.until(SUCCEEDED, within_s=AGAIN_S)
    eventually(lambda: not spent_s(core, job), "it is forgotten", within_s=AGAIN_S)
