"""The file of an Azure site, and what is told of one that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate_kit.config_rules import secret
from gates.azure_gate import config
from rpc_kit.config_file import ConfigError

_PEM = """-----BEGIN PRIVATE KEY-----
AAAA
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
AAAA
-----END CERTIFICATE-----
"""
_OURS = (
    "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/g/providers"
    "/Microsoft.Compute"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name, text in {"azure.pem": _PEM, "key": "c2VjcmV0\n", "password": "hush\n"}.items():
        secret = tmp_path / name
        secret.write_text(text)
        secret.chmod(0o600)
    written = tmp_path / "azure.toml"
    written.write_text(
        f"""
subscription_id = "11111111-1111-1111-1111-111111111111"
tenant_id = "22222222-2222-2222-2222-222222222222"
app_id = "33333333-3333-3333-3333-333333333333"
certificate_file = "{tmp_path}/azure.pem"
state_dir = "{tmp_path}/state"
locations = ["westeurope", "northeurope"]
vm_sizes = ["Standard_D*s_v5"]
image = "Canonical:ubuntu-24_04-lts:server:latest"
inbound_from = ["203.0.113.7"]

[registry."ghcr.io"]
username = "robot"
password_file = "{tmp_path}/password"

[storage.data]
account = "mydata"
container = "training-set"
key_file = "{tmp_path}/key"

[endpoints]
resource_manager = "https://127.0.0.1:8443"
prices = "http://127.0.0.1:8080/prices"
"""
    )
    return written


def test_a_whole_file_is_read(file: Path) -> None:
    read = config.load(file)
    assert read.locations == ("westeurope", "northeurope")
    assert secret(read.storage["data"].key_file) == "c2VjcmV0"
    assert secret(read.registry["ghcr.io"].password_file) == "hush"
    assert read.endpoints.authority == "https://login.microsoftonline.com"
    assert read.expiry
    assert "hush" not in repr(read)


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("subscription_id =", "subscription =", 2, "did you mean"),
        ("11111111-1111", "mine-1111", 2, "az account show"),
        ('"westeurope", "northeurope"', "", 7, "name a region"),
        ('"westeurope"', '"West Europe"', 7, "is not a region"),
        ("Canonical:ubuntu-24_04-lts:server:latest", "ubuntu", 9, "is no image"),
        ('["203.0.113.7"]', '["0.0.0.0/0"]', 10, "is everybody"),
        ('["203.0.113.7"]', '["home"]', 10, "is not an address"),
        ("https://127.0.0.1:8443", "http://127.0.0.1:8443", 22, "write it with https://"),
        ("http://127.0.0.1:8080", "http://prices.example.com", 23, "write it with https://"),
        ("training-set", "a--b", 18, "single '-'"),
        ('"ghcr.io"', '"https://ghcr.io"', 12, "is not a registry"),
        ("/key", "/nothing", 19, "can't be read"),
        ("/state", "state", 6, ""),
    ],
)
def test_a_mistake_is_told_with_its_line(
    file: Path, old: str, new: str, line: int, told: str
) -> None:
    text = file.read_text()
    assert old in text
    if old == "/state":
        text = text.replace(f'"{file.parent}/state"', '"state"')
        told = "depends on where the gate starts"
    else:
        text = text.replace(old, new)
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        config.load(file)
    assert told in str(raised.value)
    assert f":{line}:" in str(raised.value)


@pytest.mark.parametrize("name", ["azure.pem", "key", "password"])
def test_a_secret_that_others_can_read_is_refused(file: Path, name: str) -> None:
    (file.parent / name).chmod(0o640)
    with pytest.raises(ConfigError, match=r"chmod 600") as raised:
        config.load(file)
    assert "hush" not in str(raised.value)
    assert "c2VjcmV0" not in str(raised.value)


@pytest.mark.parametrize(
    "image",
    [
        f"{_OURS}/images/mine",
        f"{_OURS}/galleries/shared/images/mine/versions/1.0.0",
        "/CommunityGalleries/pub-1/Images/mine/Versions/latest",
        "debian:debian-12:12-gen2:latest",
    ],
)
def test_images_have_a_urn_or_an_id(image: str) -> None:
    assert config.is_image(image)
    assert not config.is_image(f"{image} ; rm")
