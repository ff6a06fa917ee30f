from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rpc_kit.bundle import Bundle, BundleError
from rpc_kit.tls import KeyPair
from tests.rpc_kit.conftest import INSTALLATION


@pytest.fixture
def bundle(user_keys: KeyPair) -> Bundle:
    return Bundle(
        "127.0.0.1:7717",
        INSTALLATION,
        'ann "the\\admin"',
        user_keys.ca_pem.decode(),
        user_keys.cert_pem.decode(),
        user_keys.key_pem.decode(),
    )


def test_a_bundle_is_one_private_file_that_reads_back_as_it_was(
    bundle: Bundle, user_keys: KeyPair, tmp_path: Path
) -> None:
    path = tmp_path / "client.toml"
    assert bundle.write_new(path)
    assert path.stat().st_mode & 0o777 == 0o600
    read = Bundle.read(path)
    assert read == bundle
    assert read.key_pair == user_keys
    assert read.server_name == f"core.{INSTALLATION}.swm"


def test_an_existing_bundle_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    assert bundle.write_new(path)
    assert not dataclasses.replace(bundle, user="bob").write_new(path)
    assert Bundle.read(path) == bundle


def test_no_bundle_tells_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="run `swm up`"):
        Bundle.read(tmp_path / "client.toml")


def test_a_bundle_that_others_can_read_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    bundle.write_new(path)
    path.chmod(0o640)
    with pytest.raises(BundleError, match="chmod 600"):
        Bundle.read(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "lacks endpoint, installation, user, ca_pem, cert_pem, key_pem"),
        (b"endpoint = 3", "lacks endpoint"),
        (b"not toml", "can't be read"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_a_broken_bundle_is_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "client.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BundleError, match=told) as raised:
        Bundle.read(path)
    assert "\n" not in str(raised.value)


def test_a_bundle_for_no_address_is_told(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    dataclasses.replace(bundle, endpoint="nowhere").write_new(path)
    with pytest.raises(BundleError, match=r"endpoint: .*nowhere"):
        Bundle.read(path)


def test_a_bundle_tells_when_it_ends_if_it_knows(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.expire_time is None
    assert "expires" not in bundle.to_toml()
    ends = dataclasses.replace(bundle, expires="2027-11-28T04:19:23+00:00")
    assert ends.expire_time == 1_827_375_563.0
    ends.replace(tmp_path / "client.toml")
    assert Bundle.read(tmp_path / "client.toml") == ends
    assert dataclasses.replace(bundle, expires="some day").expire_time is None


def test_a_bundle_takes_the_place_of_one_only_when_that_is_meant(
    bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "client.toml"
    bundle.write_new(path)
    path.chmod(0o644)
    other = dataclasses.replace(bundle, user="bob")
    other.replace(path)
    assert Bundle.read(path) == other
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["client.toml"]
