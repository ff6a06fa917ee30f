"""Users come with a bundle, and go at once: with all their certificates and open calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from rpc_kit.bundle import Bundle
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem, Refusal
from rpc_kit.interceptor import ErrorInterceptor
from rpc_kit.interceptor import caller as caller_of_the_call
from skyport.terminal.v1 import account_pb2, admin_pb2, file_pb2, job_pb2, tunnel_pb2
from swm_core.home import Home
from swm_core.security.accounts import StoredAccounts
from swm_core.security.bundles import Bundles
from swm_core.security.identity import Authenticator, Caller, Identity, Kind
from swm_core.security.open_calls import OpenCalls
from swm_core.store import Store
from swm_core.store import User as StoredUser
from swm_core.terminal.users import UserAdministration
from tests.security.world import World
from tests.system.harness.core import ADMIN, Core, running
from tests.system.harness.files import sha256
from tests.system.harness.jobs import CANCELLED, RUNNING, STDOUT, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import problem_of, refused
from tests.system.harness.sites import node, static
from tests.system.harness.users import User, submission

CODE = grpc.StatusCode
WHO = account_pb2.WhoAmIRequest()
REVOKED = (CODE.UNAUTHENTICATED, "CERTIFICATE_REVOKED")


@pytest.fixture(scope="module")
def core(world: World) -> Core:
    return world.core


@pytest.fixture
def latch(tmp_path: Path) -> Iterator[Latch]:
    made = Latch(tmp_path / "latch")
    yield made
    made.close()


def add(core: Core, name: str, *, admin: bool = False) -> User:
    """A new user, as their bundle lets them call."""
    request = admin_pb2.AddUserRequest(name=name, admin=admin)
    answer = core.admin.admin.AddUser(request, timeout=30)
    return caller(core, answer.bundle)


def caller(core: Core, sent: admin_pb2.Bundle) -> User:
    bundle = Bundle.parse(sent.content.decode(), "the answer")
    return core.caller(bundle.key_pair, bundle.user)


def renew(core: Core, name: str) -> User:
    answer = core.admin.admin.RenewUser(admin_pb2.RenewUserRequest(name=name), timeout=30)
    return caller(core, answer.bundle)


def revoke(core: Core, name: str) -> admin_pb2.User:
    request = admin_pb2.RevokeUserRequest(name=name)
    return core.admin.admin.RevokeUser(request, timeout=30).user


def listed(core: Core) -> dict[str, admin_pb2.User]:
    answer = core.admin.admin.ListUsers(admin_pb2.ListUsersRequest(), timeout=30)
    return {user.name: user for user in answer.users}


def is_served(user: User) -> bool:
    try:
        return user.account.WhoAmI(WHO, timeout=20).user == user.name
    except grpc.RpcError as error:
        problem = Problem.from_error(error)
        assert (problem.code, problem.reason) == REVOKED
        return False


@pytest.mark.parametrize("admin", [False, True])
def test_a_new_user_is_known_by_the_bundle_and_nothing_else_has_the_key(
    core: Core, admin: bool
) -> None:
    name = "new-admin" if admin else "new.user_1"
    answer = core.admin.admin.AddUser(admin_pb2.AddUserRequest(name=name, admin=admin), timeout=30)
    bundle = Bundle.parse(answer.bundle.content.decode(), "the answer")
    assert (bundle.endpoint, bundle.user) == (str(core.endpoint), name)
    assert bundle.installation == core.installation
    user = core.caller(bundle.key_pair, name)
    me = user.account.WhoAmI(WHO, timeout=20)
    assert (me.user, me.admin) == (name, admin)
    told = listed(core)[name]
    assert told == answer.user
    (certificate,) = told.certificates
    assert not certificate.revoked
    assert certificate.expire_time == me.certificate_expire_time
    assert bundle.expire_time == pytest.approx(certificate.expire_time.ToSeconds(), abs=1)
    secret = bundle.key_pem.splitlines()[1].encode()
    for path in core.home.path.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
    user.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "FIELD_REQUIRED"),
        ("Ann", "FIELD_MALFORMED"),
        ("..", "FIELD_MALFORMED"),
        ("a/b", "FIELD_MALFORMED"),
        ("a\n", "FIELD_MALFORMED"),
        ("x" * 33, "FIELD_MALFORMED"),
    ],
)
def test_a_name_that_can_t_be_one_is_refused(core: Core, name: str, reason: str) -> None:
    request = admin_pb2.AddUserRequest(name=name)
    refused(core.admin.admin.AddUser, request, CODE.INVALID_ARGUMENT, reason)
    assert name not in listed(core)


def test_a_name_is_never_given_twice(core: Core) -> None:
    user = add(core, "twice")
    for _ in range(2):  # nor when all its certificates were revoked
        request = admin_pb2.AddUserRequest(name="twice", admin=True)
        refused(core.admin.admin.AddUser, request, CODE.ALREADY_EXISTS, "USER_EXISTS", says="renew")
        revoke(core, "twice")
    assert not listed(core)["twice"].admin
    user.close()


def test_of_two_who_add_a_user_at_once_one_does(core: Core) -> None:
    def attempt(_: int) -> str:
        try:
            core.admin.admin.AddUser(admin_pb2.AddUserRequest(name="raced"), timeout=30)
        except grpc.RpcError as error:
            return Problem.from_error(error).reason or ""
        return "made"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["USER_EXISTS"] * 3 + ["made"]
    assert len(listed(core)["raced"].certificates) == 1


def test_a_renewed_user_has_two_certificates_that_count(core: Core) -> None:
    first = add(core, "renewed")
    second = renew(core, "renewed")
    assert is_served(first)
    assert is_served(second)
    assert len(listed(core)["renewed"].certificates) == 2
    request = admin_pb2.RenewUserRequest(name="nobody")
    refused(core.admin.admin.RenewUser, request, CODE.NOT_FOUND, "USER_NOT_FOUND", says="nobody")
    for user in (first, second):
        user.close()


class OpenCall:
    """A streaming call that is under way, read in a thread until it ends."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.begun = threading.Event()
        self.problem: Problem | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self._call:
                self.begun.set()
        except grpc.RpcError as error:
            self.problem = Problem.from_error(error)

    def ended(self) -> tuple[grpc.StatusCode, str | None]:
        """How it ended, once it has."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "it goes on"
        assert self.problem is not None, "it ended well"
        return self.problem.code, self.problem.reason


OPEN_CALLS: dict[str, Callable[[User, JobHandle, int], Any]] = {
    "WatchJobs": lambda user, job, port: user.jobs.WatchJobs(job_pb2.WatchJobsRequest()),
    "ReadOutput": lambda user, job, port: user.jobs.ReadOutput(
        job_pb2.ReadOutputRequest(job_id=job.job_id, kind=STDOUT, follow=True)
    ),
    "Connect": lambda user, job, port: user.tunnels.Connect(
        held_open(
            tunnel_pb2.ConnectRequest(
                open=tunnel_pb2.ConnectOpen(job_id=job.job_id, port_name="WEB")
            )
        )
    ),
    "Listen": lambda user, job, port: user.tunnels.Listen(
        tunnel_pb2.ListenRequest(job_id=job.job_id, port=port)
    ),
}
"""The streams that a revocation ends, each as a user opens it; Upload answers only at its end."""

SERVER = (
    "python3 -c \"import os, socket; s = socket.create_server(('127.0.0.1', "
    "int(os.environ['SWM_PORT_WEB']))); print('listens', flush=True); c, _ = s.accept(); "
    "c.sendall(b'hello'); c.recv(1)\" &"
)


def held_open(*requests: Any) -> Iterator[Any]:
    """These requests, and no end of them."""
    yield from requests
    threading.Event().wait(60)


def test_a_revocation_ends_what_is_open_and_refuses_what_is_new_for_good(
    core: Core, latch: Latch
) -> None:
    user, port = add(core, "lost"), 8999
    script = f"#SWM ports 0/tcp/in WEB,{port}/tcp/out\n{SERVER}\n{latch.wait}"
    job = user.submit(script, site="lab")
    job.until(RUNNING)
    job.written(b"listens")
    data = b"half of this comes"
    half = file_pb2.UploadPiece(sha256=sha256(data), data=data[:4])
    calls = {name: OpenCall(make(user, job, port)) for name, make in OPEN_CALLS.items()}
    upload = user.files.Upload.future(held_open(file_pb2.UploadRequest(pieces=[half])))
    other = OpenCall(core.user("cy").jobs.WatchJobs(job_pb2.WatchJobsRequest()))
    for name, call in [*calls.items(), ("the other's", other)]:
        assert call.begun.wait(30), name

    # And one that is on no record, as after the store was put back from a backup.
    unknown = core.caller(core.keys("lost"), "lost")
    assert is_served(unknown)
    told = revoke(core, "lost")
    assert told.name == "lost"
    assert all(certificate.revoked for certificate in told.certificates)
    assert {name: call.ended() for name, call in calls.items()} == dict.fromkeys(calls, REVOKED)
    failed: Any = upload.exception(timeout=30)
    problem = Problem.from_error(failed)
    assert (problem.code, problem.reason) == REVOKED
    assert other.problem is None
    for restart in (core.restart, lambda: None):
        assert not is_served(user)  # at first on the connection that stands
        assert not is_served(unknown)
        restart()
    core.wait_ready("lab")

    assert f"administrator {ADMIN} revoked all certificates of user lost" in core.log()
    # Jobs are not the certificate's: they run on, and administrators look after them.
    assert core.admin.job(job.job_id).state == RUNNING
    assert core.admin.job(job.job_id).owner == "lost"
    again = renew(core, "lost")
    assert again.job(job.job_id).state == RUNNING
    assert not is_served(user)
    assert not is_served(unknown)
    ours = JobHandle(core.admin, job.job_id, job.token)
    ours.cancel()
    ours.until(CANCELLED)
    for each in (user, unknown, again):
        each.close()


def test_the_last_administrator_stays(core: Core) -> None:
    for name in ("new-admin", "second"):
        with contextlib.suppress(grpc.RpcError):
            core.admin.admin.AddUser(admin_pb2.AddUserRequest(name=name, admin=True), timeout=30)
        revoke(core, name)  # an administrator who can't call is none that could help
    request = admin_pb2.RevokeUserRequest(name=ADMIN)
    revoking = core.admin.admin.RevokeUser
    refused(revoking, request, CODE.FAILED_PRECONDITION, "LAST_ADMIN", says=ADMIN)
    assert is_served(core.admin)
    request = admin_pb2.RevokeUserRequest(name="nobody")
    refused(revoking, request, CODE.NOT_FOUND, "USER_NOT_FOUND")


def test_lists_of_users_come_in_pages(core: Core) -> None:
    names: list[str] = []
    request = admin_pb2.ListUsersRequest(page_size=2)
    while True:
        answer = core.admin.admin.ListUsers(request, timeout=30)
        names += [user.name for user in answer.users]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert names == sorted(listed(core))
    request.page_token = "nonsense"
    problem = problem_of(core.admin.admin.ListUsers, request)
    assert (problem.code, problem.reason) == (CODE.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


def test_without_the_ca_s_key_nobody_is_made_and_the_core_goes_on(core: Core) -> None:
    hidden = core.home.ca_key.with_suffix(".hidden")
    core.home.ca_key.rename(hidden)
    try:
        request = admin_pb2.AddUserRequest(name="unsigned")
        refused(
            core.admin.admin.AddUser, request, CODE.FAILED_PRECONDITION, "CA_UNAVAILABLE",
            says="ca.key",
        )  # fmt: skip
        assert "unsigned" not in listed(core)
    finally:
        hidden.rename(core.home.ca_key)


async def test_of_two_last_administrators_who_revoke_each_other_one_stays(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "swm.db")
    for name in ("ann", "bea"):
        await store.users.add(StoredUser(name, admin=True, created=1.0))
    accounts = StoredAccounts(store.users)
    authenticator = Authenticator("abcdefghijkl", accounts)
    calls = OpenCalls(ErrorInterceptor("skyport.test", authenticator), authenticator)
    bundles = Bundles(Home(tmp_path), Endpoint("127.0.0.1", 7717), 60.0)
    users = UserAdministration(store.users, accounts, bundles, calls)
    ann = Identity("abcdefghijkl", Kind.USER, "ann", "0a", expires_at=2e9)
    caller_of_the_call.set(Caller(ann, is_admin=True))
    outcomes = await asyncio.gather(
        *(users.revoke(admin_pb2.RevokeUserRequest(name=name)) for name in ("ann", "bea")),
        return_exceptions=True,
    )
    refusals = [each.reason for each in outcomes if isinstance(each, Refusal)]
    assert refusals == ["LAST_ADMIN"]
    assert [user.revoked is None for user in store.users.all()] == [False, True]
    await store.close()


def test_nodes_of_an_account_that_is_not_shared_take_jobs_of_administrators_alone(
    tmp_path: Path,
) -> None:
    sites = {
        "own": static(node("n1")) | {"leave_out": ["SHARED_ACCOUNT"]},
        "all": static(node("n1")),
    }
    with running(tmp_path, sites) as core:
        bo = core.user("bo")
        core.admin.submit("true", site="own").until(SUCCEEDED)
        request = submission("#SWM site own\ntrue")
        says = "shared_account = true"
        refused(bo.jobs.SubmitJob, request, CODE.PERMISSION_DENIED, "ACCOUNT_NOT_SHARED", says=says)
        told = bo.jobs.CheckJob(job_pb2.CheckJobRequest(script=request.script), timeout=20)
        assert [each.reason for each in told.obstacles] == ["ACCOUNT_NOT_SHARED"]
        job = bo.submit("true")
        job.until(SUCCEEDED)
        assert job.get().site == "all"
