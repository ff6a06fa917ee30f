"""How a check gets to an account on a host: with fabric, which is made for such errands.

The gate itself uses asyncssh. What its configuration means is the same to both: see `check_way`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import logging
import os
import shlex
import socket
import time
from collections.abc import Iterator

import asyncssh
import fabric
import invoke
import paramiko

from gate_kit.errors import Refusal
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.target import SshTarget
from gates.ssh_cluster_gate import check_way
from gates.ssh_cluster_gate.check_way import Way

SHELL = "exec /bin/sh -s"
"""Whatever the login shell is, this is what reads the probe."""

_LOOPBACK = "127.0.0.1"
_NO_PORT = 1
"""Nothing listens there; sshd says whether it would have looked."""

# Its threads tell of every connection that fails; so do we.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    connect_s: float = 15.0
    login_s: float = 30.0
    probe_s: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble(Exception):
    """There was no way to the account; what was not reached after it is not known."""

    check: str
    """Where it ended: `reach`, `host_key`, `login`."""
    text: str
    mend: str


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the probe said."""

    text: str
    asked_s: float
    """By our clock, just before it was started."""
    ended_s: float
    """Just after it had ended."""
    forwards: bool | None
    """Whether sshd connects to ports; None: there is no sshd."""


def ask_local(probe: str, limits: Limits) -> Answer:
    """Run the probe on this machine, as the gate runs things here.

    Raises:
        Trouble: It can't be run.
    """

    async def ask() -> tuple[bytes, int | None]:
        transport = LocalTransport("localhost")
        try:
            async with asyncio.timeout(limits.probe_s):
                process = await transport.open(SHELL)
                process.stdin.write(probe.encode())
                process.stdin.write_eof()
                return await process.stdout.read(-1), await process.wait()
        finally:
            await transport.close()

    asked_s = time.time()
    try:
        told, _ = asyncio.run(ask())
    except TimeoutError:
        raise _silent(limits, "") from None
    except (Refusal, ConnectionError) as error:
        raise Trouble("login", f"this machine runs no shell: {error}", "ls -l /bin/sh") from None
    return Answer(told.decode(errors="replace"), asked_s, time.time(), None)


def ask(target: SshTarget, probe: str, limits: Limits) -> Answer:
    """Log in and run the probe.

    Raises:
        Trouble: There is no way there, or none that can be trusted, or nothing runs there.
    """
    try:
        way = check_way.find(target)
    except (OSError, ValueError, asyncssh.Error) as error:
        text = f"the configuration of ssh can't be used: {error}"
        raise Trouble("reach", text, target.command("-G")) from None
    connection = _connection(target, way, limits)
    try:
        with _told(target, way, connection):
            connection.open()
        return _run(target, connection, probe, limits)
    finally:
        _close(connection)


