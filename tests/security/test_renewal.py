"""Certificates are renewed before they end, and nobody is restarted for it."""

from __future__ import annotations

import dataclasses
import datetime
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509

from rpc_kit.bundle import Bundle
from rpc_kit.errors import Problem
from rpc_kit.identity import Kind, of_certificate
from rpc_kit.tls import KeyPair
from skyport.terminal.v1 import account_pb2, admin_pb2, job_pb2
from swm_core.home import load_ca
from swm_core.security.gates import issue_gate
from terminals.client import Client, Gap
from tests.system.harness.core import ADMIN, Core, free_port, serves
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import problem_of
from tests.system.harness.sites import GateProcess, Site, static
from tests.system.harness.users import User
from tests.system.harness.waiting import eventually

LIFE_S = 9
LIFE = datetime.timedelta(seconds=LIFE_S)
GATE = "far-2"
WHO = account_pb2.WhoAmIRequest()
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


class Installation(NamedTuple):
    """A core, and the gate of its site `far`, on TCP."""

    core: Core
    gate: GateProcess


class SiteWithName(Site):
    """A site whose gate's certificate has another name than the site."""

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "certificate": GATE}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """All of it, and a user of this machine, with certificates of a few seconds."""
    folder = tmp_path_factory.mktemp("renewal")
    far = SiteWithName.make("far", folder / "far", static(), endpoint=f"127.0.0.1:{free_port()}")
    core = Core(folder / "home", [far], certificates={"lifetime": f"{LIFE_S}s"})
    cert, key = issue_gate(core.home, GATE)
    gate = GateProcess(
        far,
        *("--tls-cert", str(cert), "--tls-key", str(key), "--tls-ca", str(core.home.ca_cert)),
        *("--core-identity", f"spiffe://{core.installation}.swm/core"),
    )
    shorten(core)
    try:
        gate.start()
        core.start()
        core.wait_ready()
        yield Installation(core, gate)
    finally:
        core.close()
        gate.close()


@pytest.fixture
def core(installation: Installation) -> Core:
    return installation.core


@pytest.fixture
def latch(tmp_path: Path) -> Iterator[Latch]:
    made = Latch(tmp_path / "latch")
    yield made
    made.close()


def shorten(core: Core, *, ended: bool = False) -> None:
    """Have all certificates in the home end within seconds, or have ended."""
    ca, home = load_ca(core.home), core.home
    start = datetime.datetime.now(datetime.UTC) - (2 * LIFE if ended else LIFE * 0)
    for kind, name, cert, key in (
        (Kind.CORE, "", home.core_cert, home.core_key),
        (Kind.GATE, GATE, home.gate_cert(GATE), home.gate_key(GATE)),
    ):
        issued = ca.issue(kind, name, key_pem=key.read_bytes(), valid_from=start, lifetime=LIFE)
        cert.write_bytes(issued.cert_pem)
    issued = ca.issue(Kind.USER, ADMIN, valid_from=start, lifetime=LIFE)
    bundle = dataclasses.replace(
        Bundle.read(home.bundle),
        cert_pem=issued.cert_pem.decode(),
        key_pem=issued.key_pem.decode(),
        expires=issued.expires_at.isoformat(),
    )
    bundle.replace(home.bundle)


