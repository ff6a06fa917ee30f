"""A real sshd on a port of loopback, for the account that the tests run as."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from gate_kit.ssh.target import SshTarget
from tests.testbed.processes import children, descendants
from tests.testbed.sshd import make_key, sshd_program

__all__ = ["Sshd", "free_port", "make_key"]

_WITHIN_S = 20.0


class Sshd:
    """One server, with keys and a known_hosts of its own.

    Args:
        folder: Where its files go.
        settings: Further lines of its sshd_config.
        environment: Of whoever logs in, beside and before what sshd gives.
    """

    def __init__(
        self, folder: Path, *settings: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.key = make_key(folder / "user_key")
        self.known_hosts = folder / "known_hosts"
        make_key(folder / "host_key")
        self.trust()
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        variables = {"SHLVL": "1", **(environment or {})}
        lines = (
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder / 'host_key'}",
            f"AuthorizedKeysFile {folder / 'authorized_keys'}",
            f"PidFile {folder / 'sshd.pid'}",
            "StrictModes no",  # folders of tests lie in /tmp, which everybody may write to
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            # bash reads ~/.bashrc for a command that comes by ssh, unless it is an inner shell:
            # what the account that tests run as has there may be slow, and is not what is tested.
            "SetEnv " + " ".join(f"{name}={value}" for name, value in variables.items()),
            *settings,
        )
        (folder / "sshd_config").write_text("".join(f"{line}\n" for line in lines))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> SshTarget:
        """The account on it."""
        return SshTarget(
            host="127.0.0.1",
            user=self.user,
            port=self.port,
            config=None,
            known_hosts=self.known_hosts,
            identities=(self.key,),
            use_agent=False,
        )

    def trust(self) -> None:
        """Have its present host key be the one that is known."""
        key = (self.folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    def change_host_key(self) -> None:
        """Give it another host key; restart it to have it used."""
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink()
        make_key(self.folder / "host_key")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it gives up its rights
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sshd_program(), "-D", "-e", "-f", str(self.folder / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _WITHIN_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < until, "sshd does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it with all its connections and what runs on them."""
        if self._process is None:
            return
        children = descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process = None

    def connections(self) -> int:
        """How many connections it has."""
        assert self._process is not None
        return len(children(self._process.pid))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
