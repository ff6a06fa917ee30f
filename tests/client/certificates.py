"""Certificates as an installation has them, made for a test."""

from __future__ import annotations

import dataclasses
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpc_kit.bundle import Bundle
from rpc_kit.tls import KeyPair, core_name

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclasses.dataclass(frozen=True)
class Leaf:
    cert_pem: str
    key_pem: str


class Installation:
    """A CA and what it signs."""

    def __init__(self, name: str = "test12345678") -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])
        now = datetime.datetime.now(datetime.UTC)
        self._ca = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_pem = self._ca.public_bytes(serialization.Encoding.PEM).decode()

    def leaf(
        self, usage: x509.ObjectIdentifier, uri: str, dns: str = "", *, days: float = 1.0
    ) -> Leaf:
        """A certificate that ends in `days` days (below zero: has ended)."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if dns:
            names.append(x509.DNSName(dns))
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            cert.public_bytes(serialization.Encoding.PEM).decode(),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
        )

    def core(self) -> KeyPair:
        leaf = self.leaf(SERVER, f"spiffe://{self.name}.swm/core", core_name(self.name))
        return self.pair(leaf)

    def user(self, name: str = "ann", *, days: float = 1.0) -> Leaf:
        return self.leaf(CLIENT, f"spiffe://{self.name}.swm/user/{name}", days=days)

    def pair(self, leaf: Leaf) -> KeyPair:
        return KeyPair(self.ca_pem.encode(), leaf.cert_pem.encode(), leaf.key_pem.encode())

    def bundle(self, endpoint: str, leaf: Leaf | None = None, user: str = "ann") -> Bundle:
        leaf = leaf or self.user(user)
        return Bundle(endpoint, self.name, user, self.ca_pem, leaf.cert_pem, leaf.key_pem)
