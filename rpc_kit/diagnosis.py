"""Why a connection failed, for people: grpc tells little more than that it did."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import tempfile

from rpc_kit.bundle import Bundle
from rpc_kit.endpoint import Endpoint
from rpc_kit.tls import KeyPair

_TIMEOUT_S = 5.0


def explain_connection_failure(endpoint: str, bundle: Bundle) -> str:
    """One line on why the core can't be reached at `endpoint`, and what to do.

    It connects once more, with the standard library, and looks at what happens; up to about ten
    seconds. Call it after a call has failed with UNAVAILABLE.
    """
    return explain(Endpoint.parse(endpoint), bundle.key_pair, bundle.server_name)


def explain(endpoint: Endpoint, keys: KeyPair, expected_name: str) -> str:
    """As `explain_connection_failure`, for any server that we speak mTLS with."""
    # Ours first: it is sure, and a server says only that it dislikes it.
    if ours := _own_certificate(keys.cert_pem):
        return ours
    try:
        connection = _connect(endpoint)
    except (ConnectionRefusedError, FileNotFoundError):
        return f"nothing listens at {endpoint}: the core is not running; start it with `swm up`"
    except TimeoutError:
        return f"{endpoint} does not answer; check the address, the network and firewalls"
    except OSError as error:
        return f"{endpoint} can't be reached: {error.strerror or error}"
    with connection:
        if endpoint.path is not None:
            return f"{endpoint} takes connections, but does not answer calls; is it our server?"
        return _handshake(connection, endpoint, keys, expected_name)


def _connect(endpoint: Endpoint) -> socket.socket:
    if endpoint.path is None:
        return socket.create_connection((endpoint.host, endpoint.port), _TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_TIMEOUT_S)
    try:
        connection.connect(os.fspath(endpoint.path))
    except OSError:
        connection.close()
        raise
    return connection


def _own_certificate(pem: bytes) -> str | None:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return "our own certificate can't be read; ask the administrator for a new bundle"
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc <= now:
        return (
            f"our own certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}; "
            "ask the administrator for a new bundle"
        )
    if certificate.not_valid_before_utc > now:
        return (
            f"our own certificate is valid only from {certificate.not_valid_before_utc:%Y-%m-%d} "
            "on; check this machine's clock"
        )
    return None


def _handshake(
    connection: socket.socket, endpoint: Endpoint, keys: KeyPair, expected_name: str
) -> str:
    try:
        context = _context(keys)
    except (ssl.SSLError, ValueError):
        return (
            "our own certificate, its key and the CA's do not fit together, or can't be read; "
            "ask the administrator for a new bundle"
        )
    try:
        with context.wrap_socket(connection, server_hostname=expected_name) as tls:
            # In TLS 1.3 a server looks at our certificate after our side has finished. One that
            # takes it sends its settings frame; grpc servers that do not just close.
            if tls.recv(1):
                return f"{endpoint} answers now; try again"
            return _refused(endpoint, "")
    except ssl.SSLCertVerificationError as error:
        return _their_certificate(endpoint, expected_name, error)
    except ssl.SSLError as error:
        reason = (error.reason or "").upper()
        if "ALERT" in reason or "CERTIFICATE" in reason:
            return _refused(endpoint, reason.rpartition("ALERT_")[2].lower().replace("_", " "))
        return f"the server at {endpoint} does not speak TLS; check the address in the bundle"
    except TimeoutError:
        return f"the server at {endpoint} does not finish the TLS handshake; is it a Sky Port core?"
    except OSError:
        return f"the server at {endpoint} cut the connection; is it a Sky Port core?"


def _refused(endpoint: Endpoint, why: str) -> str:
    told = f" ({why})" if why else ""
    return (
        f"the server at {endpoint} refused our certificate{told}; ask its administrator for a new "
        "bundle"
    )


def _their_certificate(
    endpoint: Endpoint, expected_name: str, error: ssl.SSLCertVerificationError
) -> str:
    # Numbers of OpenSSL's X509_V_ERR_*, which the ssl module gives no names.
    match error.verify_code:
        case 62:
            return (
                f"the server at {endpoint} is not {expected_name}: its certificate has another "
                "name; check the address in the bundle"
            )
        case 9 | 10:
            return (
                f"the certificate of the server at {endpoint} has expired or is not valid yet; "
                "check this machine's clock, or have the certificate renewed"
            )
        case 26:
            return (
                f"what answers at {endpoint} shows a certificate that may not serve; "
                "do not trust it, and tell the administrator"
            )
        case 18 | 19 | 20 | 21:
            return (
                f"the certificate of the server at {endpoint} is not signed by the CA of our "
                "bundle: another installation answers there, or the bundle is an old one"
            )
    return f"the certificate of the server at {endpoint} is not valid: {error.verify_message}"


def _context(keys: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=keys.ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    # The ssl module reads keys from files only.
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(keys.cert_pem + keys.key_pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context
