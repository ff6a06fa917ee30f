"""What a VM of the timer kind takes from its user-data, which a real one gives to cloud-init."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.testbed.azure_arm.vms.backend import Machine

__all__ = ["Account", "Wanted", "read"]


@dataclass(frozen=True)
class Account:
    """An account of the VM."""

    name: str
    keys: tuple[str, ...] = ()
    shell: str = "/bin/bash"


@dataclass
class Wanted:
    """What user-data asks for, as far as it matters for logging in."""

    accounts: list[Account] = field(default_factory=list)
    host_key: str = ""


def read(machine: Machine) -> Wanted:
    """Read `#cloud-config`; anything else asks for nothing."""
    found: Any = None
    if machine.user_data.startswith("#cloud-config"):
        found = yaml.safe_load(machine.user_data)
    if not isinstance(found, dict):
        found = {}
    wanted = Wanted(host_key=str((found.get("ssh_keys") or {}).get("ed25519_private") or ""))
    users = found.get("users") or ["default"]
    for user in users:
        if isinstance(user, dict) and user.get("name"):
            keys = user.get("ssh_authorized_keys") or user.get("ssh-authorized-keys") or []
            shell = user.get("shell") or "/bin/bash"
            wanted.accounts.append(Account(user["name"], tuple(keys), shell))
        elif user == "default" and machine.admin:
            wanted.accounts.append(Account(machine.admin, machine.keys))
    return wanted
