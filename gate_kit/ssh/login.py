"""Makes one SSH connection: keys, host keys, the way through other hosts, and what can go wrong.

The configuration of ssh says how to get there, as asyncssh reads it. What it leaves to chance is
settled here: host keys are always checked, nobody is asked for a password, and a missing or
malformed known_hosts means that nothing is trusted, not that nothing is checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shlex
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import asyncssh

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.target import SshTarget

# asyncssh prefers ChaCha20, which takes twice the time where the processor knows AES.
_CIPHERS = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
]
_CONNECT_S = 10.0
"""Until the host takes the connection."""
_LOGIN_S = 45.0
"""From then on. A host that looks up the name of whoever comes, where no name server answers, takes
30 s."""
_KEEPALIVE_S = 3.0
_KEEPALIVES = 4
"""So many without an answer, and the link counts as lost: after 15 s."""
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


class Logins:
    """Makes connections, and keeps those to hosts that lie on the way to others.

    All who go through the same host share one connection to it: sshd slows down who logs in often.

    Args:
        is_shared: Whether such a connection is also one of those that `connect` gives, so that a
            host on the way is logged in to once for both.
    """

    def __init__(self, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._hops: dict[SshTarget, asyncssh.SSHClientConnection] = {}
        self._making: dict[SshTarget, asyncio.Lock] = {}
        self._given: weakref.WeakSet[asyncssh.SSHClientConnection] = weakref.WeakSet()
        # Who goes through another knows it: held here, neither would ever be let go.
        self._through: weakref.WeakKeyDictionary[
            asyncssh.SSHClientConnection, weakref.WeakSet[asyncssh.SSHClientConnection]
        ] = weakref.WeakKeyDictionary()

    async def connect(self, node: str, target: SshTarget) -> asyncssh.SSHClientConnection:
        """A connection that nobody else was given.

        Args:
            node: The node, for the refusals.
            target: The account.

        Raises:
            Refusal: NODE_UNREACHABLE, HOST_KEY_MISMATCH, CREDENTIALS_INVALID: of the host, or of
                one on the way.
        """
        if not self._is_shared:
            return await self._connect(node, target, ())
        async with self._making.setdefault(target, asyncio.Lock()):
            connection = self._open_hop(target)
            if connection is None or connection in self._given:
                made = await self._connect(node, target, ())
                if connection is None:
                    self._hops[target] = made
                connection = made
            self._given.add(connection)
            return connection

    def is_way(self, connection: asyncssh.SSHClientConnection) -> bool:
        """Whether others go through a connection now."""
        return any(not one.is_closed() for one in self._through.get(connection, ()))

    def close(self) -> None:
        """Close the connections to hosts on the way, and with them all that goes through."""
        for connection in self._hops.values():
            connection.abort()
        self._hops.clear()

    async def _connect(
        self,
        node: str,
        target: SshTarget,
        towards: tuple[SshTarget, ...],
        *,
        before: SshTarget | None = None,
    ) -> asyncssh.SSHClientConnection:
        """As `connect`; `towards` are the hosts on the way whose connections wait for this one."""
        witness = _Witness()
        options = await _options(target, witness)
        tunnel: asyncssh.SSHClientConnection | None = None
        hops = _hops(target, options, before)
        if hops:
            if hops[-1].target in towards:
                raise errors.credentials_invalid(
                    f"{target} lies behind itself, by ProxyJump of {target.config}"
                )
            tunnel = await self._hop(node, hops[-1], (*towards, hops[-1].target))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S) as deadline:
                witness.on_connected = lambda: deadline.reschedule(loop.time() + _LOGIN_S)
                # None: no other configuration than that of the options.
                made = await asyncssh.connect(
                    target.host, target.port or (), options=options, config=None, tunnel=tunnel
                )
            if tunnel is not None:
                self._through.setdefault(tunnel, weakref.WeakSet()).add(made)
            return made
        except asyncssh.HostKeyNotVerifiable as error:
            raise _host_key_refused(node, target, witness, str(error)) from error
        except asyncssh.PermissionDenied as error:
            raise _credentials_refused(target) from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            why = str(error) or "it does not answer"
            if "Too many authentication failures" in why:
                raise _credentials_refused(target) from error
            through = f" through {hops[-1].target}" if hops else ""
            raise errors.node_unreachable(
                node, f"{target} can't be reached{through}: {why}"
            ) from error

    async def _hop(
        self, node: str, hop: _Hop, towards: tuple[SshTarget, ...]
    ) -> asyncssh.SSHClientConnection:
        """The connection to a host on the way, made if there is none."""
        async with self._making.setdefault(hop.target, asyncio.Lock()):
            connection = self._open_hop(hop.target)
            if connection is None:
                connection = await self._connect(node, hop.target, towards, before=hop.before)
                self._hops[hop.target] = connection
            return connection

    def _open_hop(self, target: SshTarget) -> asyncssh.SSHClientConnection | None:
        connection = self._hops.get(target)
        return None if connection is None or connection.is_closed() else connection


@dataclasses.dataclass(frozen=True, slots=True)
class _Hop:
    """A host on the way."""

    target: SshTarget
    before: SshTarget | None
    """The one before it, where the same ProxyJump names several; else its own configuration says
    how to get there."""


def _hops(
    target: SshTarget, options: asyncssh.SSHClientConnectionOptions, before: SshTarget | None
) -> list[_Hop]:
    if before is not None:
        return [_Hop(before, None)]
    if target.via is not None:
        return [_Hop(target.via, None)]
    jump = options.config.get("ProxyJump")
    if not isinstance(jump, str) or jump.lower() == "none":
        return []
    found: list[_Hop] = []
    for word in jump.split(","):
        user, _, place = word.strip().removeprefix("ssh://").rpartition("@")
        host, port = place, ""
        if place.startswith("["):
            host, _, port = place[1:].partition("]")
            port = port.removeprefix(":")
        elif place.count(":") == 1:
            host, _, port = place.partition(":")
        if not host or not (port or "0").isdecimal():
            raise errors.credentials_invalid(
                f"{target.config}: ProxyJump {jump} is not [user@]host[:port]"
            )
        # Keys that were named for a host are not for those on the way, as with ssh.
        hop = dataclasses.replace(target, host=host, user=user, port=int(port or 0), identities=())
        found.append(_Hop(hop, found[-1].target if found else None))
    return found


class _Witness(asyncssh.SSHClient):
    """Notes how far a login has come, and the host key that was not trusted."""

    def __init__(self) -> None:
        self.on_connected: Callable[[], None] = lambda: None
        self.known = asyncssh.import_known_hosts("")
        self.known_hosts_files: tuple[Path, ...] = ()
        self.shown: asyncssh.SSHKey | None = None
        self.is_changed = False
        self.name = ""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.on_connected()

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self.shown = key
        self.name = host if port in {0, 22} else f"[{host}]:{port}"
        keys, *_ = self.known.match(host, addr, None if port in {0, 22} else port)
        self.is_changed = bool(keys)
        return False


async def _options(target: SshTarget, witness: _Witness) -> asyncssh.SSHClientConnectionOptions:
    """What asyncssh is to do.

    Raises:
        Refusal: CREDENTIALS_INVALID: a key file or the configuration can't be used.
    """
    config = target.config_file
    settings: dict[str, object] = {"host": target.host}
    if target.user:
        settings["username"] = target.user
    if target.port:
        settings["port"] = target.port
    if target.identities:
        paths = [str(path.expanduser()) for path in target.identities]
        settings["client_keys"] = paths
        if target.use_agent and os.environ.get("SSH_AUTH_SOCK"):
            # As ssh does: the agent may hold what is encrypted in the file.
            settings["ignore_encrypted"] = True
    if not target.use_agent:
        settings["agent_path"] = None
    try:
        options: asyncssh.SSHClientConnectionOptions
        options = await asyncssh.SSHClientConnectionOptions.construct(
            config=[str(config)] if config is not None else None,
            client_factory=lambda: witness,
            known_hosts=b"",
            encryption_algs=_CIPHERS,
            preferred_auth="publickey",
            connect_timeout=None,
            login_timeout=0,
            keepalive_interval=_KEEPALIVE_S,
            keepalive_count_max=_KEEPALIVES,
            x509_trusted_certs=None,
            gss_host=None,
            agent_forwarding=False,
            x11_forwarding=False,
            request_pty=False,
            env=None,
            send_env=None,
            **settings,
        )
    except (asyncssh.KeyImportError, asyncssh.ConfigParseError, OSError, ValueError) as error:
        raise errors.credentials_invalid(f"{target}: {error}") from error
    witness.known_hosts_files = _known_hosts_files(target, options)
    witness.known = await asyncio.to_thread(_known_hosts, witness.known_hosts_files)
    await asyncio.to_thread(options.update, known_hosts=witness.known)
    return options


def _known_hosts_files(
    target: SshTarget, options: asyncssh.SSHClientConnectionOptions
) -> tuple[Path, ...]:
    if target.known_hosts is not None:
        return (target.known_hosts.expanduser(),)
    user = options.config.get("UserKnownHostsFile") or ["~/.ssh/known_hosts"]
    system = options.config.get("GlobalKnownHostsFile") or [str(_SYSTEM_KNOWN_HOSTS)]
    assert isinstance(user, list)  # noqa: S101 - for the type only: lists of words
    assert isinstance(system, list)  # noqa: S101
    return tuple(Path(name).expanduser() for name in [*user, *system])


def _known_hosts(files: Iterable[Path]) -> asyncssh.SSHKnownHosts:
    """The keys of all files that are there, but for lines that nobody understands, as ssh does."""
    known = asyncssh.import_known_hosts("")
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            try:
                known.load(line)
            except ValueError:
                continue
    return known


def _host_key_refused(node: str, target: SshTarget, witness: _Witness, why: str) -> Refusal:
    file = witness.known_hosts_files[0]
    key = ""
    if witness.shown is not None:
        key = f" (it shows {witness.shown.get_fingerprint()})"
    trust = f"compare the key and trust it by `{target.command('true')}`"
    if witness.is_changed:
        forget = shlex.join(["ssh-keygen", "-R", witness.name, "-f", str(file)])
        text = (
            f"the host key of {target} has changed{key}, or somebody else answers in its place. If "
            f"it was changed on purpose, forget the old one by `{forget}`, then {trust}"
        )
    elif witness.shown is not None:
        text = f"the host key of {target} is unknown{key}. If it is a new host, {trust}"
    else:
        text = f"the host key of {target} is not one that is trusted: {why}; {trust}"
    return errors.host_key_mismatch(node, text)


def _credentials_refused(target: SshTarget) -> Refusal:
    return errors.credentials_invalid(
        f"{target} takes none of the keys that were offered; try `{target.command('true')}`"
        " and add the key to ~/.ssh/authorized_keys there"
    )
