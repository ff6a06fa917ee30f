"""Events, lists and repeated requests: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from rpc_kit.errors import Problem
from skyport.terminal.v1 import job_pb2
from swm_core.store import Store
from tests.system.harness.core import Core, running
from tests.system.harness.jobs import QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import node, static
from tests.system.harness.users import User, submission


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running(tmp_path_factory.mktemp("watch"), {"lab": static(node("n1"))}) as core:
        yield core


def events(
    user: User, token: str, *, until: Callable[[job_pb2.JobEvent], bool], **request: object
) -> list[job_pb2.JobEvent]:
    """All events from a token on, to the first that fits."""
    call = user.jobs.WatchJobs(
        job_pb2.WatchJobsRequest(resume_token=token, **request),  # type: ignore[arg-type]
        timeout=20,
        wait_for_ready=True,
    )
    found: list[job_pb2.JobEvent] = []
    try:
        for answer in call:
            for event in answer.events:
                found.append(event)
                if until(event):
                    return found
    finally:
        call.cancel()
    raise AssertionError("the watch ended")


def is_end(event: job_pb2.JobEvent) -> bool:
    return event.to_state == SUCCEEDED


def now(user: User) -> str:
    return user.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=1), timeout=10).watch_token


def test_a_watch_from_the_submit_tells_the_submit_first(core: Core) -> None:
    job = core.user().submit("true")
    told = events(core.user(), job.token, until=is_end, job_ids=[job.job_id])
    assert told[0].to_state == QUEUED
    assert told[0].from_state == job_pb2.JOB_STATE_UNSPECIFIED
    assert {event.job_id for event in told} == {job.job_id}
    for before, after in itertools.pairwise(told):
        assert after.from_state == before.to_state
        assert after.sequence > before.sequence


def test_a_watch_of_everything_tells_all_jobs_of_the_caller(core: Core) -> None:
    token = now(core.user())
    jobs = [core.user().submit("true") for _ in range(3)]
    for job in jobs:
        job.until(SUCCEEDED)
    ended: set[str] = set()

    def all_ended(event: job_pb2.JobEvent) -> bool:
        if is_end(event):
            ended.add(event.job_id)
        return len(ended) == len(jobs)

    told = events(core.user(), token, until=all_ended)
    assert {event.job_id for event in told} == {job.job_id for job in jobs}


def test_without_a_token_a_watch_begins_now_and_has_caught_up_at_once(core: Core) -> None:
    call = core.user().jobs.WatchJobs(job_pb2.WatchJobsRequest(), timeout=10)
    first = next(iter(call))
    assert first.caught_up
    assert not first.events
    assert first.resume_token
    call.cancel()


def test_every_token_goes_on_exactly_where_it_was_given(core: Core) -> None:
    user = core.user()
    job = user.submit("true")
    job.until(SUCCEEDED)
    whole = events(user, _token_before(job), until=is_end, job_ids=[job.job_id])
    for index, event in enumerate(whole[:-1]):
        rest = events(user, str(event.sequence), until=is_end, job_ids=[job.job_id])
        assert rest == whole[index + 1 :]


def _token_before(job: JobHandle) -> str:
    return str(job.seen[0].sequence - 1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_watch_goes_on_across_a_restart_of_the_core_without_loss(
    core: Core, latch: Callable[[], Latch], end: str
) -> None:
    hold = latch()
    user = core.user()
    job = user.submit(hold.wait)
    running_at = events(
        user, job.token, until=lambda e: e.to_state == RUNNING, job_ids=[job.job_id]
    )
    getattr(core, end)()
    core.start()
    hold.release()
    rest = events(user, str(running_at[-1].sequence), until=is_end, job_ids=[job.job_id])
    whole = events(user, job.token, until=is_end, job_ids=[job.job_id])
    assert whole == running_at + rest


def test_an_open_watch_is_told_that_the_core_ends(core: Core) -> None:
    call = core.user().jobs.WatchJobs(job_pb2.WatchJobsRequest(), timeout=20)
    next(iter(call))
    began = time.monotonic()
    assert core.stop() == 0
    took_s = time.monotonic() - began
    with pytest.raises(grpc.RpcError) as failed:
        list(call)
    core.start()
    core.wait_ready()
    problem = Problem.from_error(failed.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert took_s < 5


def test_an_open_follower_is_told_that_the_core_ends_and_goes_on_afterwards(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(f"echo one; {hold.wait}; echo two")
    live = job.follow()
    while b"one\n" not in next(live).data:
        pass
    core.stop()
    with pytest.raises(grpc.RpcError) as failed:
        list(live)
    assert Problem.from_error(failed.value).reason == "SHUTTING_DOWN"
    core.start()
    hold.release()
    assert b"".join(answer.data for answer in job.follow(offset=4)) == b"two\n"
    job.until(SUCCEEDED)


def test_a_token_of_another_history_is_expired(core: Core) -> None:
    refused(
        core.user().jobs.WatchJobs,
        job_pb2.WatchJobsRequest(resume_token="999999999"),
        grpc.StatusCode.OUT_OF_RANGE,
        "WATCH_EXPIRED",
        says="list",
    )


def test_a_token_older_than_the_journal_is_expired_and_a_list_begins_anew(core: Core) -> None:
    user = core.user()
    old = now(user)
    for _ in range(2):
        user.submit("true").until(SUCCEEDED)
    core.stop()
    asyncio.run(_compact(core))
    core.start()
    core.wait_ready()
    refused(
        user.jobs.WatchJobs,
        job_pb2.WatchJobsRequest(resume_token=old),
        grpc.StatusCode.OUT_OF_RANGE,
        "WATCH_EXPIRED",
    )
    token = now(user)
    job = user.submit("true")
    job.until(SUCCEEDED)
    assert events(user, token, until=is_end)[0].job_id == job.job_id


async def _compact(core: Core) -> None:
    store = Store.open(core.home.database)
    try:
        await store.journal.compact(before_time=time.time() + 60, keep=1)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (
            job_pb2.WatchJobsRequest(resume_token="not a token"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_MALFORMED",
        ),
        (
            job_pb2.WatchJobsRequest(job_ids=[f"job-{n}" for n in range(1_001)]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_OUT_OF_RANGE",
        ),
        (
            job_pb2.WatchJobsRequest(job_ids=["no-such-job"]),
            grpc.StatusCode.NOT_FOUND,
            "JOB_NOT_FOUND",
        ),
    ],
)
def test_a_watch_that_cannot_be_is_refused(
    core: Core, request_: job_pb2.WatchJobsRequest, code: grpc.StatusCode, reason: str
) -> None:
    refused(core.user().jobs.WatchJobs, request_, code, reason)


# The same request again.


def submit(user: User, request: job_pb2.SubmitJobRequest) -> job_pb2.SubmitJobResponse:
    return user.jobs.SubmitJob(request, timeout=20)


def test_the_same_request_id_answers_the_same_job_as_it_is_now(core: Core) -> None:
    user = core.user()
    request = submission("true", request_id="once")
    first = submit(user, request)
    JobHandle(user, first.job.job_id, first.watch_token).until(SUCCEEDED)
    again = submit(user, request)
    assert again.job.job_id == first.job.job_id
    assert again.job.state == SUCCEEDED
    assert again.watch_token == first.watch_token
    core.restart()
    assert submit(user, request).job.job_id == first.job.job_id
    core.wait_ready()


def test_the_same_request_many_times_at_once_makes_one_job(core: Core) -> None:
    user = core.user()
    request = submission("true", request_id="at-once")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(user, request), range(16)))
    assert len({answer.job.job_id for answer in answers}) == 1


def test_the_same_request_id_of_another_user_is_another_job(core: Core) -> None:
    request = submission("true", request_id="shared-word")
    ids = {submit(core.user(name), request).job.job_id for name in ("bo", "cy")}
    assert len(ids) == 2


@pytest.mark.parametrize("change", ["script", "secret", "override", "manifest"])
def test_the_same_request_id_with_other_content_is_refused(core: Core, change: str) -> None:
    user = core.user()
    request = submission("true", request_id=f"changed-{change}")
    submit(user, request)
    if change == "script":
        request.script += b"\n"
    elif change == "secret":
        request.secret_env["A"] = "b"
    elif change == "override":
        request.overrides.name = "other"
    else:
        from tests.system.harness.files import bring

        request.manifest_sha256 = bring(user, {"a": b"a"})
    refused(
        user.jobs.SubmitJob,
        request,
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        says=request.request_id,
    )


# Lists.


def test_lists_come_newest_first_in_pages_without_gap_or_repetition(core: Core) -> None:
    user = core.user("cy")
    jobs = [user.submit("true").job_id for _ in range(5)]
    request = job_pb2.ListJobsRequest(page_size=2)
    found: list[str] = []
    sizes = []
    while True:
        page = user.jobs.ListJobs(request, timeout=10)
        found += [job.job_id for job in page.jobs]
        sizes.append(len(page.jobs))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found[:5] == jobs[::-1]
    assert len(found) == len(set(found))
    assert all(size == 2 for size in sizes[:-1])


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (job_pb2.ListJobsRequest(page_size=-1), "FIELD_OUT_OF_RANGE"),
        (job_pb2.ListJobsRequest(page_token="made-up"), "PAGE_TOKEN_INVALID"),
        (
            job_pb2.ListJobsRequest(filter=job_pb2.JobFilter(states=[99])),  # type: ignore[list-item]
            "FIELD_MALFORMED",
        ),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    core: Core, request_: job_pb2.ListJobsRequest, reason: str
) -> None:
    refused(core.user().jobs.ListJobs, request_, grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_a_page_token_fits_its_own_question_only(core: Core) -> None:
    user = core.user()
    for _ in range(2):
        user.submit("true")
    token = user.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=1), timeout=10).next_page_token
    assert token
    other = job_pb2.ListJobsRequest(
        page_size=1, page_token=token, filter=job_pb2.JobFilter(states=[QUEUED])
    )
    refused(user.jobs.ListJobs, other, grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


def test_a_list_is_filtered_by_state_site_and_the_beginning_of_an_id(core: Core) -> None:
    user = core.user()
    job = user.submit("true")
    job.until(SUCCEEDED)
    for wanted, expected in (
        (job_pb2.JobFilter(job_id_prefix=job.job_id[:10]), True),
        (job_pb2.JobFilter(states=[SUCCEEDED], site="lab"), True),
        (job_pb2.JobFilter(states=[RUNNING]), False),
        (job_pb2.JobFilter(site="elsewhere"), False),
    ):
        answer = user.jobs.ListJobs(job_pb2.ListJobsRequest(filter=wanted), timeout=10)
        assert (job.job_id in {each.job_id for each in answer.jobs}) is expected
