"""Jobs go their whole way through a cloud, whatever happens; the books say that nothing is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.azure_gate.whole import AGAIN_S, Cloud, empty, running_cloud
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
    PROVISIONING,
    QUEUED,
    RUNNING,
    STAGING_IN,
    STAGING_OUT,
    STARTING,
    SUCCEEDED,
    JobHandle,
)
from tests.system.harness.refusals import refused
from tests.system.harness.users import submission
from tests.system.harness.waiting import eventually
from tests.testbed.azure_arm import faults
from tests.testbed.azure_arm.faults import GROUP, VM, Fault

pytestmark = pytest.mark.timeout(300)

CHEAP, NEXT = "Standard_D2s_v3", "Standard_D4s_v3"
LOG = b"".join(b"%d\n" % n for n in range(1, 20_001))
BIG = 24 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    with running_cloud(folder, vm_sizes=[CHEAP, NEXT, "Standard_D8s_v3"]) as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud) -> Iterator[Cloud]:
    with empty(running) as cloud:
        yield cloud


# ---- cancelled in every state ----


def queued(cloud: Cloud) -> JobHandle:
    cloud.gate.kill()
    job = cloud.submit("true")
    job.until(QUEUED)
    return job


def while_the_group_is_made(cloud: Cloud) -> JobHandle:
    cloud.arm.faults.add(Fault("PUT", GROUP, does="slow", delay_s=1.5))
    job = cloud.submit("true")
    job.until(PROVISIONING)
    return job


def while_machines_boot(cloud: Cloud) -> JobHandle:
    cloud.arm.set(boot_s=60.0)
    job = cloud.submit("#SWM nodes 2\ntrue")
    job.until(PROVISIONING)
    eventually(lambda: len(cloud.arm.books().processes) == 2, "both boot", within_s=AGAIN_S)
    return job


def staging_in(cloud: Cloud) -> JobHandle:
    return _held(cloud, "FileService/PutFiles", STAGING_IN)


def starting(cloud: Cloud) -> JobHandle:
    return _held(cloud, "JobService/StartJob", STARTING)


def running_on_two_nodes(cloud: Cloud) -> JobHandle:
    job = cloud.submit("#SWM nodes 2\necho up; sleep 600")
    job.written(b"up\n", within_s=AGAIN_S)
    job.until(RUNNING)
    return job


def staging_out(cloud: Cloud) -> JobHandle:
    return _held(cloud, "FileService/ListFiles", STAGING_OUT)


def _held(cloud: Cloud, method: str, state: job_pb2.JobState.ValueType) -> JobHandle:
    script = "#SWM output-files in.txt\ncat in.txt"
    with cloud.held(method) as held:
        job = cloud.submit(script, inputs={"in.txt": b"hello\n"})
        eventually(held.exists, f"the gate has {method}", within_s=AGAIN_S)
        job.until(state, within_s=AGAIN_S)
    return job


@pytest.mark.parametrize(
    "until",
    [
        queued,
        while_the_group_is_made,
        while_machines_boot,
        staging_in,
        starting,
        running_on_two_nodes,
        staging_out,
    ],
)
def test_a_cancel_ends_it_and_leaves_nothing(
    cloud: Cloud, until: Callable[[Cloud], JobHandle]
) -> None:
    job = until(cloud)
    job.cancel()
    job.until(CANCELLED, within_s=AGAIN_S)
    cloud.start()
    cloud.cleared()


# ---- mistakes in a script ----


@pytest.mark.parametrize(
    ("script", "code", "reason", "says"),
    [
        ("cloud-image ubuntu", grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND", "publisher:offer"),
        (
            "site-option azure.zone 1",
            grpc.StatusCode.INVALID_ARGUMENT,
            "OPTION_INVALID",
            '"azure.zone"; it has none',
        ),
    ],
)
def test_what_azure_does_not_have_is_told_at_submit(
    cloud: Cloud, script: str, code: grpc.StatusCode, reason: str, says: str
) -> None:
    script = f"#SWM site {cloud.site.name}\n#SWM {script}\ntrue"
    refused(cloud.core.user().jobs.SubmitJob, submission(script), code, reason, says=says)
    check = job_pb2.CheckJobRequest(script=f"#!/bin/sh\n{script}\n".encode())
    answer = cloud.core.user().jobs.CheckJob(check, timeout=10)
    assert [it.reason for it in answer.obstacles] == [reason]
    assert not answer.candidates


# ---- no room, and evictions ----


@pytest.mark.parametrize(
    ("which", "says"), [("AllocationFailed", "Alloc"), ("FamilyQuota", "quota")]
)
def test_where_there_is_no_room_the_next_flavor_is_taken(
    cloud: Cloud, which: str, says: str
) -> None:
    refusal = faults.failed_operation if which == "AllocationFailed" else faults.error
    cloud.arm.faults.add(refusal(which, "PUT", VM))
    job = cloud.submit("true")
    ended = job.until(SUCCEEDED, within_s=AGAIN_S)
    assert [each.flavor for each in ended.attempts] == [CHEAP, NEXT]
    told = [event for event in job.seen if event.reason == "NO_CAPACITY"]
    assert told, job.story()
    assert CHEAP in told[0].message
    assert says in told[0].message, told[0].message
    assert any(NEXT in event.message for event in job.seen), job.story()


def test_an_eviction_is_told_as_such_and_retried(cloud: Cloud) -> None:
    script = f"#SWM spot\n#SWM retries 1\necho up; {cloud.wait('evicted')}"
    job, other = cloud.submit(script), cloud.submit("#SWM spot\necho up; sleep 600")
    for each in (job, other):
        each.written(b"up\n", within_s=AGAIN_S)
        cloud.arm.evict(cloud.machine(each))
    # What such a machine had is gone with it: nobody waits for that.
    assert other.until(FAILED).failure.reason == "PREEMPTED"
    eventually(lambda: job.get().attempt == 2, "it is tried again", within_s=AGAIN_S)
    cloud.file("evicted").touch()
    ended = job.until(SUCCEEDED, within_s=AGAIN_S)
    assert [each.failure.reason for each in ended.attempts] == ["PREEMPTED", ""]
    assert ended.attempts[0].spot
    assert job.output(attempt=1) == b"up\n"


def test_an_eviction_of_the_first_of_two_machines_ends_the_job(cloud: Cloud) -> None:
    job = cloud.submit("#SWM spot\n#SWM nodes 2\n#SWM launch every\necho up; sleep 600")
    job.written(b"up\n", within_s=AGAIN_S)
    cloud.arm.evict(cloud.machine(job))
    assert job.until(FAILED).failure.reason == "PREEMPTED"


# ---- kills ----


def test_a_core_that_is_killed_while_machines_boot_has_one_set_of_them(cloud: Cloud) -> None:
    before = cloud.arm.books().created
    cloud.arm.set(boot_s=2.0)
    job = cloud.submit('#SWM nodes 2\necho "$SWM_ATTEMPT"')
    job.until(PROVISIONING)
    eventually(lambda: cloud.arm.books().processes, "the first boots", within_s=AGAIN_S)
    cloud.core.kill()
    cloud.core.start()
    ended = job.until(SUCCEEDED, within_s=AGAIN_S)
    assert ended.attempt == 1
    assert job.output() == b"1\n"
    # Two machines with a disk each, and the address of the first.
    assert cloud.arm.books().created - before == 5


def test_a_gate_that_is_killed_while_a_job_runs_takes_nothing_from_it(cloud: Cloud) -> None:
    script = (
        "#SWM output-files out\n"
        f"seq 1 10000; touch {cloud.file('half')}; {cloud.wait('on')}; seq 10001 20000\n"
        "echo whole > out; exit 5"
    )
    job = cloud.submit(script)
    eventually(cloud.file("half").exists, "it has begun", within_s=AGAIN_S)
    cloud.gate.kill()
    cloud.file("on").touch()
    cloud.start()
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert (ended.attempt, ended.failure.reason, ended.attempts[0].exit_code) == (1, "EXIT_CODE", 5)
    assert job.output() == LOG
    assert job.outputs() == {"out": File(b"whole\n")}


# ---- links ----


def test_bytes_come_once_though_links_are_cut(cloud: Cloud) -> None:
    """Of one that is followed while it runs, and of another whose inputs are on their way."""
    run = cloud.submit(f"seq 1 10000; {cloud.wait('cut')}; seq 10001 20000")
    run.written(b"\n10000\n", within_s=AGAIN_S)
    followed = b""
    answers = run.follow(within_s=AGAIN_S)
    while not followed.endswith(b"\n10000\n"):
        followed += next(answers).data
    data = os.urandom(BIG)
    others = cloud.arm.books().processes
    cloud.arm.set(boot_s=1.0)  # so that its cable is slow before anything is sent
    upload = cloud.submit("#SWM output-files copy\nmv big copy", inputs={"big": data})
    cable = eventually(lambda: cloud.new_cable(others), "it has a machine", within_s=AGAIN_S)
    assert cable is not None
    before = cable.received()
    with cable.slowed("40mbit"):
        eventually(
            lambda: cable.received() - before > 4 << 20, "some of it has come", within_s=AGAIN_S
        )
        with cloud.cut():
            assert upload.get().state == STAGING_IN
            cloud.file("cut").touch()
            eventually(lambda: len(cloud.down()) == 2, "the core sees it", within_s=AGAIN_S)
        upload.until(RUNNING, STAGING_OUT, within_s=AGAIN_S)
        assert cable.received() - before < BIG * 1.5
    followed += b"".join(answer.data for answer in answers)
    assert followed == LOG
    assert run.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
    assert run.output() == LOG
    assert upload.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
    assert upload.outputs() == {"copy": File(data)}


# ---- a long sleep ----


def test_a_laptop_that_slept_for_longer_than_machines_may_live_has_what_was_written(
    cloud: Cloud,
) -> None:
    job = cloud.submit("#SWM output-files out\necho kept > out; echo up; sleep 600")
    job.written(b"up\n", within_s=AGAIN_S)
    job.until(RUNNING)
    cloud.core.kill()
    cloud.gate.kill()
    cloud.arm.clock.advance(25 * 3_600)
    eventually(
        lambda: not any(it.running for it in cloud.arm.books().live if it.kind == "vm"),
        "machines cost nothing any more",
        within_s=AGAIN_S,
    )
    cloud.start()
    ended = job.until(FAILED, within_s=AGAIN_S)
    assert ended.failure.reason == "NODE_FAIL", ended.failure
    assert "expired" in ended.failure.message
    assert job.output() == b"up\n"
    assert job.outputs() == {"out": File(b"kept\n")}
