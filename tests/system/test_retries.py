"""Attempts: what is tried again by itself, what a user tries again, and what is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from rpc_kit.errors import Problem
from skyport.terminal.v1 import account_pb2, file_pb2, job_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    JobHandle,
)
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import Site, node, static
from tests.system.harness.users import submission
from tests.system.harness.waiting import eventually


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    images = [{"name": "box", "kind": "container"}]
    with running(
        tmp_path_factory.mktemp("retries"), {"lab": static(node("n1"), images=images)}
    ) as core:
        yield core


@pytest.fixture
def lab(core: Core) -> Iterator[Site]:
    site = core.site("lab")
    yield site
    site.faults()


def test_a_job_is_tried_again_within_its_retries_as_a_new_attempt(
    core: Core, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    again = core.user().submit(
        f"#SWM retries 3\necho $SWM_ATTEMPT >> {tries}\necho try $SWM_ATTEMPT\n"
        "test $SWM_ATTEMPT = 2 || exit 9",
    )
    used_up = core.user().submit("#SWM retries 1\nexit $SWM_ATTEMPT")
    ended = again.until(SUCCEEDED)
    assert tries.read_text().split() == ["1", "2"]
    assert [attempt.number for attempt in ended.attempts] == [1, 2]
    assert [attempt.exit_code for attempt in ended.attempts] == [9, 0]
    assert [attempt.failure.reason for attempt in ended.attempts] == ["EXIT_CODE", ""]
    # Each has its own log.
    assert [again.output(attempt=n) for n in (1, 2)] == [b"try 1\n", b"try 2\n"]
    assert again.output() == b"try 2\n"
    core.site("lab").cleared(again.job_id)
    # When they are used up the last failure counts.
    ended = used_up.until(FAILED)
    assert (ended.failure.reason, ended.exit_code, ended.attempt) == ("EXIT_CODE", 2, 2)


def test_without_retries_nothing_is_tried_again_after_it_had_begun(core: Core, lab: Site) -> None:
    lab.faults({"kind": "end_job", "reason": "NODE_FAIL", "seconds": 0.3, "times": 1})
    job = core.user().submit("sleep 600")
    ended = job.until(FAILED)
    assert (ended.failure.reason, ended.attempt) == ("NODE_FAIL", 1)


def test_what_befalls_an_attempt_costs_one_of_the_retries(core: Core, lab: Site) -> None:
    reasons = ["NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"]
    fault = {"kind": "end_job", "times": 1, "seconds": 0.3}
    lab.faults(*(fault | {"reason": reason, "job": reason} for reason in reasons))
    script = "#SWM retries 1\ntest $SWM_ATTEMPT = 2 || sleep 600"
    jobs = [core.user().submit(f"#SWM name {reason}\n{script}") for reason in reasons]
    # As long as it waits for the next one, it is told why.
    told: list[str] = []

    def is_tried_again() -> bool:
        job = jobs[0].get()
        if job.state == QUEUED and job.attempt == 1:
            told.append(job.text)
        return job.attempt == 2

    eventually(is_tried_again, "it is tried again")
    assert told
    assert all(text.startswith("attempt 1 failed (") for text in told), set(told)
    for job, reason in zip(jobs, reasons, strict=True):
        ended = job.until(SUCCEEDED)
        assert [attempt.failure.reason for attempt in ended.attempts] == [reason, ""]


def test_an_end_that_nobody_knows_is_never_tried_again(
    core: Core, lab: Site, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    job = core.user().submit(f"#SWM retries 3\necho ran >> {tmp_path}/ran\necho up\n{latch().wait}")
    job.written(b"up\n")
    # All evidence goes, and the one who might remember goes too.
    lab.attempt_folder(job.job_id).rename(tmp_path / "evidence")
    core.kill_gate("lab")
    ended = job.until(FAILED, within_s=40)
    assert (ended.failure.reason, ended.attempt) == ("END_UNKNOWN", 1)
    assert (tmp_path / "ran").read_text() == "ran\n"
    core.wait_ready("lab")


@pytest.mark.parametrize(
    ("code", "reason", "failure"),
    [
        ("INVALID_ARGUMENT", "FIELD_MALFORMED", "INVALID"),
        ("INVALID_ARGUMENT", "WORKDIR_NOT_ALLOWED", "INVALID"),
        ("PERMISSION_DENIED", "USER_NOT_MAPPED", "USER_NOT_MAPPED"),
        ("NOT_FOUND", "IMAGE_NOT_FOUND", "IMAGE_UNAVAILABLE"),
        ("RESOURCE_EXHAUSTED", "DISK_FULL", "STAGING_FAILED"),
    ],
)
def test_what_a_gate_refuses_for_good_fails_the_job_with_its_words(
    core: Core, lab: Site, code: str, reason: str, failure: str
) -> None:
    refusal = {"kind": "fail", "method": "StartJob", "code": code, "reason": reason}
    lab.faults(refusal | {"message": "the words of the gate"})
    job = core.user().submit("#SWM retries 5\ntrue")
    ended = job.until(FAILED)
    assert ended.failure.reason == failure
    assert "the words of the gate" in ended.failure.message
    assert not ended.HasField("start_time")
    lab.faults()
    core.user().submit("true").until(SUCCEEDED)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("UNAVAILABLE", "NODE_UNREACHABLE"),
        ("ABORTED", "BUSY"),
        ("INTERNAL", "INTERNAL"),
    ],
)
def test_what_a_gate_cannot_do_now_is_asked_again(
    core: Core, lab: Site, code: str, reason: str
) -> None:
    lab.faults({"kind": "fail", "method": "StartJob", "code": code, "reason": reason, "times": 2})
    job = core.user().submit("cat in.txt", inputs={"in.txt": b"in"})
    ended = job.until(SUCCEEDED)
    assert ended.attempt == 1


def test_inputs_that_a_site_has_lost_are_brought_again(core: Core, lab: Site) -> None:
    lab.faults(
        {
            "kind": "fail", "method": "StartJob", "code": "FAILED_PRECONDITION",
            "reason": "INPUTS_MISSING", "times": 1,
        }
    )  # fmt: skip
    job = core.user().submit("cat in.txt", inputs={"in.txt": b"in"})
    assert job.until(SUCCEEDED).attempt == 1
    assert job.output() == b"in"


def test_a_static_partition_without_room_is_left_out_for_a_while(core: Core, lab: Site) -> None:
    lab.faults(
        {
            "kind": "fail", "method": "StartJob", "code": "RESOURCE_EXHAUSTED",
            "reason": "CAPACITY", "message": "no processes left",
        }
    )  # fmt: skip
    job = core.user().submit("true")
    eventually(lambda: "no processes left" in job.get().text, "it waits, and says for what")
    assert job.get().attempt == 1
    job.cancel()
    job.until(CANCELLED)


def test_a_start_whose_answer_is_lost_runs_once(core: Core, lab: Site, tmp_path: Path) -> None:
    for when in ("before", "inside", "after"):
        lab.faults({"kind": "lose", "method": "StartJob", "when": when, "times": 3})
        ran = tmp_path / when
        job = core.user().submit(f"echo ran >> {ran}")
        job.until(SUCCEEDED)
        assert ran.read_text() == "ran\n"


# Requeue.


def test_a_requeue_is_the_next_attempt_with_the_same_inputs(core: Core) -> None:
    job = core.user().submit(
        "#SWM output r.txt\ncat in.txt > r.txt; echo try $SWM_ATTEMPT; exit 1",
        inputs={"in.txt": b"in"},
    )
    job.until(FAILED)
    queued = job.requeue()
    assert queued.state == QUEUED
    assert not queued.HasField("failure")
    assert not queued.HasField("exit_code")
    ended = job.until(FAILED)
    assert job.seen[-1].attempt == 2
    assert [attempt.number for attempt in ended.attempts] == [1, 2]
    assert job.output(attempt=1) == b"try 1\n"
    assert job.output() == b"try 2\n"
    assert job.outputs() == {"r.txt": File(b"in")}
    core.site("lab").cleared(job.job_id)


@pytest.mark.parametrize("state", ["SUCCEEDED", "CANCELLED"])
def test_every_end_is_left_by_a_requeue(core: Core, state: str) -> None:
    job = core.user().submit("test $SWM_ATTEMPT = 1 || exit 0; " + _end_as(state))
    if state == "CANCELLED":
        job.until(RUNNING)
        job.cancel()
        job.until(CANCELLED)
    else:
        job.until(SUCCEEDED)
    assert not job.requeue().cancel_requested
    assert job.until(SUCCEEDED).attempt == 2


def _end_as(state: str) -> str:
    return "sleep 600" if state == "CANCELLED" else "true"


def test_a_job_that_was_queued_again_has_no_nodes_of_before(
    core: Core, latch: Callable[[], Latch]
) -> None:
    job = core.user().submit("#SWM cpus 4\ntrue")
    job.until(SUCCEEDED)
    hold = latch()
    holder = core.user().submit(f"#SWM cpus 4\n{hold.wait}")
    holder.until(RUNNING)
    job.requeue()
    waiting = job.get()
    assert waiting.state == QUEUED
    assert not waiting.nodes
    assert not waiting.partition_id
    hold.release()
    assert job.until(SUCCEEDED).nodes
    holder.until(SUCCEEDED)


def test_only_what_has_ended_is_queued_again(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    job = core.user().submit(hold.wait)
    job.until(RUNNING)
    request = job_pb2.RequeueJobRequest(job_id=job.job_id)
    refused(
        core.user().jobs.RequeueJob,
        request,
        grpc.StatusCode.FAILED_PRECONDITION,
        "JOB_NOT_ENDED",
        says="RUNNING",
    )
    hold.release()
    job.until(SUCCEEDED)


# Delete.


def test_a_deleted_job_is_forgotten_with_outputs_and_logs(core: Core) -> None:
    user = core.user()
    job = user.submit("#SWM output r.txt\necho forget-me-not | tee r.txt")
    job.until(SUCCEEDED)
    core.site("lab").cleared(job.job_id)
    job.delete()
    # Who watches everything is told.
    watch = user.jobs.WatchJobs(job_pb2.WatchJobsRequest(resume_token=job.token), timeout=10)
    told = next(
        event
        for answer in watch
        for event in answer.events
        if event.kind == job_pb2.JOB_EVENT_KIND_DELETED
    )
    watch.cancel()
    assert told.job_id == job.job_id
    for method, request in (
        (user.jobs.GetJob, job_pb2.GetJobRequest(job_id=job.job_id)),
        (user.jobs.CancelJob, job_pb2.CancelJobRequest(job_id=job.job_id)),
        (user.jobs.RequeueJob, job_pb2.RequeueJobRequest(job_id=job.job_id)),
        (user.jobs.DeleteJob, job_pb2.DeleteJobRequest(job_id=job.job_id)),
        (user.jobs.ReadOutput, job_pb2.ReadOutputRequest(job_id=job.job_id, kind=1)),  # type: ignore[arg-type]
        (user.files.ListOutputs, file_pb2.ListOutputsRequest(job_id=job.job_id)),
    ):
        refused(method, request, grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", says=job.job_id)
    assert not list(core.home.spool.rglob(f"*{job.job_id}*"))
    # What was used was used.
    usage = account_pb2.GetUsageRequest(group=account_pb2.USAGE_GROUP_JOB, page_size=1_000)
    assert job.job_id in {row.key for row in user.account.GetUsage(usage, timeout=10).rows}


def test_only_what_has_ended_is_deleted(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    job = core.user().submit(hold.wait)
    job.until(RUNNING)
    request = job_pb2.DeleteJobRequest(job_id=job.job_id)
    refused(
        core.user().jobs.DeleteJob,
        request,
        grpc.StatusCode.FAILED_PRECONDITION,
        "JOB_NOT_ENDED",
        says="cancel",
    )
    hold.release()
    job.until(SUCCEEDED)


def test_what_a_deleted_job_left_at_its_site_is_removed_all_the_same(core: Core, lab: Site) -> None:
    lab.faults(
        {
            "kind": "fail", "method": "RemoveJob", "code": "UNAVAILABLE",
            "reason": "NODE_UNREACHABLE", "times": 2,
        }
    )  # fmt: skip
    job = core.user().submit("true")
    job.until(SUCCEEDED)
    job.delete()
    lab.cleared(job.job_id)


def test_a_container_image_that_the_site_lacks_fails_the_job_and_nothing_else(core: Core) -> None:
    request = submission("#SWM container-image no/such:image\ntrue")
    reason = ""
    try:
        answer = core.user().jobs.SubmitJob(request, timeout=20)
        job = JobHandle(core.user(), answer.job.job_id, answer.watch_token)
        reason = job.until(FAILED).failure.reason
    except grpc.RpcError as error:
        # Where sites take only images that they list, it is known at once.
        reason = Problem.from_error(error).reason or ""
    assert reason in {"IMAGE_UNAVAILABLE", "IMAGE_NOT_FOUND"}
    core.user().submit("#SWM container-image box\ntrue").until(SUCCEEDED)
