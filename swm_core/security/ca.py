"""The installation's certificate authority: one certificate for the core, each gate and each user.

Loaded only where something is signed: the library costs a core at rest 11 MB.
"""

from __future__ import annotations

import dataclasses
import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpc_kit.identity import Kind, of_certificate, spiffe_uri
from rpc_kit.tls import core_name, gate_name
from swm_core.security import names

CA_LIFETIME = datetime.timedelta(days=3653)
LEAF_LIFETIME = datetime.timedelta(days=365)

# Another machine's clock may be behind, or this one's be set back after it was ahead.
_CLOCK_SKEW = datetime.timedelta(days=1)

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

    @property
    def expires_at(self) -> float:
        """When its own certificate ends, in seconds since the epoch; nothing it signs lives on."""
        return self._certificate.not_valid_after_utc.timestamp()

    @classmethod
    def create(
        cls,
        installation: str,
        key_pem: bytes,
        *,
        valid_from: datetime.datetime | None = None,
        lifetime: datetime.timedelta = CA_LIFETIME,
    ) -> CertificateAuthority:
        """A CA for the key, which lives for ten years.

        Of one key and installation it has the same name each time: what one has signed is believed
        by who trusts another.
        """
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
            .not_valid_after(start + lifetime)
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
        key_pem = key_pem or new_key()
        certificate = self._sign(
            kind, name, _load_key(key_pem).public_key(), valid_from=valid_from, lifetime=lifetime
        )
        return Issued(
            _pem(certificate),
            key_pem,
            f"{certificate.serial_number:x}",
            certificate.not_valid_after_utc,
        )

    def renew(self, cert_pem: bytes, *, lifetime: datetime.timedelta = LEAF_LIFETIME) -> bytes:
        """A new certificate for the same part and the same key; the key itself is not needed.

        Args:
            cert_pem: One that this CA has signed; it may have ended.
            lifetime: As for `issue`.

        Raises:
            CaError: It is none of this CA's.
        """
        try:
            old = x509.load_pem_x509_certificate(cert_pem)
            old.verify_directly_issued_by(self._certificate)
            identity = of_certificate(cert_pem)
        except (ValueError, TypeError, InvalidSignature):
            raise CaError("the certificate is not one that this CA has signed") from None
        return _pem(self._sign(identity.kind, identity.name, old.public_key(), lifetime=lifetime))

    def certify(
        self,
        kind: Kind,
        name: str,
        request_pem: bytes,
        *,
        lifetime: datetime.timedelta = LEAF_LIFETIME,
    ) -> bytes:
        """A certificate for the key of a signing request, whose private part stays where it is.

        Args:
            kind: As for `issue`.
            name: As for `issue`; what the request says of itself does not count.
            request_pem: A certificate signing request (PKCS #10).
            lifetime: As for `issue`.

        Raises:
            CaError: The request or the name can't be used.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem)
        except ValueError:
            raise CaError("the file holds no certificate signing request") from None
        if not request.is_signature_valid:
            raise CaError("the signing request is not signed by its own key")
        return _pem(self._sign(kind, name, request.public_key(), lifetime=lifetime))

    def _sign(
        self,
        kind: Kind,
        name: str,
        key: CertificatePublicKeyTypes,
        *,
        valid_from: datetime.datetime | None = None,
        lifetime: datetime.timedelta,
    ) -> x509.Certificate:
        dns = self._dns_name(kind, name)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise CaError("the key is not an elliptic curve key; make one of prime256v1")
        uri = x509.UniformResourceIdentifier(spiffe_uri(self.installation, kind, name))
        start = valid_from or datetime.datetime.now(datetime.UTC)
        if start >= self._certificate.not_valid_after_utc:
            raise CaError("the CA's certificate has ended; renew it by `swm-core renew-ca`")
        end = min(start + lifetime, self._certificate.not_valid_after_utc)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(f"{kind} {name}".rstrip()))
            .issuer_name(self._certificate.subject)
            .public_key(key)
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


def has_same_key(one_pem: bytes, other_pem: bytes) -> bool:
    """Whether two certificates are for one key; what can't be read has none."""
    try:
        one, other = map(x509.load_pem_x509_certificate, (one_pem, other_pem))
    except ValueError:
        return False
    return one.public_key() == other.public_key()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


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
