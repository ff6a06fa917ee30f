"""VMs that are a timer and an sshd: for the life of partitions and for load.

Each is a set of namespaces with an address, processes, accounts and homes of its own, over the file
system of this machine. Its sshd, with the host key and the accounts of the user-data, is there from
the beginning, and can be reached when the time to boot has passed. Nothing else of the user-data is
done, and no metadata service is there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import tests.testbed
from tests.testbed.azure_arm.vms import userdata
from tests.testbed.azure_arm.vms.backend import Machine, Rule
from tests.testbed.azure_arm.vms.fabric import Fabric, empty_space, remove_space
from tests.testbed.azure_arm.vms.guests import Guest, Guests
from tests.testbed.host import SSHD_CONFIG
from tests.testbed.network import ip
from tests.testbed.processes import only_child, until
from tests.testbed.sshd import make_key, sshd_program

__all__ = ["Timers"]

_FIRST_UID = 64_000
_SSH_PORT = 22
# As the kernel tells of it.
_LISTENS = f"00000000:{_SSH_PORT:04X} 00000000:0000 0A"


class Timing(Protocol):
    """Settings that can change meanwhile."""

    boot_s: float


class Timers(Guests):
    """Makes such VMs.

    Args:
        timing: Tells how long one takes to boot.
    """

    def __init__(self, timing: Timing) -> None:
        super().__init__()
        self._timing = timing
        self._last = 0

    def new(self, machine: Machine) -> Guest:
        self._last += 1
        return _Timer(self.fabric, machine, self._last)

    async def boot(self, machine: Machine, guest: Guest, began: float) -> None:
        assert isinstance(guest, _Timer)
        if machine.suffers("never boots"):
            await asyncio.Event().wait()
        # What costs time is done while the timer runs.
        await self.do(machine, guest.boot)
        await asyncio.sleep(began + self._timing.boot_s - asyncio.get_running_loop().time())
        late = machine.suffers("late")
        if late is None:
            await self.do(machine, guest.serve)
            return
        # The guest says that it is up, and sshd comes later.
        guest.later = asyncio.ensure_future(self._serve_late(machine, guest, late.seconds))

    async def _serve_late(self, machine: Machine, guest: _Timer, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.do(machine, guest.serve)

    def live(self) -> list[str]:
        return self.fabric.spaces()


class _Timer(Guest):
    """One such VM."""

    def __init__(self, fabric: Fabric, machine: Machine, number: int) -> None:
        self.space = f"{fabric.prefix}-{number}"
        self._fabric = fabric
        self._machine = machine
        self._port = f"to-{number}"
        self._folder = fabric.folder / str(number)
        self._own = self._folder / machine.name
        self._init: subprocess.Popen[bytes] | None = None
        self._sshd: subprocess.Popen[bytes] | None = None
        self._made = False
        self._rules: list[Rule] = []

    def make(self) -> None:
        own = self._own
        for folder in (own / "ssh", own / "home", own / "tmp", self._folder / "etc"):
            folder.mkdir(parents=True)
        (own / "tmp").chmod(0o1777)
        wanted = userdata.read(self._machine)
        key = own / "ssh/host_key"
        if wanted.host_key:
            key.touch(mode=0o600)
            key.write_text(wanted.host_key)
        else:
            make_key(key)
        (own / "ssh/sshd_config").write_text(SSHD_CONFIG)
        self._write_accounts(wanted.accounts)
        ip("netns", "add", self.space)
        self._made = True
        self._fabric.attach(f"/run/netns/{self.space}", self._port, self._machine.address)
        self.filter()

    def _write_accounts(self, accounts: list[userdata.Account]) -> None:
        etc = self._folder / "etc"
        name = self._machine.name
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")
        for file in ("passwd", "group", "shadow"):
            text = Path("/etc", file).read_text()
            for uid, account in enumerate(accounts, _FIRST_UID):
                own = account.name
                text += {
                    "passwd": f"{own}:x:{uid}:{uid}::/home/{own}:{account.shell}\n",
                    "group": f"{own}:x:{uid}:\n",
                    # "*", not "!": without PAM sshd takes the latter for a locked account.
                    "shadow": f"{own}:*:19000:0:99999:7:::\n",
                }[file]
            (etc / file).write_text(text)
            (etc / file).chmod(0o600 if file == "shadow" else 0o644)
        for uid, account in enumerate(accounts, _FIRST_UID):
            ssh = self._own / "home" / account.name / ".ssh"
            ssh.mkdir(parents=True, mode=0o700)
            (ssh / "authorized_keys").write_text("".join(f"{key}\n" for key in account.keys))
            for path in (ssh.parent, ssh, ssh / "authorized_keys"):
                os.chown(path, uid, uid)

    def filter(self) -> None:
        if self._made:
            space = f"/run/netns/{self.space}"
            self._rules = list(self._machine.rules)
            self._fabric.filter(space, self._machine.address, self._rules)

    def boot(self) -> None:
        if self._init is not None:
            return
        if self._rules != self._machine.rules:
            self.filter()
        self._init = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{self.space}"),
                *("unshare", "--uts", "--mount", "--pid", "--ipc", "--fork"),
                *("--kill-child=KILL", "--propagation", "private", "--"),
                *(sys.executable, "-I", "-S", str(Path(tests.testbed.__path__[0]) / "init.py")),
                *(str(self._folder), self._machine.name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"up\n", f"{self.space} does not start"
        self._fabric.shut(f"/run/netns/{self.space}", _SSH_PORT)
        with (self._folder / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen(
                self._command(sshd_program(), "-D", "-e"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        table = Path(f"/proc/{only_child(self._init.pid)}/net/tcp")
        until(lambda: _LISTENS in table.read_text(), f"sshd of {self.space} does not answer")

    def serve(self) -> None:
        """Let in who wants to its sshd, which waits for them."""
        if self._init is None:
            return
        # What cloud-init's last step leaves where it has run.
        done = Path(f"/proc/{only_child(self._init.pid)}/root/run/skyport")
        done.mkdir(exist_ok=True)
        (done / "ready").write_text(f"{int(time.time())}\n")
        self._fabric.unshut(f"/run/netns/{self.space}")

    def crash(self) -> None:
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
        if self._made:
            # The next sshd could not listen beside one that is still to die.
            empty_space(self.space)

    def remove(self) -> None:
        self.crash()
        if self._made:
            self._made = False
            # A namespace ends later, and another VM may have the address soon.
            self._fabric.detach(self._port)
            remove_space(self.space)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, line: str) -> tuple[int, str]:
        if self._init is None:
            return 255, "the VM is down"
        done = subprocess.run(
            self._command("sh", "-c", f"cd / && {line}"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _command(self, *words: str) -> list[str]:
        assert self._init is not None
        enter = ["nsenter", "-t", str(only_child(self._init.pid)), "-n", "-u", "-m", "-p", "--"]
        return [*enter, *words]
