"""A job's secrets: environment variables and registry logins, kept in one mapping of texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# No environment variable has a blank in its name, so the two never meet.
_LOGIN = "login "


class Login(NamedTuple):
    """A login for a container registry."""

    registry: str
    username: str
    password: str


def pack(env: Mapping[str, str], logins: Iterable[Login]) -> dict[str, str]:
    """Both as one mapping, for the store."""
    packed = dict(env)
    for login in logins:
        packed[_LOGIN + login.registry] = json.dumps([login.username, login.password])
    return packed


def unpack(packed: Mapping[str, str]) -> tuple[dict[str, str], list[Login]]:
    """The environment and the logins of a packed mapping."""
    env = {name: value for name, value in packed.items() if not name.startswith(_LOGIN)}
    logins = [
        Login(name.removeprefix(_LOGIN), *json.loads(value))
        for name, value in packed.items()
        if name.startswith(_LOGIN)
    ]
    return env, logins


def shown(name: str) -> str:
    """A packed name, for people."""
    if name.startswith(_LOGIN):
        return f"the login for {name.removeprefix(_LOGIN)}"
    return name
