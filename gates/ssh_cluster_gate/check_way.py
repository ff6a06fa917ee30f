"""How to get to an account, as the configuration of ssh says and the gate reads it: by asyncssh.

Fabric would read it too, and otherwise in part: without Include, and with host names that match no
pattern of known_hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from pathlib import Path

import asyncssh
import fabric.connection

from gate_kit.ssh.target import SshTarget

_SSH_PORT = 22
_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
_MOST_HOPS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """Where an account is, and what is trusted and offered there."""

    host: str
    port: int
    user: str
    keys: tuple[str, ...]
    """Key files; none: the usual ones."""
    known_hosts: tuple[str, ...]
    """Those files that are there."""
    trusted: tuple[asyncssh.SSHKey, ...]
    """What the host may show."""
    hop: Way | None = None
    """The host to go through."""
    command: str = ""
    """The program to go through."""

    @property
    def known_as(self) -> str:
        """The host as known_hosts has it."""
        return self.host if self.port == _SSH_PORT else f"[{self.host}]:{self.port}"


def find(target: SshTarget) -> Way:
    """The way to an account. Nothing is connected to.

    Raises:
        ValueError, OSError, asyncssh.Error: The configuration can't be used.
    """
    return asyncio.run(_find(target, _MOST_HOPS))


async def _find(target: SshTarget, hops_left: int) -> Way:
    if not hops_left:
        raise ValueError(f"{target} lies behind itself, by ProxyJump of {target.config}")
    file = target.config_file
    settings: dict[str, object] = {"username": target.user} if target.user else {}
    if target.port:
        settings["port"] = target.port
    options = await asyncssh.SSHClientConnectionOptions.construct(
        host=target.host,
        config=[str(file)] if file else None,
        client_keys=None,  # they are fabric's to load
        known_hosts=b"",
        agent_path=None,
        **settings,
    )
    host, port = str(options.host), int(options.port)
    configured = options.config
    if target.identities:
        keys = tuple(str(path.expanduser()) for path in target.identities)
    else:
        names = [str(Path(name).expanduser()) for name in _words(configured, "IdentityFile")]
        # As ssh does: what is only configured need not be there.
        keys = tuple(name for name in names if Path(name).is_file())
    if target.known_hosts is not None:
        files = [str(target.known_hosts)]
    else:
        files = _words(configured, "UserKnownHostsFile") or ["~/.ssh/known_hosts"]
        files += _words(configured, "GlobalKnownHostsFile") or [_SYSTEM_KNOWN_HOSTS]
    known_hosts = tuple(
        str(path) for path in (Path(name).expanduser() for name in files) if path.is_file()
    )
    alias = configured.get("HostKeyAlias")
    hop = None
    jump = configured.get("ProxyJump")
    if isinstance(jump, str) and jump.lower() != "none":
        hop = await _jump(jump, target, hops_left - 1)
    command = configured.get("ProxyCommand")
    return Way(
        host,
        port,
        str(options.username),
        keys,
        known_hosts,
        _trusted(known_hosts, str(alias or host), host, port),
        hop,
        command if isinstance(command, str) and command.lower() != "none" else "",
    )


async def _jump(jump: str, target: SshTarget, hops_left: int) -> Way:
    """The way to the last of the hosts that `jump` names, through the others."""
    way: Way | None = None
    for word in jump.split(","):
        place = fabric.connection.derive_shorthand(word.strip().removeprefix("ssh://"))
        hop = dataclasses.replace(
            target, host=place["host"], user=place["user"] or "", port=place["port"] or 0
        )
        found = await _find(hop, hops_left)
        # The first one may lie behind others by its own configuration.
        way = found if way is None else dataclasses.replace(found, hop=way, command="")
    assert way is not None  # noqa: S101 - for the type only: a split has at least one part
    return way


def _words(configured: object, name: str) -> list[str]:
    value = configured.get(name)  # type: ignore[attr-defined] # asyncssh gives it no type
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def _trusted(
    files: tuple[str, ...], name: str, host: str, port: int
) -> tuple[asyncssh.SSHKey, ...]:
    known = asyncssh.import_known_hosts("")
    for file in files:
        for line in Path(file).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a line that nobody understands counts as none
                known.load(line)
    address = ""  # one that has none is told of when it is connected to
    with contextlib.suppress(OSError, IndexError):
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    keys, *_ = known.match(name, address, None if port == _SSH_PORT else port)
    return tuple(keys)
