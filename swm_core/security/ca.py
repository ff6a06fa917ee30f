"""The installation's certificate authority: one certificate for the core, each gate and each user.

Loaded only where something is signed: the library costs a core at rest 11 MB.
"""

from __future__ import annotations

import dataclasses
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpc_kit.identity import Kind, spiffe_uri
from rpc_kit.tls import core_name, gate_name
from swm_core.security import names

CA_LIFETIME = datetime.timedelta(days=3653)
LEAF_LIFETIME = datetime.timedelta(days=365)

# Another machine's clock may be a little behind.
_CLOCK_SKEW = datetime.timedelta(minutes=5)

# What keeps a user's certificate from ever serving, and a gate's from ever calling.
_USAGE = {
    Kind.CORE: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    Kind.GATE: [ExtendedKeyUsageOID.SERVER_AUTH],
    Kind.USER: [ExtendedKeyUsageOID.CLIENT_AUTH],
}


class CaError(Exception):
    """A certificate or key can't be used; the message is one line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    """A fresh certificate with its key."""

    cert_pem: bytes
    key_pem: bytes = dataclasses.field(repr=False)
    serial: str
    """In lower-case hex."""
    expires_at: datetime.datetime


def new_key() -> bytes:
    """A new ECDSA P-256 key as PEM (PKCS #8, not encrypted: keep it 0600)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class CertificateAuthority:
    """Signs for one installation.

    Args:
        cert_pem: The CA's certificate.
        key_pem: Its key.

    Raises:
        CaError: They can't be read, do not belong together, or are no CA of ours.
    """

    def __init__(self, cert_pem: bytes, key_pem: bytes) -> None:
        self.cert_pem = cert_pem
        self.installation = installation_of(cert_pem)
        self._certificate = x509.load_pem_x509_certificate(cert_pem)
        self._key = _load_key(key_pem)
        if self._key.public_key() != self._certificate.public_key():
            raise CaError("the CA's key does not belong to its certificate")

    @classmethod
    def create(
        cls, installation: str, key_pem: bytes, *, valid_from: datetime.datetime | None = None
    ) -> CertificateAuthority:
        """A new CA for the key, which lives for ten years."""
        if not names.is_installation(installation):
            raise CaError(f'"{installation}" is not an installation id')
        key = _load_key(key_pem)
        start = valid_from or datetime.datetime.now(datetime.UTC)
        name = _name(f"CA of {installation}")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - _CLOCK_SKEW)
            .not_valid_after(start + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"spiffe://{installation}.swm")]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(serialization.Encoding.PEM), key_pem)

    def issue(
        self,
        kind: Kind,
        name: str = "",
        *,
        key_pem: bytes | None = None,
        valid_from: datetime.datetime | None = None,
        lifetime: datetime.timedelta = LEAF_LIFETIME,
    ) -> Issued:
        """A certificate for one part of the installation.

        Args:
            kind: What it is for; decides whether its holder may serve, call, or both.
            name: Of the gate or user; empty for the core.
            key_pem: The key that it is for; None makes a new one.
            valid_from: The start of its life; default: now.
            lifetime: How long it is valid; never longer than the CA.

        Raises:
            CaError: The name can't be used.
        """
        dns = self._dns_name(kind, name)
        uri = x509.UniformResourceIdentifier(spiffe_uri(self.installation, kind, name))
        key_pem = key_pem or new_key()
        key = _load_key(key_pem)
        start = valid_from or datetime.datetime.now(datetime.UTC)
        end = min(start + lifetime, self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(f"{kind} {name}".rstrip()))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - _CLOCK_SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_USAGE[kind]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([uri, *([x509.DNSName(dns)] if dns else [])]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate.public_bytes(serialization.Encoding.PEM),
            key_pem,
            f"{certificate.serial_number:x}",
            certificate.not_valid_after_utc,
        )

    def _dns_name(self, kind: Kind, name: str) -> str:
        """What clients of this part expect in its certificate; users have no clients."""
        match kind:
            case Kind.CORE if not name:
                return core_name(self.installation)
            case Kind.GATE if names.is_gate_name(name):
                return gate_name(self.installation, name)
            case Kind.USER if names.is_user_name(name):
                return ""
        raise CaError(f'"{name}" can\'t be the name of a {kind}')


def installation_of(ca_pem: bytes) -> str:
    """The installation that a CA certificate is of.

    Raises:
        CaError: It is not a CA of ours.
    """
    try:
        certificate = x509.load_pem_x509_certificate(ca_pem)
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = alternative.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        raise CaError("the file holds no certificate of a Sky Port CA") from None
    for uri in uris:
        installation = uri.removeprefix("spiffe://").removesuffix(".swm")
        if names.is_installation(installation):
            return installation
    raise CaError("the certificate is not that of a Sky Port CA")


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        raise CaError("the file holds no private key that can be used") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CaError("the private key is not an elliptic curve key")
    return key


def _name(common_name: str) -> x509.Name:
    # X.509 allows 64 characters here; the full name is in the URI.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sky Port"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