def shown(endpoint: str, keys: KeyPair) -> str:
    """The serial number of the certificate that a server shows to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=keys.ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(keys.cert_pem + keys.key_pem)
        file.flush()
        context.load_cert_chain(file.name)
    host, _, port = endpoint.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"


def until(moment: float) -> None:
    """Wait until it is later than `moment`, in seconds since the epoch."""
    left_s = moment - time.time()
    eventually(lambda: time.time() > moment, "it is late enough", within_s=max(1.0, left_s + 5))


def test_the_core_and_its_gates_go_on_when_their_first_certificates_have_ended(
    installation: Installation,
) -> None:
    core, gate = installation
    home, user = core.home, core.user()
    files = {str(core.endpoint): home.core_cert, core.site("far").endpoint: home.gate_cert(GATE)}
    first = {at: of_certificate(path.read_bytes()) for at, path in files.items()}
    pid = core.pid
    until(max(each.expires_at for each in first.values()))
    for at, path in files.items():

        def is_new(at: str = at) -> bool:
            # A server believes clients of its CA only, and the gate's only client is the core.
            keys = user.keys if at == str(core.endpoint) else core.keys("", Kind.CORE)
            return shown(at, keys) not in ("", first[at].serial)

        eventually(is_new, f"{path} is shown anew")
    # The old certificate of the core has ended too: the gate takes calls of the new one only.
    core.wait_ready("far")
    serves(core, "far")
    assert (core.pid, gate.starts) == (pid, 1)
    assert home.core_cert.stat().st_mode & 0o777 == 0o600


def test_the_bundle_of_the_home_s_own_user_is_renewed_and_followers_go_on_with_it(
    core: Core, latch: Latch
) -> None:
    path = core.home.bundle
    with Client.connect(path) as client:
        before = client.bundle
        request = job_pb2.SubmitJobRequest(
            script=f"#!/bin/sh\necho one\n{latch.wait}\necho two\n".encode(), request_id="follower"
        )
        job_id = client.call(client.jobs.SubmitJob, request).job.job_id
        pieces = client.read_output(job_id, follow=True)
        assert next(pieces) == b"one\n"
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(list, pieces)
            try:
                until(of_certificate(before.cert_pem.encode()).expires_at)
                eventually(
                    lambda: client.bundle.cert_pem != before.cert_pem,
                    "the follower is cut, and goes on with the new certificate",
                )
            finally:
                latch.release()
            rest = reading.result(60)
        assert not any(isinstance(each, Gap) for each in rest)
        assert b"".join(each for each in rest if isinstance(each, bytes)) == b"two\n"
        assert client.bundle.cert_pem != before.cert_pem
        assert client.call(client.accounts.WhoAmI, WHO).user == ADMIN
        assert (client.bundle.endpoint, client.bundle.user) == (before.endpoint, ADMIN)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_end_of_a_certificate_is_the_end_of_its_calls(core: Core) -> None:
    user, watch = watching_for_seconds(core)
    problem = problem_of(lambda request, timeout: watch, None)
    assert (problem.code, problem.reason) == (UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
    # The connection stands, and carries nothing any more.
    problem = problem_of(user.account.WhoAmI, WHO)
    assert (problem.code, problem.reason) == (UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
    user.close()


def watching_for_seconds(core: Core) -> tuple[User, Any]:
    """A user with a certificate that ends within seconds, and a watch that has begun."""
    for life_s in (3, 6, 20):  # more, where the machine is too busy to connect in time
        life = datetime.timedelta(seconds=life_s)
        user = core.caller(core.keys("bo", lifetime=life), "bo")
        watch = user.jobs.WatchJobs(job_pb2.WatchJobsRequest(), timeout=60)
        try:
            assert next(watch).caught_up
        except grpc.RpcError:
            user.close()
        else:
            return user, watch
    raise AssertionError("no watch has begun within 20 s")


def test_a_home_whose_certificates_have_all_ended_comes_back(core: Core) -> None:
    core.stop()
    shorten(core, ended=True)
    core.start()
    with Client.connect(core.home.bundle) as client:
        assert client.call(client.accounts.WhoAmI, WHO).user == ADMIN
    core.wait_ready("far")


def test_what_was_revoked_is_not_renewed(core: Core) -> None:
    core.admin.admin.AddUser(admin_pb2.AddUserRequest(name="dee", admin=True), timeout=30)
    other = core.caller(core.keys("dee"), "dee")

    def revoked() -> bool:
        # Another administrator has to be left, whose certificate on record ends soon, too.
        core.admin.admin.RenewUser(admin_pb2.RenewUserRequest(name="dee"), timeout=30)
        try:
            other.admin.RevokeUser(admin_pb2.RevokeUserRequest(name=ADMIN), timeout=30)
        except grpc.RpcError as error:
            if Problem.from_error(error).reason != "LAST_ADMIN":
                raise
            return False
        return True

    eventually(revoked, f"{ADMIN} is revoked")
    before = core.home.bundle.read_bytes()
    problem = problem_of(core.admin.account.WhoAmI, WHO)
    assert (problem.code, problem.reason) == (UNAUTHENTICATED, "CERTIFICATE_REVOKED")
    until(of_certificate(Bundle.read(core.home.bundle).cert_pem.encode()).expires_at)
    # The core's own is renewed meanwhile, so its keeper has looked.
    assert of_certificate(core.home.core_cert.read_bytes()).expires_at > time.time()
    assert core.home.bundle.read_bytes() == before
    other.close()
