"""Certificates of gates that serve on TCP: for a key that is made here, or where the gate runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rpc_kit import private_files
from rpc_kit.identity import Kind
from swm_core.home import Home, HomeError, as_home_error, load_ca
from swm_core.security.ca import CaError, CertificateAuthority, new_key
from swm_core.security.names import is_gate_name


def issue_gate(home: Home, gate: str) -> tuple[Path, Path]:
    """Make the certificate of a gate that serves on TCP; what exists is not touched.

    Args:
        home: An initialised home.
        gate: The name in the certificate: the site's, or the one that its `certificate` says.

    Returns:
        The files of the certificate and of its key.

    Raises:
        HomeError: It can't be done, and why.
    """
    cert, key = home.gate_cert(gate), home.gate_key(gate)
    with _for_gate(home, gate) as ca:
        if cert.exists() and not key.exists():
            raise HomeError(f"{cert} is there, for a key that is not; move it away")
        private_files.write_new(key, new_key())
        if not cert.exists():
            issued = ca.issue(Kind.GATE, gate, key_pem=key.read_bytes())
            private_files.write_new(cert, issued.cert_pem)
    return cert, key


def certify_gate(home: Home, gate: str, request_pem: bytes) -> Path:
    """As `issue_gate`, for a key that stays where the gate runs.

    Args:
        home: An initialised home.
        gate: The name in the certificate.
        request_pem: A signing request of that key.

    Returns:
        The file of the certificate.

    Raises:
        HomeError: It can't be done, and why; also when the gate has a certificate.
    """
    cert = home.gate_cert(gate)
    with _for_gate(home, gate) as ca:
        if not private_files.write_new(cert, ca.certify(Kind.GATE, gate, request_pem)):
            raise HomeError(f"{cert} is there; move it away, or choose another name")
    return cert


@contextlib.contextmanager
def _for_gate(home: Home, gate: str) -> Iterator[CertificateAuthority]:
    if not is_gate_name(gate):
        raise HomeError(f'"{gate}" can\'t be a gate\'s name; use up to 32 of a-z, 0-9 and "-"')
    try:
        with as_home_error():
            ca = load_ca(home)
            private_files.make_folder(home.gate_cert(gate).parent)
            yield ca
    except CaError as error:
        raise HomeError(f"{home.pki}: {error}") from None
