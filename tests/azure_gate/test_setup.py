"""A site of Azure is set up by one command, and is complete when three ids have been written."""

from __future__ import annotations

import dataclasses
import datetime
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gate_kit.config_rules import RegistryConfig
from gates.azure_gate import certificate, check, check_rules, set_up
from gates.azure_gate import config as configuration
from gates.azure_gate.config import Config, EndpointsConfig, StorageConfig
from gates.azure_gate.sdk import Sdk
from rpc_kit.config_file import ConfigError
from tests.azure_gate.site import site_file
from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.testbed.azure_arm import AzureArm

IDS: dict[str, Any] = {
    "subscription_id": "11111111-1111-1111-1111-111111111111",
    "tenant_id": "22222222-2222-2222-2222-222222222222",
    "app_id": "33333333-3333-3333-3333-333333333333",
}
GUIDE = (Path(__file__).parents[2] / "docs/azure.md").read_text()
TEMPLATE = Path(set_up.__file__).with_name("site.toml").read_text()


@pytest.fixture
def swm(tmp_path: Path) -> Swm:
    """With a home that `swm init` made."""
    command = Swm(environment(tmp_path / "home"), tmp_path)
    command.ok("init")
    return command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fill_in(path: Path, **values: str) -> None:
    text = path.read_text()
    for name, value in values.items():
        text, count = re.subn(rf'^{name} = ".*"$', f'{name} = "{value}"', text, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(text)


def test_one_command_makes_all_that_a_site_needs_but_three_ids(swm: Swm, home: Path) -> None:
    told = swm.ok("gate", "add", "azure", "--location", "northeurope", "--location", "westeurope")
    (login,) = (home / "gates/azure").glob("login-*.pem")
    public = login.with_suffix(".crt")

    # The key is RSA, for a year, and for nobody but the gate.
    key = serialization.load_pem_private_key(login.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 3072
    (cert,) = x509.load_pem_x509_certificates(public.read_bytes())
    assert cert.public_key() == key.public_key()
    assert b"PRIVATE" not in public.read_bytes()
    now = datetime.datetime.now(datetime.UTC)
    days = (cert.not_valid_after_utc - now).days
    assert 363 <= days <= 366
    assert cert.not_valid_before_utc < now
    for path in (home / "gates/azure", login, home / "azure.toml"):
        assert path.stat().st_mode & 0o077 == 0, path

    # The core's own configuration names the gate.
    sites = tomllib.loads((home / "swm.toml").read_text())["sites"]
    assert sites == {"azure": {"command": ["swm-azure-gate", "--config", str(home / "azure.toml")]}}
    core = subprocess.run(
        [Path(sys.executable).with_name("swm-core"), "check-config"],
        env=swm.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "no mistakes; sites: azure" in core.stdout

    # What is lacking is told by line, with the command that tells it.
    with pytest.raises(ConfigError) as caught:
        configuration.load(home / "azure.toml")
    assert [each.field for each in caught.value.mistakes] == list(IDS)
    assert "az account show" in str(caught.value)
    fill_in(home / "azure.toml", **IDS)
    config = configuration.load(home / "azure.toml")
    assert config == Config(
        **IDS,
        certificate_file=str(login),
        state_dir=str(home / "gates/azure"),
        locations=("northeurope", "westeurope"),
    )

    # What is to be done next can be copied: the key's file never reaches `az`.
    (create,) = (line for line in told.splitlines() if "create-for-rbac" in line)
    assert create.strip() == (
        "az ad sp create-for-rbac --name swm-azure --role Contributor --scopes "
        f'/subscriptions/SUBSCRIPTION_ID --cert "$(openssl x509 -in {login})"'
    )
    for namespace in ("Compute", "Network", "DevTestLab"):
        assert f"az provider register --namespace Microsoft.{namespace} " in told
    assert "swm site check azure" in told


def test_what_is_there_stays_as_it_is(swm: Swm, home: Path) -> None:
    swm.ok("gate", "add", "azure")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    told = swm.ok("gate", "add", "azure", "--location", "eastus")
    assert "is there already, and was left as it is" in told
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    # The part that is public can be had again.
    (public,) = (home / "gates/azure").glob("*.crt")
    text = public.read_bytes()
    public.unlink()
    swm.ok("gate", "add", "azure")
    assert public.read_bytes() == text


def test_ids_that_are_known_are_filled_in(swm: Swm, home: Path) -> None:
    options = [
        *("--subscription", IDS["subscription_id"], "--tenant", IDS["tenant_id"]),
        *("--app-id", IDS["app_id"]),
    ]
    told = swm.ok("gate", "add", "azure", "--name", "lab-cloud", *options)
    config = configuration.load(home / "lab-cloud.toml")
    assert {name: getattr(config, name) for name in IDS} == IDS
    assert f"--scopes /subscriptions/{IDS['subscription_id']} " in told
    assert "--name swm-lab-cloud " in told
    assert "az account show" not in told
    assert "[sites.lab-cloud]" in (home / "swm.toml").read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["azure", "--name", "A B"], "can't be the name of a site"),
        (["fake"], "swm-fake-gate has nothing to set up"),
        (["nothing"], "can't be run: swm-nothing-gate: No such file"),
        (["azure", "--location", "West Europe"], "takes the name of a region"),
        (["azure", "--subscription", "mine"], "take ids"),
        (["azure", "--regoin", "x"], "unrecognized arguments: --regoin"),
    ],
)
def test_what_can_not_work_is_said_and_changes_nothing(
    swm: Swm, home: Path, args: list[str], says: str
) -> None:
    before = (home / "swm.toml").read_text()
    result = swm("gate", "add", *args)
    assert result.code != 0
    assert says in result.err
    assert (home / "swm.toml").read_text() == before
    assert not list(home.glob("*/azure/*.pem"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[sites.azure]\ncommand = ["other"]\n', "has a site azure already"),
        ("sites = {}\n", "add by hand: [sites.azure] command = "),
        ("sites = [", "is not TOML"),
    ],
)
def test_a_swm_toml_that_does_not_take_it_is_left_alone(
    swm: Swm, home: Path, text: str, says: str
) -> None:
    (home / "swm.toml").write_text(text)
    result = swm("gate", "add", "azure")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert says in result.err
    assert (home / "swm.toml").read_text() == text


