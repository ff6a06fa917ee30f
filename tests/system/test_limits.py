"""What one user may have at once: whoever is at a limit is refused, and nobody else is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import pytest

from skyport.terminal.v1 import account_pb2, job_pb2, server_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import upload, upload_requests
from tests.system.harness.jobs import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import problem_of, refused
from tests.system.harness.sites import node, static
from tests.system.harness.users import User, submission
from tests.system.harness.waiting import eventually

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
JOBS = 3
STREAMS = 4
SPOOL_BYTES = 1 << 20

LIMITS = {
    "active_jobs_per_user": JOBS,
    "streams_per_user": STREAMS,
    "spool_bytes_per_user": "1M",
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(node("n1", cpus=16))}
    with running(tmp_path_factory.mktemp("limits"), sites, limits=LIMITS) as core:
        yield core


def quotas(user: User) -> dict[str, tuple[int, int]]:
    """Name → used and limit."""
    answer = user.account.GetQuotas(account_pb2.GetQuotasRequest(), timeout=20)
    return {each.name: (each.used, each.limit) for each in answer.quotas}


def noise(size: int, name: str) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


# Jobs.


@pytest.fixture
def full(core: Core, latch: Callable[[], Latch]) -> Iterator[tuple[list[JobHandle], Latch]]:
    """As many jobs of bo as one may have."""
    hold = latch()
    jobs = [core.user("bo").submit(f"{hold.wait}") for _ in range(JOBS)]
    yield jobs, hold
    for job in jobs:
        job.cancel()
        job.end()


def test_no_more_jobs_than_a_user_may_have(core: Core, full: tuple[list[JobHandle], Latch]) -> None:
    bo, cy = core.user("bo"), core.user("cy")
    assert quotas(bo)["active_jobs"] == (JOBS, JOBS)
    problem = refused(
        bo.jobs.SubmitJob, submission("true"), EXHAUSTED, "QUOTA", says="active_jobs_per_user"
    )
    assert (problem.metadata["quota"], problem.metadata["limit"]) == ("active_jobs", str(JOBS))
    assert f"bo has {JOBS} jobs that have not ended" in problem.message
    assert quotas(cy)["active_jobs"] == (0, JOBS)
    cy.submit("true").until(SUCCEEDED)
    jobs, hold = full
    jobs[0].until(RUNNING)
    hold.release()
    eventually(lambda: quotas(bo)["active_jobs"] == (JOBS - 1, JOBS), "one of them has ended")
    bo.submit("true").until(SUCCEEDED)


def test_a_request_of_before_is_answered_also_at_the_limit(core: Core) -> None:
    bo = core.user("bo")
    request = submission("sleep 1000")
    jobs = [bo.jobs.SubmitJob(request, timeout=20).job.job_id]
    jobs += [bo.submit("sleep 1000").job_id for _ in range(JOBS - 1)]
    try:
        assert bo.jobs.SubmitJob(request, timeout=20).job.job_id == jobs[0]
        request.script += b"# other"
        refused(bo.jobs.SubmitJob, request, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    finally:
        for job_id in jobs:
            bo.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job_id), timeout=20)
            JobHandle(bo, job_id, "1").until(CANCELLED)


def test_many_submits_at_once_do_not_pass_the_limit(core: Core) -> None:
    bo = core.user("bo")

    def submit(number: int) -> str:
        try:
            return bo.submit("sleep 1000").job_id
        except grpc.RpcError as error:
            if error.code() is not EXHAUSTED:
                raise
            return ""

    with futures.ThreadPoolExecutor(16) as pool:
        made = [job_id for job_id in pool.map(submit, range(40)) if job_id]
    try:
        assert len(made) == JOBS
    finally:
        for job_id in made:
            bo.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job_id), timeout=20)
            JobHandle(bo, job_id, "1").until(CANCELLED)


def test_an_ended_job_is_not_queued_again_past_the_limit(
    core: Core, full: tuple[list[JobHandle], Latch]
) -> None:
    bo = core.user("bo")
    jobs, _ = full
    jobs[0].cancel()
    jobs[0].until(CANCELLED)
    last = bo.submit("sleep 1000")
    try:
        again = job_pb2.RequeueJobRequest(job_id=jobs[0].job_id)
        refused(bo.jobs.RequeueJob, again, EXHAUSTED, "QUOTA")
        # The limit is the owner's, whoever asks.
        refused(core.admin.jobs.RequeueJob, again, EXHAUSTED, "QUOTA", says="bo has")
    finally:
        last.cancel()
        last.until(CANCELLED)
    jobs[0].requeue()
    jobs[0].until(QUEUED)


def test_a_core_that_comes_back_knows_what_each_has(
    core: Core, full: tuple[list[JobHandle], Latch]
) -> None:
    bo = core.user("bo")
    jobs, _ = full
    jobs[-1].until(RUNNING)
    held = quotas(bo)["spool_bytes"]
    core.restart()
    core.wait_ready()
    refused(bo.jobs.SubmitJob, submission("true"), EXHAUSTED, "QUOTA")
    assert quotas(bo)["spool_bytes"] == held


# Streams.


def watch(user: User) -> grpc.Call:
    """A watch that has begun."""
    call = user.jobs.WatchJobs(job_pb2.WatchJobsRequest(), timeout=60)
    next(call)
    return call


def test_no_more_streams_than_a_user_may_have(core: Core) -> None:
    bo, cy = core.user("bo"), core.user("cy")
    job = bo.submit("sleep 1000")
    job.until(RUNNING)
    eventually(lambda: quotas(bo)["streams"] == (0, STREAMS), "no stream is open")
    watches = [watch(bo) for _ in range(STREAMS)]
    try:
        assert quotas(bo)["streams"] == (STREAMS, STREAMS)
        problem = refused(
            bo.jobs.WatchJobs,
            job_pb2.WatchJobsRequest(),
            EXHAUSTED,
            "QUOTA",
            says="streams_per_user",
        )
        assert problem.metadata["quota"] == "streams"
        for method, request in (
            (bo.jobs.ReadOutput, job_pb2.ReadOutputRequest(job_id=job.job_id)),
            (bo.files.Upload, []),
            (bo.tunnels.Connect, []),
        ):
            assert problem_of(method, request).reason == "QUOTA"
        # Calls that answer once are no streams, and others have streams of their own.
        job.get()
        cy_watch = watch(cy)
        cy.submit("true").until(SUCCEEDED)
        cy_watch.cancel()
    finally:
        for call in watches:
            call.cancel()
    eventually(lambda: quotas(bo)["streams"] == (0, STREAMS), "cancelled streams are not counted")
    watch(bo).cancel()
    job.cancel()
    job.until(CANCELLED)


# The spool.


def test_no_more_in_the_spool_than_a_user_may_have(core: Core) -> None:
    bo, cy = core.user("bo"), core.user("cy")
    upload(bo, [noise(SPOOL_BYTES // 2, "half")])
    used, limit = quotas(bo)["spool_bytes"]
    assert SPOOL_BYTES // 2 <= used <= limit == SPOOL_BYTES
    for size in (SPOOL_BYTES, SPOOL_BYTES // 2 + 1):  # in pieces, and in one
        data = noise(size, "more")
        requests = list(upload_requests([(data, 0)]))
        problem = refused(
            bo.files.Upload, requests, EXHAUSTED, "QUOTA", says="spool_bytes_per_user"
        )
        assert re.search(r"take \d+ of 1048576 bytes", problem.message)
    assert quotas(bo)["spool_bytes"][0] <= SPOOL_BYTES
    # The same again takes no more room, and others have a share of their own.
    upload(bo, [noise(SPOOL_BYTES // 2, "half")])
    upload(cy, [noise(SPOOL_BYTES // 2, "half"), noise(SPOOL_BYTES // 4, "more")])
    cy.submit("#SWM output a.bin\nhead -c 1000 /dev/zero > a.bin").until(SUCCEEDED)


def test_results_that_pass_the_share_fail_their_job_and_no_other(core: Core) -> None:
    bo, cy = core.user("bo"), core.user("cy")
    too_much = f"#SWM output big.bin\nhead -c {SPOOL_BYTES} /dev/urandom > big.bin; echo said"
    job = bo.submit(too_much)
    ended = job.until(FAILED)
    assert ended.failure.reason == "SPOOL_FULL"
    assert "spool_bytes_per_user" in ended.failure.message
    assert job.output() == b"said\n"
    cy.submit("#SWM output a.bin\nhead -c 1000 /dev/urandom > a.bin").until(SUCCEEDED)


def test_results_that_do_not_fit_now_wait_for_room_and_hold_up_no_other(core: Core) -> None:
    bo, cy = core.user("bo"), core.user("cy")
    upload(bo, [noise(SPOOL_BYTES // 2, "half")])
    job = bo.submit(
        f"#SWM output big.bin\nhead -c {SPOOL_BYTES * 3 // 4} /dev/urandom > big.bin; echo said"
    )
    job.until_text("wait for room")
    assert "spool_bytes_per_user" in job.get().text
    cy.submit("#SWM output a.bin\nhead -c 1000 /dev/urandom > a.bin").until(SUCCEEDED)
    assert job.output() == b"said\n"
    job.cancel()
    job.until(CANCELLED)


def test_a_user_sees_their_own_share_and_an_administrator_the_whole(core: Core) -> None:
    asked = server_pb2.GetServerInfoRequest()
    bo = core.user("bo").server.GetServerInfo(asked, timeout=20)
    assert (bo.spool_used_bytes, bo.spool_limit_bytes) == quotas(core.user("bo"))["spool_bytes"]
    whole = core.admin.server.GetServerInfo(asked, timeout=20)
    assert whole.spool_limit_bytes > SPOOL_BYTES
    assert whole.spool_used_bytes >= sum(
        quotas(core.user(name))["spool_bytes"][0] for name in ("bo", "cy")
    )
