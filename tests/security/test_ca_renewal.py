"""A CA that ends is told of in time, and renewed without anybody being locked out."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from rpc_kit.bundle import Bundle
from rpc_kit.identity import Kind, end_of_certificate, of_certificate
from skyport.terminal.v1 import account_pb2, admin_pb2, server_pb2
from swm_core.home import load_ca
from swm_core.security.ca import (
    CA_LIFETIME,
    CaError,
    CertificateAuthority,
    has_same_key,
    new_key,
)
from swm_core.security.gates import issue_gate
from terminals.client import Client
from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.system.harness.core import ADMIN, Core, free_port, serves
from tests.system.harness.sites import GateProcess, Site, static
from tests.system.harness.waiting import eventually

DAY = datetime.timedelta(days=1)
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
WHO = account_pb2.WhoAmIRequest()
# So short that the core looks at its certificates every other second.
LIFE = "100s"


def ends_in(core: Core, left: datetime.timedelta) -> CertificateAuthority:
    """Have the CA of a home end then, with all that it has signed."""
    home = core.home
    now = datetime.datetime.now(datetime.UTC)
    ca = CertificateAuthority.create(
        core.installation, home.ca_key.read_bytes(), valid_from=now + left - CA_LIFETIME
    )
    home.ca_cert.write_bytes(ca.cert_pem)
    issued = ca.issue(Kind.CORE, key_pem=home.core_key.read_bytes(), valid_from=now - 9 * DAY)
    home.core_cert.write_bytes(issued.cert_pem)
    bundle_of(core, ca, ADMIN).replace(home.bundle)
    return ca


def bundle_of(core: Core, ca: CertificateAuthority, user: str) -> Bundle:
    """A bundle as this CA makes it."""
    issued = ca.issue(Kind.USER, user, valid_from=datetime.datetime.now(datetime.UTC) - 9 * DAY)
    return dataclasses.replace(
        Bundle.read(core.home.bundle),
        user=user,
        ca_pem=ca.cert_pem.decode(),
        cert_pem=issued.cert_pem.decode(),
        key_pem=issued.key_pem.decode(),
        expires=issued.expires_at.isoformat(),
    )


def renew(core: Core) -> str:
    """`swm-core renew-ca`; returns what it says."""
    return subprocess.run(
        [sys.executable, "-m", "swm_core", "renew-ca"],
        env={**os.environ, "SWM_HOME": str(core.home.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def who(bundle: Bundle) -> str:
    """Who a new connection with this bundle is taken for."""
    with Client(bundle) as client:
        return client.call(client.accounts.WhoAmI, WHO).user


@pytest.fixture
def far(tmp_path: Path) -> Site:
    return Site.make("far", tmp_path / "far", static(), endpoint=f"127.0.0.1:{free_port()}")


@pytest.fixture
def core(tmp_path: Path, far: Site) -> Iterator[Core]:
    """With a site whose gate is on TCP; it does not run."""
    made = Core(tmp_path / "home", [far], certificates={"lifetime": LIFE})
    yield made
    made.close()


def test_old_and_new_bundles_and_gates_go_on_when_the_ca_is_renewed(
    core: Core, far: Site, tmp_path: Path
) -> None:
    home = core.home
    old = ends_in(core, 100 * DAY)
    cert, key = issue_gate(home, "far")
    # As of a gate on another machine.
    copied = tmp_path / "ca.crt"
    copied.write_bytes(old.cert_pem)
    gate = GateProcess(
        far,
        *("--tls-cert", str(cert), "--tls-key", str(key), "--tls-ca", str(copied)),
        *("--core-identity", f"spiffe://{core.installation}.swm/core"),
    )
    swm = Swm(environment(home.path), tmp_path)
    try:
        gate.start()
        core.start()
        core.wait_ready()
        assert core.log().count("the CA of this installation ends on") == 1
        assert "the CA of this installation ends in 99d" in swm.ok("status")
        user_info = core.user().server.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=30)
        assert not user_info.HasField("ca_expire_time")
        bo = bundle_of(core, old, "bo")

        told = renew(core)

        end = end_of_certificate(home.ca_cert.read_bytes())
        assert end - time.time() > 3600 * DAY.total_seconds()
        for moment in (end, old.expires_at):
            assert f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d}" in told
        # What the new one has signed lives longer than the old one.
        new = load_ca(home)
        home.core_cert.write_bytes(new.renew(home.core_cert.read_bytes(), lifetime=365 * DAY))
        assert of_certificate(home.core_cert.read_bytes()).expires_at > old.expires_at
        eventually(
            lambda: Bundle.read(home.bundle).ca_pem.encode() == new.cert_pem,
            "the bundle of the home has the new certificate of the CA",
        )
        assert "the CA of" not in swm.ok("status")
        renewed = core.admin.admin.RenewUser(admin_pb2.RenewUserRequest(name="bo"), timeout=30)
        fresh = Bundle.parse(renewed.bundle.content.decode(), "the answer")
        assert fresh.ca_pem.encode() == new.cert_pem
        for bundle in (bo, fresh, dataclasses.replace(bo, ca_pem=fresh.ca_pem)):
            assert who(bundle) == "bo"
        # The core has shown its new certificate to the gate, which knows the old CA alone.
        serves(core, "far")
        copied.write_bytes(new.cert_pem)
        core.restart()
        core.wait_ready()
        serves(core, "far")
        assert gate.starts == 1
        assert who(bo) == "bo"
        assert core.log().count("the CA of this installation ends on") == 1
    finally:
        swm.close()
        core.close()
        gate.close()


def test_a_ca_that_has_ended_can_still_be_renewed(core: Core) -> None:
    old = ends_in(core, -3 * DAY)
    late = bundle_of(core, old, "bo")
    with pytest.raises(CaError, match="swm-core renew-ca"):
        old.issue(Kind.USER, "bo")
    renew(core)
    core.start()
    assert who(Bundle.read(core.home.bundle)) == ADMIN
    renewed = core.admin.admin.RenewUser(admin_pb2.RenewUserRequest(name="bo"), timeout=30)
    fresh = Bundle.parse(renewed.bundle.content.decode(), "the answer")
    assert who(fresh) == "bo"
    # Neither what the old one has signed counts, nor the old one.
    ended = core.caller(late.key_pair)
    with contextlib.closing(ended), pytest.raises(grpc.RpcError) as refused:
        ended.account.WhoAmI(WHO, timeout=5)
    assert refused.value.code() in AWAY


def test_a_ca_is_the_same_for_as_long_as_its_key_is() -> None:
    key = new_key()
    one, other = (CertificateAuthority.create("abcdefghijkl", key) for _ in range(2))
    stranger = CertificateAuthority.create("abcdefghijkl", new_key())
    signed = one.issue(Kind.USER, "bo").cert_pem
    assert other.renew(signed)
    assert has_same_key(one.cert_pem, other.cert_pem)
    assert not has_same_key(one.cert_pem, stranger.cert_pem)
    with pytest.raises(CaError, match="not one that this CA has signed"):
        stranger.renew(signed)
