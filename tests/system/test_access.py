"""Users see their own objects only, and learn nothing of others'."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509

from rpc_kit.errors import Problem
from skyport.terminal.v1 import account_pb2, catalog_pb2, file_pb2, job_pb2, server_pb2, tunnel_pb2
from swm_core.store import Store, UserCertificate
from tests.system.harness.core import ADMIN, Core, free_port, running
from tests.system.harness.files import bring, manifest, sha256, upload
from tests.system.harness.jobs import CANCELLED, RUNNING, STDOUT, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import dynamic, static
from tests.system.harness.users import User, submission

DENIED = grpc.StatusCode.PERMISSION_DENIED
NOT_FOUND = grpc.StatusCode.NOT_FOUND
NO_JOB = "nosuchjob0000"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(), "cloud": dynamic()}
    with running(tmp_path_factory.mktemp("access"), sites) as core:
        yield core


@pytest.fixture(scope="module")
def ended(core: Core) -> JobHandle:
    """A job of bo that has ended, with an output."""
    job = core.user("bo").submit("#SWM output r.txt\necho private | tee r.txt", site="lab")
    job.until(SUCCEEDED)
    return job


# Every call about a job: its request for an id. What the job itself is, must not show.
ABOUT_A_JOB: dict[str, Callable[[User, str], tuple[Callable[..., Any], Any]]] = {
    "GetJob": lambda user, id_: (user.jobs.GetJob, job_pb2.GetJobRequest(job_id=id_)),
    "WatchJobs": lambda user, id_: (
        user.jobs.WatchJobs, job_pb2.WatchJobsRequest(job_ids=[id_], resume_token="0")
    ),
    "CancelJob": lambda user, id_: (user.jobs.CancelJob, job_pb2.CancelJobRequest(job_id=id_)),
    "RequeueJob": lambda user, id_: (user.jobs.RequeueJob, job_pb2.RequeueJobRequest(job_id=id_)),
    "ReadOutput": lambda user, id_: (
        user.jobs.ReadOutput, job_pb2.ReadOutputRequest(job_id=id_, kind=STDOUT, follow=True)
    ),
    "DeleteJob": lambda user, id_: (user.jobs.DeleteJob, job_pb2.DeleteJobRequest(job_id=id_)),
    "ListOutputs": lambda user, id_: (
        user.files.ListOutputs, file_pb2.ListOutputsRequest(job_id=id_)
    ),
    "Download": lambda user, id_: (
        user.files.Download,
        file_pb2.DownloadRequest(job_id=id_, files=[file_pb2.DownloadCursor(path="r.txt")]),
    ),
    "Connect": lambda user, id_: (
        user.tunnels.Connect,
        [tunnel_pb2.ConnectRequest(open=tunnel_pb2.ConnectOpen(job_id=id_, port=80))],
    ),
    "Listen": lambda user, id_: (
        user.tunnels.Listen, tunnel_pb2.ListenRequest(job_id=id_, port=80)
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", ABOUT_A_JOB)
@pytest.mark.parametrize("state", ["ended", "running"])
def test_another_s_job_and_no_job_are_the_same_answer(
    core: Core, ended: JobHandle, latch: Callable[[], Latch], call: str, state: str
) -> None:
    hold = latch()
    job = ended
    if state == "running":
        job = core.user("bo").submit(hold.wait, site="lab")
        job.until(RUNNING)
    answers = []
    for job_id in (job.job_id, NO_JOB):
        method, request = ABOUT_A_JOB[call](core.user("cy"), job_id)
        answer = wire_refusal(method, request, hide=job_id)
        assert answer.reason == "JOB_NOT_FOUND"
        answers.append(answer)
    assert answers[0] == answers[1]
    if state == "running":
        assert job.get().state == RUNNING
        hold.release()
        job.until(SUCCEEDED)
    else:
        assert job.get().state == SUCCEEDED


class WireRefusal(NamedTuple):
    """A failure as it came over the wire, byte for byte but for an id that the caller has given."""

    code: grpc.StatusCode
    reason: str
    text: str
    details: bytes


def wire_refusal(method: Callable[..., Any], request: Any, *, hide: str) -> WireRefusal:
    try:
        answer = method(iter(request) if isinstance(request, list) else request, timeout=10)
        if isinstance(answer, grpc.Call):
            list(answer)  # type: ignore[call-overload]  # the streams are calls, too
    except grpc.RpcError as error:
        trailing: Any = error.trailing_metadata()
        trailers = dict(trailing)
        return WireRefusal(
            error.code(),
            Problem.from_error(error).reason or "",
            (error.details() or "").replace(hide, "ID"),
            trailers["grpc-status-details-bin"].replace(hide.encode(), b"ID"),
        )
    raise AssertionError("it was not refused")


def test_lists_and_watches_tell_a_user_s_own_jobs_only(core: Core, ended: JobHandle) -> None:
    own = core.user("cy").submit("true", site="lab")
    own.until(SUCCEEDED)
    for wanted in (job_pb2.JobFilter(), job_pb2.JobFilter(owner="bo")):
        answer = core.user("cy").jobs.ListJobs(
            job_pb2.ListJobsRequest(filter=wanted, page_size=1_000), timeout=10
        )
        assert {job.owner for job in answer.jobs} == {"cy"}
    call = core.user("cy").jobs.WatchJobs(job_pb2.WatchJobsRequest(resume_token="0"), timeout=10)
    told = set()
    for message in call:
        told |= {event.job_id for event in message.events}
        if message.caught_up:
            break
    call.cancel()
    assert own.job_id in told
    assert ended.job_id not in told
    info = core.user("cy").server.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=10)
    assert not info.active_jobs


def test_a_digest_of_somebody_else_is_missing(core: Core) -> None:
    tree = {"secret.dat": b"a stranger's file that somebody knows the digest of"}
    digest = bring(core.user("bo"), tree)
    text, contents = manifest(tree)
    stranger = core.user("cy")
    asked = [file_pb2.Content(sha256=sha256(data), size=len(data)) for data in [*contents, text]]
    answer = stranger.files.FindMissing(file_pb2.FindMissingRequest(contents=asked), timeout=10)
    assert [(each.index, each.offset) for each in answer.missing] == [(0, 0), (1, 0)]
    request = submission("cat secret.dat")
    request.manifest_sha256 = digest
    refused(stranger.jobs.SubmitJob, request, NOT_FOUND, "CONTENT_MISSING")
    # Its own manifest that names another's content is no way to it either.
    upload(stranger, [text])
    refused(stranger.jobs.SubmitJob, request, NOT_FOUND, "CONTENT_MISSING", says="secret.dat")


def test_a_digest_of_somebody_else_and_one_of_nobody_are_the_same_answer(core: Core) -> None:
    digest = bring(core.user("bo"), {"a": b"known to bo"})
    answers = []
    for each in (digest, sha256(b"nobody's")):
        request = submission("true")
        request.manifest_sha256 = each
        answers.append(wire_refusal(core.user("cy").jobs.SubmitJob, request, hide=each.hex()))
    assert answers[0] == answers[1]


def test_an_output_of_another_s_job_is_missing_for_others(core: Core, ended: JobHandle) -> None:
    asked = [file_pb2.Content(sha256=sha256(b"private\n"), size=8)]
    request = file_pb2.FindMissingRequest(contents=asked)
    assert core.user("cy").files.FindMissing(request, timeout=10).missing
    assert not core.user("bo").files.FindMissing(request, timeout=10).missing


def test_a_dynamic_partition_is_seen_by_its_owner_and_by_admins_only(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user("bo").submit(hold.wait, site="cloud")
    partition_id = job.until(RUNNING).partition_id

    def seen(user: User) -> set[str]:
        parts = user.catalog.ListPartitions(catalog_pb2.ListPartitionsRequest(), timeout=10)
        nodes = user.catalog.ListNodes(catalog_pb2.ListNodesRequest(), timeout=10)
        return {p.partition_id for p in parts.partitions} | {n.partition_id for n in nodes.nodes}

    assert partition_id in seen(core.user("bo"))
    assert partition_id in seen(core.admin)
    assert partition_id not in seen(core.user("cy"))
    stranger = core.user("cy").catalog
    for name in (partition_id, NO_JOB):
        refused(
            stranger.ListNodes,
            catalog_pb2.ListNodesRequest(partition_id=name),
            NOT_FOUND,
            "PARTITION_NOT_FOUND",
            says=name,
        )
    hold.release()
    job.until(SUCCEEDED)
    core.site("cloud").given_back()


def test_a_connection_of_another_s_job_is_none(core: Core, latch: Callable[[], Latch]) -> None:
    port, hold = free_port(), latch()
    dial = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port})).recv(1)'"
    job = core.user("bo").submit(f"#SWM ports {port}/tcp/out\n{hold.wait}\n{dial}", site="lab")
    job.until(RUNNING)
    call = core.user("bo").tunnels.Listen(
        tunnel_pb2.ListenRequest(job_id=job.job_id, port=port), timeout=20
    )
    assert next(call).HasField("listening")
    hold.release()
    id_ = next(each.connection.connection_id for each in call if each.HasField("connection"))
    for each in (id_, "made-up"):
        opening = tunnel_pb2.AcceptRequest(open=tunnel_pb2.AcceptOpen(connection_id=each))
        refused(core.user("cy").tunnels.Accept, [opening], NOT_FOUND, "CONNECTION_NOT_FOUND")
    job.cancel()
    job.until(CANCELLED)


# Administrators.


def test_an_admin_sees_everything_and_may_end_it(
    core: Core, ended: JobHandle, latch: Callable[[], Latch]
) -> None:
    admin = core.admin
    assert admin.job(ended.job_id).owner == "bo"
    assert JobHandle(admin, ended.job_id, "").output() == b"private\n"
    assert JobHandle(admin, ended.job_id, "").outputs()
    wanted = job_pb2.ListJobsRequest(filter=job_pb2.JobFilter(owner="bo"), page_size=1_000)
    assert ended.job_id in {job.job_id for job in admin.jobs.ListJobs(wanted, timeout=10).jobs}
    job = core.user("bo").submit(latch().wait, site="lab")
    job.until(RUNNING)
    JobHandle(admin, job.job_id, "").cancel()
    job.until(CANCELLED)


@pytest.mark.parametrize("whose", ["bo", "*"])
def test_what_others_used_is_for_admins(core: Core, ended: JobHandle, whose: str) -> None:
    request = account_pb2.GetUsageRequest(group=account_pb2.USAGE_GROUP_USER, user=whose)
    refused(core.user("cy").account.GetUsage, request, DENIED, "ADMIN_REQUIRED")
    rows = {row.key: row for row in core.admin.account.GetUsage(request, timeout=10).rows}
    assert rows["bo"].attempts >= 1


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"group": 2, "user": "zoe"}, NOT_FOUND, "USER_NOT_FOUND"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_REQUIRED"),
        ({"group": 99}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_MALFORMED"),
        (
            {"group": 2, "from_time": {"seconds": 9}, "to_time": {"seconds": 9}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_OUT_OF_RANGE",
        ),
    ],
)
def test_a_question_for_usage_must_make_sense(
    core: Core, fields: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    refused(core.admin.account.GetUsage, account_pb2.GetUsageRequest(**fields), code, reason)


def test_processes_and_logs_of_gates_are_for_admins(core: Core) -> None:
    request = catalog_pb2.ListSitesRequest()
    told = {site.name: site for site in core.user().catalog.ListSites(request, timeout=10).sites}
    assert told["lab"].pid == 0
    assert not told["lab"].log_tail
    assert core.gate("lab").pid


def test_everybody_is_told_who_they_are(core: Core) -> None:
    for name in (ADMIN, "bo", "cy"):
        answer = core.user(name).account.WhoAmI(account_pb2.WhoAmIRequest(), timeout=10)
        assert (answer.user, answer.admin) == (name, name == ADMIN)
        assert answer.installation == core.installation
        assert answer.certificate_expire_time.ToSeconds() > time.time()


# Certificates.


def test_a_revoked_certificate_and_a_removed_user_are_not_served(core: Core) -> None:
    revoked, removed = core.keys("bo"), core.keys("dee")
    core.stop()
    asyncio.run(_revoke(core, revoked.cert_pem))
    core.start()
    core.wait_ready()
    for keys, reason in ((revoked, "CERTIFICATE_REVOKED"), (removed, "IDENTITY_UNKNOWN")):
        caller = core.caller(keys)
        refused(
            caller.account.WhoAmI,
            account_pb2.WhoAmIRequest(),
            grpc.StatusCode.UNAUTHENTICATED,
            reason,
            says="bundle",
        )
        caller.close()
    # Another certificate of the same user still works.
    core.user("bo").account.WhoAmI(account_pb2.WhoAmIRequest(), timeout=10)


async def _revoke(core: Core, cert_pem: bytes) -> None:
    certificate = x509.load_pem_x509_certificate(cert_pem)
    serial = f"{certificate.serial_number:x}"
    store = Store.open(core.home.database)
    try:
        ends = certificate.not_valid_after_utc.timestamp()
        await store.users.add_certificate(UserCertificate(serial, "bo", ends))
        await store.users.revoke_certificate(serial, time=time.time())
    finally:
        await store.close()


def test_a_home_is_for_its_owner_only(core: Core) -> None:
    assert core.home.path.stat().st_mode & 0o777 == 0o700
    for path in core.home.path.rglob("*"):
        if path.suffix in (".key", ".toml", ".db", ".sock"):
            assert not path.stat().st_mode & 0o077, path
