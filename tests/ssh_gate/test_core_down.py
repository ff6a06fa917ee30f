"""What ends on a host while nobody looks: the core and its gate are down, or the host is."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ssh_gate.bad_days import AGAIN_S, SITE, HostLatch, Lab, hosts, site_config
from tests.ssh_gate.harness import SshSite
from tests.system.harness.core import running_sites
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.sites import GateProcess
from tests.system.harness.waiting import eventually
from tests.testbed.hosts import Bed

__all__ = ["hosts"]

LOST_S = 20
"""So long a host may be away. A gate is there sooner, also on a machine with much else to do."""

pytestmark = pytest.mark.timeout(300)

MakeLatch = Callable[[str], HostLatch]


@pytest.fixture(scope="module")
def lab(hosts: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A core that starts its gate itself, so that they end together."""
    folder = tmp_path_factory.mktemp("lab")
    site = SshSite.make(SITE, folder / SITE, site_config(hosts))
    with running_sites(folder, [site], deadlines={"site_lost": f"{LOST_S}"}) as core:
        lab = Lab(hosts, core, GateProcess(site))
        lab.up()
        yield lab


@pytest.fixture
def latch(lab: Lab) -> Iterator[MakeLatch]:
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(partition: str) -> HostLatch:
            made = HostLatch(lab.host(partition), f"down{next(numbers)}")
            return stack.enter_context(contextlib.closing(made))

        yield make


def counted(name: str) -> str:
    """Lines of a script that note each run of it on the host."""
    return f"#SWM output r\n#SWM retries 0\necho $SWM_ATTEMPT >>/home/alice/{name}; echo begun\n"


def ran(lab: Lab, partition: str, name: str) -> str:
    return (lab.host(partition).home("alice") / name).read_text()


def attempt_folder(lab: Lab, partition: str, job: JobHandle) -> Path:
    found = lab.attempt(partition, job)
    assert found is not None
    return found


def test_what_has_ended_while_core_and_gate_were_down_tells_its_true_end(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("one")
    job = lab.submit("one", f"{counted('ended')}{hold.wait}; seq 1 3000; echo r >r; exit 7")
    job.written(b"begun\n")
    folder = attempt_folder(lab, "one", job)
    lab.core.kill()
    hold.release()
    end = folder / "end.h1"
    eventually(end.exists, "it has ended")
    at = end.stat().st_mtime
    lab.core.start()
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert (ended.failure.reason, ended.exit_code, ended.attempt) == ("EXIT_CODE", 7, 1)
    assert job.output() == b"begun\n" + b"".join(b"%d\n" % n for n in range(1, 3_001))
    assert job.outputs() == {"r": File(b"r\n")}
    assert ran(lab, "one", "ended") == "1\n"
    # As the host has it, not when the core heard of it.
    (attempt,) = ended.attempts
    assert abs(attempt.end_time.ToNanoseconds() / 1e9 - at) < 1.5
    assert attempt.start_time.ToNanoseconds() < attempt.end_time.ToNanoseconds()


@pytest.mark.parametrize("core_is", ["up", "down"])
def test_what_ran_on_a_host_that_was_started_anew_has_failed_and_does_not_run_again(
    lab: Lab, core_is: str
) -> None:
    job = lab.submit("two", f"{counted(core_is)}echo r >r; sleep 600")
    job.written(b"begun\n")
    host = lab.host("two")
    if core_is == "down":
        lab.core.kill()
    before = host.run("cat /proc/sys/kernel/random/boot_id")
    host.crash()
    host.boot()
    assert host.run("cat /proc/sys/kernel/random/boot_id") != before
    if core_is == "down":
        lab.core.start()
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert (ended.failure.reason, ended.attempt) == ("NODE_FAIL", 1)
    assert job.output() == b"begun\n"
    assert job.outputs() == {"r": File(b"r\n")}
    lab.submit("two", "true").until(SUCCEEDED, within_s=AGAIN_S)
    assert ran(lab, "two", core_is) == "1\n"


def test_jobs_of_a_host_that_is_gone_for_good_are_lost_after_a_while_and_no_others(
    lab: Lab, latch: MakeLatch
) -> None:
    hold = latch("one")
    other = lab.submit("one", f"echo up; {hold.wait}")
    other.written(b"up\n")
    job = lab.submit("two", f"{counted('gone')}sleep 600")
    job.written(b"begun\n")
    lab.host("two").crash()
    lab.down("two")
    assert job.get().state == RUNNING
    ended = job.until(FAILED, within_s=LOST_S + AGAIN_S)
    assert (ended.failure.reason, ended.attempt) == ("SITE_LOST", 1)
    assert "node h2" in ended.failure.message
    assert job.output() == b"begun\n"
    assert other.get().state == RUNNING
    hold.release()
    other.until(SUCCEEDED)
    # Should it come back after all, what is left there goes.
    lab.host("two").boot()
    lab.up("two")
    lab.cleared("two", job)
    assert ran(lab, "two", "gone") == "1\n"
