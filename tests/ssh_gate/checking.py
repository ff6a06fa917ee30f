"""Sites of real sshd that are looked at, and what was told of them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.ssh.sshd import Sshd

Objects = list[dict[str, str]]
Make = Callable[..., Sshd]


@dataclasses.dataclass(frozen=True)
class Told:
    """What a check told as JSON, and its exit code."""

    code: int
    objects: Objects

    def of(self, host: str, name: str, account: str | None = None) -> dict[str, str]:
        (found,) = (
            each
            for each in self.objects
            if (each["host"], each["check"]) == (host, name) and account in (None, each["account"])
        )
        return found

    def failed(self) -> list[tuple[str, str]]:
        return [(each["host"], each["check"]) for each in self.objects if each["state"] == "failed"]


Look = Callable[..., Told]


def site_file(
    folder: Path, hosts: Mapping[str, Sshd], more: str = "", host: str = "", name: str = "gate.toml"
) -> Path:
    """A configuration in which each server is a host of its own name."""
    known = folder / "known_hosts"
    if not known.exists():
        known.write_text("".join(each.known_hosts.read_text() for each in hosts.values()))
    lines = [f"hosts = {json.dumps(list(hosts))}", f'known_hosts = "{known}"', "use_agent = false"]
    if "users" not in more:
        lines.append("shared_account = true")
    if "ssh_config" not in more:
        lines.append('ssh_config = ""')
    if "work_root" not in more:
        lines.append(f'work_root = "{folder}/root"')
    lines.append(more)
    for node, server in hosts.items():
        lines += [
            f"[host.{node}]",
            'address = "127.0.0.1"',
            f"port = {server.port}",
            f'identity = "{server.key}"',
            host,
        ]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def remote(told: dict[str, str]) -> list[str]:
    """The words of a command that mends something on a host, as the host gets them."""
    words = shlex.split(told["mend"])
    assert words[:2] == ["ssh", "-t"]
    return shlex.split(words[-1])