def _close(connection: fabric.Connection) -> None:
    """Close it, and those that it goes through."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        connection.client.close()  # also one that was not logged in to
    if isinstance(connection.gateway, fabric.Connection):
        _close(connection.gateway)


def _run(target: SshTarget, connection: fabric.Connection, probe: str, limits: Limits) -> Answer:
    asked_s = time.time()
    try:
        done = connection.run(
            SHELL,
            in_stream=_Whole(probe),
            hide=True,
            warn=True,
            encoding="utf-8",
            timeout=limits.probe_s,
        )
    except invoke.CommandTimedOut:
        raise _silent(limits, target.command("true")) from None
    except (OSError, EOFError, paramiko.SSHException, invoke.exceptions.ThreadException) as error:
        text = f"it let us in, and ended the connection: {_why(error)}"
        raise Trouble("login", text, target.command("true")) from None
    ended_s = time.time()
    return Answer(done.stdout, asked_s, ended_s, _forwards(connection))


def _silent(limits: Limits, mend: str) -> Trouble:
    text = (
        f"a shell starts, and does not get through the check in {limits.probe_s:g} s; something in "
        "the account's profile, or a file system, hangs"
    )
    return Trouble("login", text, mend)


class _Whole(io.StringIO):
    """Gives all there is at once: invoke asks for a letter at a time, and pauses after each."""

    def read(self, size: int | None = -1, /) -> str:
        del size
        return super().read()

    def fileno(self) -> int:
        raise io.UnsupportedOperation("there is no file")


def _connection(target: SshTarget, way: Way, limits: Limits) -> fabric.Connection:
    """A connection that is not open yet, which trusts whom the gate trusts."""
    connection = fabric.Connection(
        way.host,
        user=way.user,
        port=way.port,
        # An object that is given keeps fabric from looking for files of its own.
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
        gateway=_connection(target, way.hop, limits) if way.hop else way.command or None,
        connect_timeout=int(limits.connect_s),
        connect_kwargs={
            "key_filename": list(way.keys),
            "allow_agent": target.use_agent,
            "look_for_keys": not way.keys,
            "banner_timeout": limits.login_s,
            "auth_timeout": limits.login_s,
        },
    )
    connection.config.runners.remote = _Remote
    connection.client.set_missing_host_key_policy(_Refuse())
    for key in way.trusted:
        algorithm = key.get_algorithm()
        with contextlib.suppress(paramiko.SSHException, paramiko.pkey.UnknownKeyType):
            trusted = paramiko.PKey.from_type_string(algorithm, key.public_data)
            connection.client.get_host_keys().add(way.known_as, algorithm, trusted)
    return connection


class _Remote(fabric.runners.Remote):  # type: ignore[misc]  # fabric has no types
    """Hears what a command says that ends before it has read all of its input."""

    def _write_proc_stdin(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            super()._write_proc_stdin(data)

    def close_proc_stdin(self) -> None:
        with contextlib.suppress(OSError):
            super().close_proc_stdin()


class _Unknown(paramiko.SSHException):  # type: ignore[misc]  # paramiko has no types
    """A host whose key nobody has trusted yet."""

    def __init__(self, host: str, key: paramiko.PKey) -> None:
        super().__init__(host)
        self.host = host
        self.key = key


class _Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        raise _Unknown(hostname, key)


@contextlib.contextmanager
def _told(target: SshTarget, way: Way, connection: fabric.Connection) -> Iterator[None]:
    """Tell how far it came, and what mends it."""
    try:
        yield
    except _Unknown as error:
        text = (
            f"the host key of {error.host} is not known; it shows {error.key.fingerprint}, which "
            "its administrator can confirm"
        )
        raise Trouble("host_key", text, target.command("true")) from None
    except paramiko.BadHostKeyException as error:
        at = _reached(way, connection)
        file = next(iter(at.known_hosts), "~/.ssh/known_hosts")
        text = (
            f"the host key of {at.known_as} has changed: it shows {error.key.fingerprint}. If that "
            "was done on purpose, forget the old one and trust the new one"
        )
        forget = shlex.join(["ssh-keygen", "-R", at.known_as, "-f", file])
        raise Trouble("host_key", text, f"{forget} && {target.command('true')}") from None
    except paramiko.PasswordRequiredException:
        text = f"{target}: the key has a passphrase, and no agent holds it"
        raise Trouble("login", text, shlex.join(["ssh-add", *_files(target)])) from None
    except FileNotFoundError as error:
        text = f"{target}: the key {error.filename} is not there"
        mend = shlex.join(["ssh-keygen", "-t", "ed25519", "-f", str(error.filename)])
        raise Trouble("login", text, mend) from None
    except paramiko.AuthenticationException:
        raise _refused(target) from None
    except paramiko.SSHException as error:
        transport = connection.client.get_transport()
        if transport is not None and transport.initial_kex_done:
            # paramiko ends with the last file that it could not read, not with the refusal.
            raise _refused(target) from None
        text = f"{target} answers, and not as a server of ssh: {_why(error)}"
        raise Trouble("reach", text, _verbose(target)) from None
    except socket.gaierror as error:
        text = f"{connection.host} is not the name of a host: {error.strerror}"
        mend = f'add an address to [host."…"], or a HostName to {target.config or "~/.ssh/config"}'
        raise Trouble("reach", text, mend) from None
    except (OSError, EOFError, TimeoutError) as error:
        why = _why(error) if not isinstance(error, TimeoutError) else "it does not answer"
        raise Trouble("reach", f"{target} can't be reached: {why}", _verbose(target)) from None


def _reached(way: Way, connection: fabric.Connection) -> Way:
    """The host at which the login ended: the nearest one that is not logged in to."""
    if way.hop is not None and not connection.gateway.is_connected:
        return _reached(way.hop, connection.gateway)
    return way


def _refused(target: SshTarget) -> Trouble:
    text = f"{target} takes none of the keys that were offered"
    files = _files(target)
    login = f"{target.user}@{target.host}" if target.user else target.host
    words = ["ssh-copy-id"]
    if target.port:
        words += ["-p", str(target.port)]
    if files:
        words += ["-i", files[0]]
    return Trouble("login", text, shlex.join([*words, login]))


def _files(target: SshTarget) -> list[str]:
    return [str(path) for path in target.identities]


def _verbose(target: SshTarget) -> str:
    return target.command("true").replace("ssh ", "ssh -v ", 1)


def _why(error: BaseException) -> str:
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return "; ".join(sorted({os.strerror(each.errno or 0) for each in error.errors.values()}))
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _forwards(connection: fabric.Connection) -> bool | None:
    """Whether sshd opens connections to ports of its own loopback."""
    try:
        channel = connection.transport.open_channel(
            "direct-tcpip", (_LOOPBACK, _NO_PORT), (_LOOPBACK, 0), timeout=5
        )
    except paramiko.ChannelException as error:
        prohibited = 1  # RFC 4254, 5.1: administratively prohibited
        return bool(error.code != prohibited)
    except (OSError, EOFError, paramiko.SSHException):
        return None
    channel.close()
    return True
