"""A real sshd on loopback with keys and a home of its own, and a core whose site it is.

All limits of sshd are its own. Peers reach the same sshd as the gate does: with the same key, and
by the same cipher, for OpenSSH as well as for asyncssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomlkit

from bench.core import Core, Site, serving
from bench.processes import wait_until
from gate_kit.ssh.login import Logins
from tests.ssh.sshd import Sshd
from tests.testbed.processes import children

CPUS = 16
"""Of the host, as the site tells it; it is this machine, whatever it has."""

_NODE = "node1"
_MODULE = "gates.ssh_cluster_gate"
_CIPHER = "aes128-gcm@openssh.com"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class SshSite:
    """A core that runs, with a host that is ready."""

    core: Core
    sshd: Sshd
    gate_pid: int
    home: Path
    """Of the account on the host; on the disk that the core is on."""

    def ssh(self, *options: str) -> list[str]:
        """A command line of OpenSSH that lacks only what is to be run on the host."""
        return ["ssh", *self._options, *options, "127.0.0.1"]

    def sftp(self) -> list[str]:
        """One of its sftp, which reads its commands from standard input."""
        return ["sftp", "-q", "-b", "-", *self._options, "127.0.0.1"]

    @property
    def _options(self) -> list[str]:
        settings = {
            "Port": self.sshd.port,
            "User": self.sshd.user,
            "IdentityFile": self.sshd.key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": self.sshd.known_hosts,
            "Ciphers": _CIPHER,
        }
        words = ["-F", "none"]
        for name, value in settings.items():
            words += ["-o", f"{name}={value}"]
        return words

    def received_bytes(self) -> int:
        """What has come to sshd on the connections that are open, as the kernel counts it."""
        text = subprocess.run(
            ["ss", "-tinH", f"dport = :{self.sshd.port}"],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout
        return sum(map(int, re.findall(r"bytes_acked:(\d+)", text)))


@contextlib.contextmanager
def ssh_serving(**settings: Any) -> Iterator[SshSite]:
    """A fresh sshd, and a fresh core with it as its only host.

    Args:
        settings: More of the gate.
    """
    folder = Path(tempfile.mkdtemp(prefix="swm-bench-ssh-"))
    home = folder / "home"
    home.mkdir()
    sshd = Sshd(folder / "sshd", "Subsystem sftp internal-sftp", environment={"HOME": str(home)})
    try:
        sshd.start()
        with serving(Site("ssh", _MODULE, _config(sshd, settings))) as core:
            gate_pid = wait_until(lambda: _gate(core.pid), "the gate's process")
            yield SshSite(core, sshd, gate_pid, home)
    finally:
        sshd.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _config(sshd: Sshd, settings: Mapping[str, Any]) -> str:
    return tomlkit.dumps(
        {
            **settings,
            "hosts": [_NODE],
            "cpus": CPUS,
            "shared_account": True,
            "user": sshd.user,
            "ssh_config": "",
            "use_agent": False,
            "known_hosts": str(sshd.known_hosts),
            "host": {_NODE: {"address": "127.0.0.1", "port": sshd.port, "identity": str(sshd.key)}},
        }
    )


def _gate(core_pid: int) -> int | None:
    for pid in children(core_pid):
        if _MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


class Peer:
    """An open asyncssh connection to the host, in a thread of its own with its event loop."""

    def __init__(self, sshd: Sshd) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._logins = Logins()
        self._connection = self.call(self._logins.connect(_NODE, sshd.target))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that runs there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def execs(self, count: int, command: str = "true") -> list[float]:
        """Seconds that each of some commands took from asking for it to its exit, one by one."""
        return self.call(self._execs(count, command))

    async def _execs(self, count: int, command: str) -> list[float]:
        times = []
        for _ in range(count):
            began = self._loop.time()
            done = await self._connection.run(command, encoding=None)
            times.append(self._loop.time() - began)
            assert done.exit_status == 0, done.stderr
        return times

    def close(self) -> None:
        """End the connection, and the thread."""

        async def end() -> None:
            self._connection.close()
            await self._connection.wait_closed()

        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def peer_of(site: SshSite) -> Iterator[Peer]:
    """A connection of a peer."""
    peer = Peer(site.sshd)
    try:
        yield peer
    finally:
        peer.close()
