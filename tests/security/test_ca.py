from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from rpc_kit.identity import Kind
from swm_core.security.ca import CaError, CertificateAuthority, installation_of, new_key

INSTALLATION = "abcdefghijkl"
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(INSTALLATION, new_key())


@pytest.mark.parametrize(
    ("kind", "name", "usage", "dns", "uri"),
    [
        (Kind.CORE, "", {SERVER, CLIENT}, ["core.abcdefghijkl.swm"], "core"),
        (Kind.GATE, "lab", {SERVER}, ["gate-lab.abcdefghijkl.swm"], "gate/lab"),
        (Kind.USER, "ann", {CLIENT}, [], "user/ann"),
    ],
)
def test_each_part_gets_what_it_needs_and_no_more(
    ca: CertificateAuthority, kind: Kind, name: str, usage: set[object], dns: list[str], uri: str
) -> None:
    issued = ca.issue(kind, name)
    certificate = x509.load_pem_x509_certificate(issued.cert_pem)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usage
    assert names.get_values_for_type(x509.DNSName) == dns
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://abcdefghijkl.swm/{uri}"
    ]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert f"{certificate.serial_number:x}" == issued.serial
    assert certificate.not_valid_after_utc == issued.expires_at
    key = serialization.load_pem_private_key(issued.key_pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == certificate.public_key()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.cert_pem))


def test_a_leaf_lives_for_a_year_and_the_ca_for_ten(ca: CertificateAuthority) -> None:
    now = datetime.datetime.now(datetime.UTC)
    leaf = x509.load_pem_x509_certificate(ca.issue(Kind.CORE).cert_pem)
    root = x509.load_pem_x509_certificate(ca.cert_pem)
    day = datetime.timedelta(days=1)
    for certificate, days in ((leaf, 365), (root, 3653)):
        assert certificate.not_valid_before_utc < now
        assert abs(certificate.not_valid_after_utc - now - days * day) < day


def test_a_leaf_never_outlives_its_ca() -> None:
    nine_years_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=9 * 365 + 200)
    old = CertificateAuthority.create(INSTALLATION, new_key(), valid_from=nine_years_ago)
    root = x509.load_pem_x509_certificate(old.cert_pem)
    assert old.issue(Kind.CORE).expires_at == root.not_valid_after_utc


def test_serials_are_random(ca: CertificateAuthority) -> None:
    key = new_key()
    serials = {ca.issue(Kind.USER, "ann", key_pem=key).serial for _ in range(20)}
    assert len(serials) == 20
    assert all(len(serial) > 30 for serial in serials)


def test_a_key_that_is_given_is_kept(ca: CertificateAuthority) -> None:
    key = new_key()
    assert ca.issue(Kind.USER, "ann", key_pem=key).key_pem == key


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Kind.CORE, "x"),
        (Kind.GATE, ""),
        (Kind.GATE, "Lab"),
        (Kind.GATE, "lab-"),
        (Kind.GATE, "a.b"),
        (Kind.GATE, "x" * 33),
        (Kind.USER, ""),
        (Kind.USER, ".."),
        (Kind.USER, "a/b"),
        (Kind.USER, "ann\n"),
        (Kind.USER, "änn"),
        (Kind.USER, "x" * 33),
    ],
)
def test_a_name_that_could_mean_something_else_is_refused(
    ca: CertificateAuthority, kind: Kind, name: str
) -> None:
    with pytest.raises(CaError, match="can't be the name"):
        ca.issue(kind, name)


@pytest.mark.parametrize("name", ["ann", "a.b_c-d", "x" * 32, "7", "_a"])
def test_a_user_may_have_any_common_name(ca: CertificateAuthority, name: str) -> None:
    assert ca.issue(Kind.USER, name).cert_pem


def test_a_ca_is_read_back(ca: CertificateAuthority) -> None:
    key = new_key()
    made = CertificateAuthority.create(INSTALLATION, key)
    again = CertificateAuthority(made.cert_pem, key)
    assert again.installation == installation_of(made.cert_pem) == INSTALLATION
    certificate = x509.load_pem_x509_certificate(again.issue(Kind.CORE).cert_pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made.cert_pem))


def test_what_does_not_belong_together_is_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(CaError, match="does not belong"):
        CertificateAuthority(ca.cert_pem, new_key())
    with pytest.raises(CaError, match="no private key"):
        CertificateAuthority(ca.cert_pem, b"nonsense")
    with pytest.raises(CaError, match="not that of a Sky Port CA"):
        CertificateAuthority(ca.issue(Kind.USER, "ann").cert_pem, new_key())
    with pytest.raises(CaError, match="no certificate"):
        installation_of(b"nonsense")
    with pytest.raises(CaError, match="not an installation id"):
        CertificateAuthority.create("../../etc", new_key())
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(CaError, match="not an elliptic curve key"):
        CertificateAuthority.create(INSTALLATION, rsa_key)


def test_the_ca_signs_certificates_only(ca: CertificateAuthority) -> None:
    root = x509.load_pem_x509_certificate(ca.cert_pem)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert isinstance(root.signature_hash_algorithm, hashes.SHA256)


# Certificates for keys that are not here.


def test_a_renewed_certificate_is_for_the_same_part_and_key(ca: CertificateAuthority) -> None:
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400)
    old = ca.issue(Kind.GATE, "lab", valid_from=long_ago)
    new = x509.load_pem_x509_certificate(ca.renew(old.cert_pem))
    before = x509.load_pem_x509_certificate(old.cert_pem)
    assert new.public_key() == before.public_key()
    assert new.serial_number != before.serial_number
    assert new.not_valid_after_utc > datetime.datetime.now(datetime.UTC)
    for extension in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.BasicConstraints):
        assert new.extensions.get_extension_for_class(
            extension
        ) == before.extensions.get_extension_for_class(extension)


def test_what_another_ca_has_signed_is_not_renewed(ca: CertificateAuthority) -> None:
    other = CertificateAuthority.create(INSTALLATION, new_key())
    for pem in (other.issue(Kind.GATE, "lab").cert_pem, ca.cert_pem, b"nonsense"):
        with pytest.raises(CaError, match="not one that this CA has signed"):
            ca.renew(pem)


def request_for(key: CertificateIssuerPrivateKeyTypes, name: str = "anything") -> bytes:
    """A signing request, as openssl makes it."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_request_gets_a_certificate_for_what_the_ca_is_told(ca: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = ca.certify(Kind.GATE, "lab", request_for(key, f"core.{INSTALLATION}.swm"))
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gate-lab.abcdefghijkl.swm"]


def test_a_request_that_can_t_be_served_is_refused(ca: CertificateAuthority) -> None:
    good = request_for(ec.generate_private_key(ec.SECP256R1()))
    of_rsa = request_for(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    with pytest.raises(CaError, match="not an elliptic curve key"):
        ca.certify(Kind.GATE, "lab", of_rsa)
    with pytest.raises(CaError, match="no certificate signing request"):
        ca.certify(Kind.GATE, "lab", b"nonsense")
    with pytest.raises(CaError, match="can't be the name"):
        ca.certify(Kind.GATE, "Lab", good)
