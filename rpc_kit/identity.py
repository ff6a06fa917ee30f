"""Who is at the other end of a connection, as its certificate says."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import time
from collections.abc import Iterable

from rpc_kit.errors import Refusal, denied, unauthenticated
from rpc_kit.interceptor import Context

_URI = re.compile(
    r"spiffe://([a-z0-9]+)\.swm/(core|(?:user|gate)(?=/))(?:/([a-z0-9._-]{1,32}))?", re.ASCII
)


class Kind(enum.StrEnum):
    """The parts of an installation that have certificates."""

    CORE = "core"
    GATE = "gate"
    USER = "user"


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says of its holder."""

    installation: str
    kind: Kind
    name: str
    """Of the user or gate; empty for the core."""
    serial: str
    """The certificate's serial number in lower-case hex."""
    expires_at: float
    """Seconds since the epoch."""

    @property
    def uri(self) -> str:
        """The SPIFFE URI that stands for it."""
        return spiffe_uri(self.installation, self.kind, self.name)


def spiffe_uri(installation: str, kind: Kind, name: str = "") -> str:
    """The URI that names an identity in its certificate, as `spiffe://abc.swm/user/ann`."""
    return f"spiffe://{installation}.swm/{kind}" + (f"/{name}" if name else "")


@functools.lru_cache(maxsize=8)
def end_of_certificate(pem: bytes) -> float:
    """When any certificate ends, that of a CA too, in seconds since the epoch.

    Raises:
        ValueError: It is not a certificate.
    """
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


@functools.lru_cache(maxsize=1024)
def of_certificate(pem: bytes) -> Identity:
    """The identity in a certificate that TLS has verified.

    Raises:
        ValueError: It is not a certificate, or has not exactly one name of ours.
    """
    # It costs 11 MB, and a gate behind a unix socket never needs it.
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("the certificate has no name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if not found or (found[2] == Kind.CORE) == bool(found[3]):
        raise ValueError("the certificate has no SPIFFE name of ours")
    return Identity(
        installation=found[1],
        kind=Kind(found[2]),
        name=found[3] or "",
        serial=f"{certificate.serial_number:x}",
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )


def peer_identity(context: Context, installation: str, kinds: Iterable[Kind]) -> Identity:
    """Who calls, if it is one of `kinds` of this installation.

    Raises:
        Refusal: UNAUTHENTICATED with CERTIFICATE_REQUIRED, CERTIFICATE_INVALID or
            CERTIFICATE_EXPIRED; PERMISSION_DENIED with KIND_NOT_ALLOWED.
    """
    pems = context.auth_context().get("x509_pem_cert")
    if not pems:
        raise unauthenticated("CERTIFICATE_REQUIRED", "this call needs a client certificate")
    try:
        identity = of_certificate(next(iter(pems)))
    except ValueError as error:
        raise unauthenticated("CERTIFICATE_INVALID", str(error)) from None
    if identity.installation != installation:
        raise unauthenticated(
            "CERTIFICATE_INVALID", "the certificate belongs to another installation"
        )
    # TLS looks at the connection's start only, and a connection may live for long.
    if identity.expires_at <= time.time():
        raise certificate_expired()
    if identity.kind not in kinds:
        raise denied("KIND_NOT_ALLOWED", f"a certificate of a {identity.kind} is not served here")
    return identity


def certificate_expired() -> Refusal:
    """The certificate of the call has ended since the connection was made."""
    return unauthenticated("CERTIFICATE_EXPIRED", "the certificate has expired; get a new one")


class CoreOnly:
    """An `authenticate` for gates on TCP: they serve only the core of their installation.

    Args:
        installation: The id of the installation, as in the gate's own certificate.
    """

    def __init__(self, installation: str) -> None:
        self._installation = installation

    def __call__(self, method: str, context: Context) -> Identity:
        return peer_identity(context, self._installation, (Kind.CORE,))
