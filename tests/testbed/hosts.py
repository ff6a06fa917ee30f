"""Hosts on one machine: each with an address, a name, processes, homes and an sshd of its own.

A host is a set of namespaces; a switch, in a namespace of its own so that no firewall rule of this
machine sees what passes, connects them with this machine. Accounts are of the hosts alone: nothing
is added to the machine's own. Needs root. Several beds may be up at a time.

    with Bed() as bed:
        one, two = bed.hosts
        one.run("id", user="alice")
        with two.cut():
            ...
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.testbed.host import BedHost
from tests.testbed.network import ip
from tests.testbed.processes import until
from tests.testbed.sshd import make_key

__all__ = ["USERS", "Bed", "BedHost", "is_possible"]

USERS = ("alice", "bob")
_BEDS = 40
_FIRST_UID = 61_000


def is_possible() -> bool:
    """Whether this process may make hosts."""
    return os.geteuid() == 0


class Bed:
    """Hosts that are up together.

    Args:
        names: Of the hosts.
        users: Accounts that each of them has, with the same key.
        shared_home: Whether /home is one folder for all of them.
        settings: Further lines of each sshd_config.
    """

    def __init__(
        self,
        names: Sequence[str] = ("h1", "h2"),
        *,
        users: Sequence[str] = USERS,
        shared_home: bool = False,
        settings: Sequence[str] = (),
    ) -> None:
        self.users = tuple(users)
        self.hosts: list[BedHost] = []
        self._names = tuple(names)
        self._shared_home = shared_home
        self._settings = tuple(settings)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            number = undo.enter_context(_number())
            self.prefix = f"swmbed{number}"
            self.subnet = f"10.81.{number}"
            self.first_uid = _FIRST_UID + number * 100
            _clear(self.prefix)
            undo.callback(_clear, self.prefix)
            # Not below /tmp: each host has one of its own.
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-", dir="/var/tmp"))
            self.folder.chmod(0o755)
            self._write_accounts()
            self._connect_switch()
            for index, name in enumerate(self._names):
                host = BedHost(self, name, f"{self.subnet}.{11 + index}", self._settings)
                self.hosts.append(host)
                undo.callback(host.remove)
                host.make()
            self._write_ssh_config()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def __getitem__(self, name: str) -> BedHost:
        return next(host for host in self.hosts if host.name == name)

    @property
    def address(self) -> str:
        """This machine, as the hosts see it."""
        return f"{self.subnet}.1"

    @property
    def ssh_config(self) -> Path:
        """A configuration of ssh that knows the hosts by their names; the user is the first one."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """The host keys of all hosts, by name and address."""
        return self.folder / "known_hosts"

    def key(self, user: str) -> Path:
        """The private key of an account."""
        return self.folder / "keys" / user

    def uid(self, user: str) -> int:
        """The number of an account, which is also that of its group."""
        return self.first_uid + self.users.index(user)

    def trust(self) -> None:
        """Have the present host keys be those that are known."""
        lines = (
            f"{host.name},{host.address} {(host.folder / 'ssh/host_key.pub').read_text()}"
            for host in self.hosts
        )
        self.known_hosts.write_text("".join(lines))

    def set_login_shell(self, user: str, shell: str) -> None:
        """Have an account begin with another shell, on all hosts."""
        file = self.folder / "etc" / "passwd"
        text = file.read_text()
        # Written in place: each host sees this very file.
        file.write_text(re.sub(rf"(?m)^({user}:.*:).*$", rf"\g<1>{shell}", text))

    def heal(self) -> None:
        """Have all hosts up, connected and served by sshd."""
        for host in self.hosts:
            host.heal()
            host.boot()

    def _write_accounts(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir()
        hosts = [f"{self.subnet}.{11 + index} {name}\n" for index, name in enumerate(self._names)]
        (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(hosts))
        for name in ("passwd", "group", "shadow"):
            text = Path("/etc", name).read_text()
            for user in self.users:
                uid = self.uid(user)
                text += {
                    "passwd": f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash\n",
                    "group": f"{user}:x:{uid}:\n",
                    # "*", not "!": without PAM sshd takes the latter for a locked account.
                    "shadow": f"{user}:*:19000:0:99999:7:::\n",
                }[name]
            (etc / name).write_text(text)
            (etc / name).chmod(0o600 if name == "shadow" else 0o644)
        (self.folder / "keys").mkdir()
        for user in self.users:
            make_key(self.key(user))

    def make_home(self, home: Path) -> None:
        """Put the folders of all accounts into `home`."""
        home.mkdir(exist_ok=True)
        for user in self.users:
            own, uid = home / user, self.uid(user)
            if own.exists():
                continue
            (own / ".ssh").mkdir(parents=True, mode=0o700)
            keys = own / ".ssh" / "authorized_keys"
            shutil.copy(self.key(user).with_suffix(".pub"), keys)
            keys.chmod(0o600)
            own.chmod(0o755)
            for path in (own, keys.parent, keys):
                os.chown(path, uid, uid)

    def home(self, host: str) -> Path:
        """What is /home on a host."""
        return self.folder / "home" if self._shared_home else self.folder / host / "home"

    def _connect_switch(self) -> None:
        switch = f"{self.prefix}-sw"
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        ip("link", "add", self.prefix, "type", "veth", "peer", "name", "here", "netns", switch)
        ip("-n", switch, "link", "set", "here", "master", "br0", "up")
        ip("addr", "add", f"{self.address}/24", "dev", self.prefix)
        ip("link", "set", self.prefix, "up")

    def _write_ssh_config(self) -> None:
        self.trust()
        lines = [f"UserKnownHostsFile {self.known_hosts}", "IdentitiesOnly yes"]
        for host in self.hosts:
            lines += [f"Host {host.name}", f"  HostName {host.address}"]
        lines += [f"Match user {user}\n  IdentityFile {self.key(user)}" for user in self.users]
        lines += ["Host *", f"  User {self.users[0]}", f"  IdentityFile {self.key(self.users[0])}"]
        self.ssh_config.write_text("".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def _number() -> Iterator[int]:
    """A number that no other bed has meanwhile."""
    for number in range(_BEDS):
        with _lock_file(number) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield number
            return
    raise AssertionError(f"{_BEDS} beds are up")


def _lock_file(number: int) -> IO[bytes]:
    return Path("/var/tmp", f"swmbed{number}.lock").open("ab")


def _clear(prefix: str) -> None:
    """Remove the namespaces of a bed, and what runs in them: also of one that was killed."""
    listed = ip("netns", "list").split("\n")
    for space in (line.split(" ")[0] for line in listed if line.startswith(f"{prefix}-")):
        for pid in ip("netns", "pids", space).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        until(functools.partial(_is_empty, space), f"{space} is in use")
        ip("netns", "del", space)
    until(lambda: f"{prefix}@" not in ip("-o", "link"), f"{prefix} is still there")
    for folder in Path("/var/tmp").glob(f"{prefix}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _is_empty(space: str) -> bool:
    return not ip("netns", "pids", space).strip()
