"""One host of a bed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gate_kit.ssh.target import SshTarget
from tests.testbed.network import ip
from tests.testbed.processes import descendants, only_child, until
from tests.testbed.sshd import make_key, sshd_program

if TYPE_CHECKING:
    from tests.testbed.hosts import Bed

SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/host_key
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
MaxSessions 10
MaxStartups 10:30:100
"""


class BedHost:
    """One host.

    Args:
        bed: Where it belongs.
        name: Its name.
        address: Its address.
        settings: Further lines of its sshd_config.
    """

    def __init__(self, bed: Bed, name: str, address: str, settings: Sequence[str]) -> None:
        self.name = name
        self.address = address
        self.folder = bed.folder / name
        self._bed = bed
        self._settings = settings
        self._space = f"{bed.prefix}-{name}"
        self._switch = f"{bed.prefix}-sw"
        self._port = f"to-{name}"
        self._init: subprocess.Popen[bytes] | None = None
        self._sshd: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make it, and start it."""
        self.folder.mkdir()
        (self.folder / "tmp").mkdir()
        (self.folder / "tmp").chmod(0o1777)
        home = self._bed.home(self.name)
        self._bed.make_home(home)
        if home.parent != self.folder:
            (self.folder / "home").symlink_to(home)
        (self.folder / "ssh").mkdir()
        config = SSHD_CONFIG + "".join(f"{line}\n" for line in self._settings)
        (self.folder / "ssh/sshd_config").write_text(config)
        make_key(self.folder / "ssh/host_key")
        ip("netns", "add", self._space)
        ip("-n", self._space, "link", "set", "lo", "up")
        peer = ("peer", "name", "eth0", "netns", self._space)
        ip("link", "add", self._port, "netns", self._switch, "type", "veth", *peer)
        ip("-n", self._switch, "link", "set", self._port, "master", "br0", "up")
        ip("-n", self._space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self._space, "link", "set", "eth0", "up")
        ip("-n", self._space, "route", "add", "default", "via", self._bed.address)
        self.boot()

    def remove(self) -> None:
        """Stop it. What it was made of goes with the bed."""
        self.crash()

    def target(self, user: str = "") -> SshTarget:
        """An account on it."""
        user = user or self._bed.users[0]
        return SshTarget(
            host=self.address,
            user=user,
            config=None,
            known_hosts=self._bed.known_hosts,
            identities=(self._bed.key(user),),
            use_agent=False,
        )

    def home(self, user: str = "") -> Path:
        """The home of an account, as this machine sees it."""
        return self._bed.home(self.name) / (user or self._bed.users[0])

    # What goes on there.

    def command(self, *words: str, user: str = "root") -> list[str]:
        """The command line that runs `words` there."""
        assert self._init is not None, f"{self.name} is down"
        enter = ["nsenter", "-t", str(only_child(self._init.pid)), "-n", "-u", "-m", "-p", "--"]
        if user != "root":
            uid = str(self._bed.uid(user))
            enter += ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--"]
            enter += ["env", f"HOME=/home/{user}", f"USER={user}", f"LOGNAME={user}"]
        return [*enter, *words]

    def run(self, line: str, *, user: str = "root") -> str:
        """What a line of sh says there; an error if it fails."""
        done = subprocess.run(
            self.command("sh", "-c", f"cd / && {line}", user=user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {line}: {done.stdout}{done.stderr}"
        return done.stdout

    def boot(self) -> None:
        """Start it, if it is down, and its sshd."""
        if self._init is None:
            self._init = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self._space}"),
                    *("unshare", "--uts", "--mount", "--pid", "--ipc", "--fork"),
                    *("--kill-child=KILL", "--propagation", "private", "--"),
                    *(sys.executable, "-I", "-S", str(Path(__file__).with_name("init.py"))),
                    *(str(self._bed.folder), self.name),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._init.stdout is not None
            assert self._init.stdout.readline() == b"up\n", f"{self.name} does not start"
        self.start_sshd()

    def crash(self) -> None:
        """Have all that runs there end at once, as by a loss of power."""
        init, self._init = self._init, None
        sshd, self._sshd = self._sshd, None
        if init is not None:
            init.kill()
            init.wait()
            for pipe in (init.stdin, init.stdout):
                if pipe is not None:
                    pipe.close()
        if sshd is not None:
            sshd.wait()

    def start_sshd(self) -> None:
        """Start its sshd, if it does not run."""
        if self._sshd is not None and self._sshd.poll() is None:
            return
        with self.log.open("ab") as log:
            self._sshd = subprocess.Popen(
                self.command(sshd_program(), "-D", "-e"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        probe = "ss -Hltn sport = :22 | grep -q ."
        until(lambda: bool(self._succeeds(probe)), f"sshd of {self.name} does not answer")

    def stop_sshd(self) -> None:
        """End its sshd, and all sessions. What these have detached goes on."""
        sshd, self._sshd = self._sshd, None
        if sshd is None:
            return
        pids = descendants(sshd.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sshd.wait()

    @property
    def log(self) -> Path:
        """What its sshd says."""
        return self.folder / "sshd.log"

    def change_host_key(self) -> None:
        """Give it another host key, that nobody knows yet."""
        self.stop_sshd()
        for name in ("host_key", "host_key.pub"):
            (self.folder / "ssh" / name).unlink()
        make_key(self.folder / "ssh/host_key")
        self.start_sshd()

    # The cable.

    def cut(self) -> contextlib.AbstractContextManager[None]:
        """Unplug its cable, at once; as a context, until its end."""
        ip("-n", self._switch, "link", "set", self._port, "down")
        return self._healed()

    def blackhole(self) -> contextlib.AbstractContextManager[None]:
        """Have all that is sent to it or by it vanish, at once; as a context, until its end."""
        ip("-n", self._switch, "link", "set", self._port, "nomaster")
        return self._healed()

    def heal(self) -> None:
        """Plug its cable in."""
        ip("-n", self._switch, "link", "set", self._port, "master", "br0", "up")

    @contextlib.contextmanager
    def _healed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.heal()

    def _succeeds(self, line: str) -> bool:
        done = subprocess.run(
            self.command("sh", "-c", line),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0
