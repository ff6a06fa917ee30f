"""Gates that the core starts: one hangs, one is started anew, and none outlives the core."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from skyport.terminal.v1 import admin_pb2, catalog_pb2, job_pb2, server_pb2
from tests.system.harness.core import Core, end_jobs
from tests.system.harness.jobs import RUNNING, SUCCEEDED
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import Site, static
from tests.system.harness.waiting import eventually, gone

READY = catalog_pb2.SITE_STATE_READY
UNREACHABLE = catalog_pb2.SITE_STATE_UNREACHABLE
PROMPTLY_S = 5.0
"""Far less than any deadline of a call to a gate: what waits for a gate that hangs fails."""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """Two gates that work, one that can't start, and one that is somebody else's and away."""
    folder = tmp_path_factory.mktemp("supervised")
    sites = [
        Site.make("good", folder / "good", static()),
        Site.make("hung", folder / "hung", static()),
        Site.make("wrong", folder / "wrong", {"nonsense": True} | static()),
        Site.make("near", folder / "near", static(), endpoint=f"unix://{folder}/s/g.sock"),
    ]
    with contextlib.closing(Core(folder / "home", sites)) as core:
        core.start()
        core.wait_ready("good", "hung")
        yield core
        end_jobs(core)


def restart(core: Core, site: str) -> None:
    core.admin.admin.RestartGate(admin_pb2.RestartGateRequest(site=site), timeout=20)


def test_a_gate_that_hangs_slows_nobody_else_and_can_be_started_anew(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    there = core.user().submit(f"echo up; {hold.wait}; echo down", site="hung")
    there.written(b"up\n")
    pid = core.gate("hung").pid
    # It accepts connections, which the kernel does for it, and never answers.
    os.kill(pid, signal.SIGSTOP)
    try:
        user = core.user()
        waiting = user.submit("true", site="hung")
        known = False
        while not known:
            job = user.submit("echo done", site="good")
            job.until(SUCCEEDED)
            assert job.output() == b"done\n"
            user.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=PROMPTLY_S)
            user.jobs.GetJob(job_pb2.GetJobRequest(job_id=there.job_id), timeout=PROMPTLY_S)
            user.server.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=PROMPTLY_S)
            core.admin.admin.ListOrphans(admin_pb2.ListOrphansRequest(), timeout=PROMPTLY_S)
            sites = user.catalog.ListSites(catalog_pb2.ListSitesRequest(), timeout=PROMPTLY_S).sites
            known = {site.name: site.state for site in sites}["hung"] == UNREACHABLE
        # What runs there runs on, as far as anybody knows.
        assert there.get().state == RUNNING
        # It does not end when it is told to, either.
        restart(core, "hung")
        states = set()
        while not gone(pid, within_s=0.2):
            states.add(core.gate("hung").state)
        assert states <= {UNREACHABLE, catalog_pb2.SITE_STATE_STARTING}
        # The last look may have seen the next process.
        assert UNREACHABLE in states
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    core.wait_ready("hung")
    hold.release()
    there.until(SUCCEEDED)
    assert there.output() == b"up\ndown\n"
    waiting.until(SUCCEEDED)


def test_jobs_run_on_while_their_gate_is_started_anew(
    core: Core, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    hold = latch()
    script = (
        f"echo $SWM_ATTEMPT >> {tmp_path}/ran; echo up; {hold.wait}\n"
        "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); echo line $i; done"
    )
    jobs = [core.user().submit(script, site="good") for _ in range(2)]
    for job in jobs:
        job.written(b"up\n")
    before = core.gate("good")
    restart(core, "good")
    hold.release()
    assert gone(before.pid)
    hold.release()
    core.wait_ready("good")
    after = core.gate("good")
    assert after.pid not in (0, before.pid)
    assert after.restarts == before.restarts + 1
    lines = b"".join(b"line %d\n" % (number + 1) for number in range(2000))
    for job in jobs:
        job.until(SUCCEEDED)
        assert job.output() == b"up\n" + lines
    assert (tmp_path / "ran").read_text() == "1\n1\n"


def test_a_gate_that_keeps_ending_is_tried_at_once_when_somebody_asks(core: Core) -> None:
    told = eventually(
        lambda: gate if (gate := core.gate("wrong")).restarts > 2 else None, "it keeps ending"
    )
    assert told is not None
    assert "keeps ending" in told.message
    assert "times" in told.message
    assert any("nonsense" in line for line in told.log_tail)
    config = core.site("wrong").folder / "gate.toml"
    config.write_text(config.read_text().replace("nonsense = true", ""))
    restart(core, "wrong")
    core.wait_ready("wrong")
    assert not core.gate("wrong").message


def test_the_gate_of_somebody_else_is_not_the_core_s_to_start(core: Core) -> None:
    refused(
        core.admin.admin.RestartGate,
        admin_pb2.RestartGateRequest(site="near"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_SUPERVISED",
        says="whoever runs it",
    )


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open, by number."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(path.name)] = str(path.readlink())
    return found


def test_gates_have_nothing_of_the_core_and_end_with_it_however_it_ends(core: Core) -> None:
    names = ("good", "hung")
    core.wait_ready(*names)
    pids = [core.gate(name).pid for name in names]
    of_core = {name for number, name in descriptors(core.pid).items() if number > 2}
    private = str(core.home.path)
    for name, pid in zip(names, pids, strict=True):
        mine = descriptors(pid)
        log = str(core.home.gate_log(name))
        assert mine[1] == mine[2] == log
        assert mine[0] in of_core, "its standard input is a pipe of the core"
        for number, target in mine.items():
            if number and number not in (1, 2) and target.startswith(("socket:", "pipe:", private)):
                assert target not in of_core, f"descriptor {number} of the gate is the core's"
    for pid in pids:
        # So that none can end because it was told to, or because its standard input ended.
        os.kill(pid, signal.SIGSTOP)
    core.kill()
    left = [pid for pid in pids if not gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
