from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from cryptography import x509

from rpc_kit import identity
from rpc_kit.errors import Refusal
from rpc_kit.identity import Identity, Kind, peer_identity, spiffe_uri
from tests.rpc_kit.conftest import INSTALLATION, Pki


class Peer:
    """A call's context, as far as it tells who is at the other end."""

    def __init__(self, pem: bytes | None) -> None:
        self._pem = pem

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return {} if self._pem is None else {"x509_pem_cert": [self._pem]}


def asked(pem: bytes | None, *kinds: Kind, installation: str = INSTALLATION) -> Identity:
    context: Any = Peer(pem)
    return peer_identity(context, installation, kinds or tuple(Kind))


def refused(pem: bytes | None, *kinds: Kind, installation: str = INSTALLATION) -> Refusal:
    with pytest.raises(Refusal) as raised:
        asked(pem, *kinds, installation=installation)
    return raised.value


@pytest.mark.parametrize(
    ("kind", "name", "uri"),
    [
        (Kind.CORE, "", "spiffe://abcdefghijkl.swm/core"),
        (Kind.GATE, "lab-1", "spiffe://abcdefghijkl.swm/gate/lab-1"),
        (Kind.USER, "ann.b_c-d", "spiffe://abcdefghijkl.swm/user/ann.b_c-d"),
    ],
)
def test_a_certificate_tells_who_its_holder_is(pki: Pki, kind: Kind, name: str, uri: str) -> None:
    issued = pki.ca.issue(kind, name)
    found = asked(issued.cert_pem)
    assert found == Identity(INSTALLATION, kind, name, issued.serial, issued.expires_at.timestamp())
    assert found.uri == uri == spiffe_uri(INSTALLATION, kind, name)


def test_a_call_without_a_certificate_is_nobodys() -> None:
    refusal = refused(None)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CERTIFICATE_REQUIRED",
    )


def test_an_identity_of_another_installation_is_refused(pki: Pki) -> None:
    pem = pki.ca.issue(Kind.CORE).cert_pem
    assert refused(pem, installation="zyxwvutsrqpo").reason == "CERTIFICATE_INVALID"


def test_a_certificate_that_expired_since_the_connection_began_is_refused(pki: Pki) -> None:
    pem = pki.keys(Kind.USER, "ann", expired=True).cert_pem
    assert refused(pem).reason == "CERTIFICATE_EXPIRED"


def test_only_the_kinds_that_are_served_are_let_in(pki: Pki) -> None:
    pem = pki.ca.issue(Kind.GATE, "lab").cert_pem
    refusal = refused(pem, Kind.USER, Kind.CORE)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "KIND_NOT_ALLOWED",
    )


def test_what_has_no_name_of_ours_is_refused(pki: Pki) -> None:
    for pem in (pki.ca.cert_pem, b"", b"no certificate"):
        assert refused(pem).reason == "CERTIFICATE_INVALID"


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://abcdefghijkl.swm",
        "spiffe://abcdefghijkl.swm/core/x",
        "spiffe://abcdefghijkl.swm/user",
        "spiffe://abcdefghijkl.swm/user/",
        "spiffe://abcdefghijkl.swm/user/a/b",
        "spiffe://abcdefghijkl.swm/user/../core",
        "spiffe://abcdefghijkl.swm/admin/ann",
        "spiffe://abcdefghijkl.swm.example.com/core",
        "https://abcdefghijkl.swm/core",
    ],
)
def test_a_name_of_another_form_is_refused(
    pki: Pki, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a certificate is never issued: the CA is made to.
    monkeypatch.setattr("swm_core.security.ca.spiffe_uri", lambda *words: uri)
    pem = pki.ca.issue(Kind.USER, "ann").cert_pem
    assert uri.encode() in x509.load_pem_x509_certificate(pem).tbs_certificate_bytes
    with pytest.raises(ValueError, match="no SPIFFE name of ours"):
        identity.of_certificate(pem)


def test_the_same_certificate_is_read_once(pki: Pki) -> None:
    pem = pki.ca.issue(Kind.USER, "ann").cert_pem
    first = asked(pem)
    started = time.perf_counter()
    for _ in range(1_000):
        assert asked(bytes(bytearray(pem))) is first
    assert (time.perf_counter() - started) / 1_000 < 100e-6
