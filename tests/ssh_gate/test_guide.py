"""docs/ssh-gate.md tells of all that can be configured, and of all that a host needs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from gate_kit.ssh.host import TOOLS
from gates.ssh_cluster_gate import check_rules
from gates.ssh_cluster_gate import config as configuration
from gates.ssh_cluster_gate.config import Config
from gates.ssh_cluster_gate.container_config import ContainersConfig
from gates.ssh_cluster_gate.host_config import HostConfig, PartitionConfig

GUIDE = (Path(__file__).parents[2] / "docs" / "ssh-gate.md").read_text()


@pytest.mark.parametrize("schema", [Config, PartitionConfig, HostConfig])
def test_every_setting_is_documented(schema: type[Config | PartitionConfig | HostConfig]) -> None:
    for field in dataclasses.fields(schema):
        assert re.search(
            rf"^{field.name} = |`{field.name}`|^\[{field.name}", GUIDE, re.MULTILINE
        ), field.name


def test_the_configuration_of_the_guide_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(description.*?)```", GUIDE, re.DOTALL)
    key = tmp_path / "key"
    key.write_text("")
    # [users] and an account for all exclude each other: the guide shows both.
    text = text.replace("~/.ssh/lab", str(key)).replace('user = "skyport"', "#")
    path = tmp_path / "gate.toml"
    path.write_text(text)
    told = configuration.load(path)
    defaults = Config(hosts=("x",))
    for field in dataclasses.fields(Config):
        shown = getattr(told, field.name)
        if field.name not in {"users", "partitions", "host", "port", "identity", "first_port"} | {
            "last_port",
            "hosts",
        }:
            assert shown == getattr(defaults, field.name), field.name


def test_the_configuration_of_containers_is_one(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("psst")
    token.chmod(0o600)
    guide = (Path(__file__).parents[2] / "docs" / "containers.md").read_text()
    texts = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    text = "local = true\n" + "".join(texts).replace("~/.config/skyport/ghcr-token", str(token))
    path = tmp_path / "gate.toml"
    path.write_text(text)
    told = configuration.load(path)
    assert told.registry["ghcr.io"].username == "lab-robot"
    assert told.volumes == {"data": "/srv/data:ro", "scratch": "/scratch:rw"}
    assert told.containers == ContainersConfig()
    for field in dataclasses.fields(ContainersConfig):
        assert re.search(rf"^{field.name} = ", text, re.MULTILINE), field.name


def test_every_tool_and_check_is_documented() -> None:
    (listed,) = re.findall(r"`(awk cat [a-z0-9\s]+)`", GUIDE)
    assert tuple(listed.split()) == tuple(TOOLS)
    for name in check_rules.CHECKS:
        assert f"`{name}`" in GUIDE