def test_without_a_home_swm_init_is_named(tmp_path: Path) -> None:
    result = Swm(environment(tmp_path / "none"), tmp_path)("gate", "add", "azure")
    assert result.code == 1
    assert "run `swm init` first" in result.err


async def test_azure_takes_a_new_certificate_beside_the_old_one(
    azure_arm: AzureArm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `new-certificate` makes logs in, once Azure knows it."""
    old = certificate.make(
        tmp_path / "keys", "t", datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=340)
    )
    azure_arm.register(old.public.read_text())
    file = site_file(azure_arm, tmp_path, certificate_file=str(old.login))
    assert set_up.new_certificate(["--config", str(file)]) == 0
    told = capsys.readouterr().out
    new = certificate.newest(tmp_path / "keys")
    assert new is not None
    assert new != old
    assert f'certificate_file = "{new.login}"' in told
    (reset,) = (line for line in told.splitlines() if "credential reset" in line)
    assert shlex.split(reset)[:6] == [
        *("az", "ad", "app", "credential", "reset", "--id"),
    ]
    assert "--append" in reset

    file = site_file(azure_arm, tmp_path, certificate_file=str(new.login))
    looked = await check.look(configuration.load(file), file)
    assert {each.verdict.check: each.verdict.state for each in looked}["login"] == "failed"
    azure_arm.register(new.public.read_text())
    sdk = Sdk(configuration.load(file))
    groups = sdk.resources.resource_groups
    assert await sdk.all("listing groups", groups.list) == []
    await sdk.close()

    # A second one of the same day is refused, not written over.
    assert set_up.new_certificate(["--config", str(file)]) == 1
    assert "is there already" in capsys.readouterr().err


# What is written about it.


def test_the_template_has_every_setting_with_its_default(tmp_path: Path) -> None:
    login = tmp_path / "login.pem"
    pem = "-----BEGIN PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n"
    for name, secret in {"login.pem": pem, "token": "x\n", "key": "x\n"}.items():
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    text = TEMPLATE
    for mark, value in {
        "@SUBSCRIPTION_ID@": IDS["subscription_id"],
        "@TENANT_ID@": IDS["tenant_id"],
        "@APP_ID@": IDS["app_id"],
        "@CERTIFICATE_FILE@": str(login),
        "@STATE_DIR@": str(tmp_path),
    }.items():
        text = text.replace(mark, f'"{value}"')
    text = text.replace("@LOCATIONS@", '["westeurope"]')
    # As somebody has it who takes the marks of comments away.
    text = re.sub(r"^# (?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE)
    text = text.replace("~/.config/skyport/ghcr-token", str(tmp_path / "token"))
    text = text.replace("~/.config/skyport/mydata-key", str(tmp_path / "key"))
    path = tmp_path / "azure.toml"
    path.write_text(text)
    told = configuration.load(path)
    plain = Config(
        **IDS, certificate_file=str(login), state_dir=str(tmp_path), locations=("westeurope",)
    )
    examples = {"vm_sizes", "images", "inbound_from", "registry", "storage"}
    for field in dataclasses.fields(Config):
        assert re.search(rf"^(# )?(\[?){field.name}\b", TEMPLATE, re.MULTILINE), field.name
        if field.name not in examples:
            assert getattr(told, field.name) == getattr(plain, field.name), field.name
    assert told.storage["data"].container == "training-set"


@pytest.mark.parametrize("schema", [Config, EndpointsConfig, RegistryConfig, StorageConfig])
def test_every_setting_is_documented(schema: type[Config]) -> None:
    for field in dataclasses.fields(schema):
        assert re.search(rf"`{field.name}`|`\[{field.name}\b", GUIDE), field.name


def test_every_check_is_documented() -> None:
    for name in check_rules.CHECKS:
        assert f"| `{name}` |" in GUIDE, name
