"""The certificate by which a site's service principal logs in: RSA, since Azure takes nothing else.

Its key is made where the gate runs and stays there: Azure is told the certificate alone.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from rpc_kit import private_files

KEY_BITS = 3_072
"""As long as what it protects is said to be safe until 2030 and after (NIST SP 800-57, part 1)."""
LIFETIME = datetime.timedelta(days=365)
_SKEW = datetime.timedelta(hours=1)
"""Azure's clock may be behind ours."""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """The files of one."""

    login: Path
    """Key and certificate, PEM, 0600: what the gate logs in with."""
    public: Path
    """The certificate alone: what Azure is told."""


def make(folder: Path, name: str, now: datetime.datetime) -> Certificate:
    """Make a key and a certificate that is signed with it, in new files of `folder`.

    Args:
        folder: Of the gate's own; made, 0700, if it is not there.
        name: Of the site, for people who see it in Azure.
        now: It is valid from about now on, for `LIFETIME`.

    Raises:
        FileExistsError: There is one of today.
        OSError: The files can't be written.
    """
    files = _of(folder, now)
    private_files.make_folder(folder)
    key_pem, cert_pem = _made(name, now)
    if not private_files.write_new(files.login, key_pem + cert_pem):
        raise FileExistsError(f"{files.login} is there already")
    private_files.replace(files.public, cert_pem)
    return files


def newest(folder: Path) -> Certificate | None:
    """The one of a folder that was made last; None if there is none."""
    found = sorted(folder.glob("login-*.pem"))
    return Certificate(found[-1], found[-1].with_suffix(".crt")) if found else None


def public_part(login: Path) -> bytes:
    """The certificate alone, PEM, of a file that has the key too.

    Raises:
        OSError: It can't be read.
        ValueError: There is none in it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = x509.load_pem_x509_certificates(login.read_bytes())[0]
    return certificate.public_bytes(Encoding.PEM)


def _of(folder: Path, now: datetime.datetime) -> Certificate:
    login = folder / f"login-{now:%Y-%m-%d}.pem"
    return Certificate(login, login.with_suffix(".crt"))


def _made(name: str, now: datetime.datetime) -> tuple[bytes, bytes]:
    # Loaded by who makes one only: a gate that serves needs none of it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"skyport gate {name}"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)
