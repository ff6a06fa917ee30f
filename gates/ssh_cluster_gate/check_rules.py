"""What is well and what is not, judged from what the probe said of an account on a host. Pure."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from gate_kit.verdicts import State, Verdict
from rpc_kit.units import format_size

_DISK_LEAST = 256 << 20
_DISK_FEW = 5 << 30
_INODES_LEAST = 1_000
_INODES_FEW = 100_000
"""A job may bring as many input files."""
_CLOCK_OFF_S = 2.0
_CLOCK_WRONG_S = 60.0
_MEMORY_SHARE = 0.95
"""A machine that was sold with 64 GB tells a little less."""

_PACKAGES = {
    "awk": "mawk",
    "find": "findutils",
    "grep": "grep",
    "sed": "sed",
    "setsid": "util-linux",
    "tar": "tar",
    "xargs": "findutils",
}
_INSTALL = {
    "apt-get": "apt-get install -y",
    "dnf": "dnf install -y",
    "yum": "yum install -y",
    "zypper": "zypper install -y",
    "pacman": "pacman -S --noconfirm",
    "apk": "apk add",
}
CHECKS = (
    *("reach", "host_key", "login"),
    *("tools", "work_root", "disk", "inodes", "cpus", "memory", "gpus"),
    *("clock", "ports", "logout", "limits", "containers"),
)
"""What is looked at, in this order."""


@dataclasses.dataclass(frozen=True, slots=True)
class Promised:
    """What the configuration says of the host; None: it is found out."""

    login: str = ""
    """The account; empty: whoever ssh logs in as."""
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What the probe said: values by name."""

    values: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str) -> Found | None:
        """What stands between the marks, whatever a login shell prints; None if no end came."""
        lines = text.splitlines()
        if "check-begins" not in lines or "check-ends" not in lines:
            return None
        values: dict[str, list[str]] = {}
        for line in lines[lines.index("check-begins") + 1 : lines.index("check-ends")]:
            name, _, value = line.partition(" ")
            values.setdefault(name, []).append(value)
        return cls(values)

    def one(self, name: str) -> str:
        """A value; empty if there is none."""
        return next(iter(self.values.get(name, ())), "")

    def number(self, name: str) -> int | None:
        """A value that is a number, or begins with one."""
        word = self.one(name).partition(" ")[0]
        return int(word) if re.fullmatch(r"\d+", word, re.ASCII) else None


Remote = Callable[[str], str]
"""From a command line to that which runs it on the host, from here."""


def judge(
    found: Found,
    promised: Promised,
    on_host: Remote,
    asked_s: float,
    ended_s: float,
    *,
    forwards: bool | None,
) -> list[Verdict]:
    """All that can be said once the probe has run, in the order of CHECKS.

    Args:
        found: What it said.
        promised: What the configuration says.
        on_host: Makes commands that run there.
        asked_s: Our time just before the probe was started.
        ended_s: And just after it had ended.
        forwards: Whether sshd connects to ports of the host; None: not known.
    """
    return [
        Verdict("reach", State.OK),
        Verdict("host_key", State.OK),
        _login(found, promised, on_host),
        _tools(found, on_host),
        _root(found, on_host),
        *_space(found, on_host),
        _cpus(found, promised),
        _memory(found, promised),
        _gpus(found, promised, on_host),
        _clock(found, on_host, asked_s, ended_s),
        _ports(forwards, on_host),
        _logout(found, on_host),
        _limits(found, on_host),
        _containers(found, on_host),
    ]


def not_reached(check: str, text: str, mend: str) -> list[Verdict]:
    """All that can be said when there was no way to the account, and where it ended."""
    at = CHECKS.index(check)
    before = [Verdict(name, State.OK) for name in CHECKS[:at]]
    after = [Verdict(name, State.UNKNOWN) for name in CHECKS[at + 1 :]]
    return [*before, Verdict(check, State.FAILED, "", text, mend), *after]


def same_place(roots: Mapping[str, str]) -> str:
    """Why hosts that are said to share a file system do not; empty if they may well.

    Args:
        roots: From host to the identity of its work root, empty where it has none yet.
    """
    places = {uid: node for node, uid in reversed(list(roots.items()))}
    if len(places) < 2:
        return ""
    hosts = " and ".join(sorted(places.values())[:2])
    return f"shared_filesystem is true, and the work roots of {hosts} are not one folder"


def _login(found: Found, promised: Promised, on_host: Remote) -> Verdict:
    user = found.one("user")
    if promised.login and user and user != promised.login:
        text = f"{promised.login} logs in and becomes {user}"
        return Verdict("login", State.FAILED, user, text, on_host("id"))
    if user == "root":
        text = "jobs run as root, who may do anything there; use an account of its own"
        return Verdict("login", State.WARNING, user, text, on_host("sudo useradd -m skyport"))
    return Verdict("login", State.OK, user)


def _tools(found: Found, on_host: Remote) -> Verdict:
    lacks = found.values.get("lacks", ())
    if not lacks:
        return Verdict("tools", State.OK)
    packages = sorted({_PACKAGES.get(tool, "coreutils") for tool in lacks})
    install = _INSTALL.get(found.one("packages"), "apt-get install -y")
    text = f"it lacks {', '.join(lacks)}, or its PATH for commands of ssh does"
    mend = on_host(f"sudo {install} {' '.join(packages)}")
    return Verdict("tools", State.FAILED, str(len(lacks)), text, mend)


def _root(found: Found, on_host: Remote) -> Verdict:
    root, place = found.one("root"), found.one("place")
    quoted = shlex.quote(root)
    answer, _, why = found.one("writable").partition(" ")
    if answer != "yes":
        text = f"nothing can be written to {place}: {why or 'not known why'}"
        mend = f"sudo install -d -m 700 -o {shlex.quote(found.one('user'))} {quoted}"
        if "read-only" in why.lower():
            mount = found.one("disk").split(" ", 2)[2:] or [place]
            mend = f"sudo mount -o remount,rw {shlex.quote(mount[0])}"
        elif "space" in why.lower() or "quota" in why.lower():
            mend = f"df -h {shlex.quote(place)}"
        return Verdict("work_root", State.FAILED, "", text, on_host(mend))
    mode, _, owner = found.one("mode").partition(" ")
    if mode and int(mode, 8) & 0o077 and place == root:
        text = f"{root} is open to other accounts (mode {mode})"
        return Verdict("work_root", State.WARNING, "", text, on_host(f"chmod 700 {quoted}"))
    if owner and owner != found.one("user"):
        text = f"{root} belongs to {owner}"
        mend = f"sudo chown -R {shlex.quote(found.one('user'))} {quoted}"
        return Verdict("work_root", State.WARNING, "", text, on_host(mend))
    if found.one("executes") == "no":
        text = (
            f"{place} is mounted noexec: scripts run there, programs that jobs bring along don't; "
            "set another work_root, or mount it otherwise"
        )
        mount = found.one("disk").split(" ", 2)[2:] or [place]
        mend = on_host(f"sudo mount -o remount,exec {shlex.quote(mount[0])}")
        return Verdict("work_root", State.WARNING, "noexec", text, mend)
    return Verdict("work_root", State.OK)


def _space(found: Found, on_host: Remote) -> Iterator[Verdict]:
    place = shlex.quote(found.one("place") or "/")
    parts = found.one("disk").split(" ", 2)
    # Some file systems have no size, and tell 0 or "-" of it.
    if len(parts) == 3 and parts[0].isdecimal() and parts[1].isdecimal() and int(parts[0]):
        free = int(parts[1]) << 10
        state = _enough(free, _DISK_LEAST, _DISK_FEW)
        size = format_size(free)
        text = "" if state is State.OK else f"{size} free on {parts[2]}"
        mend = "" if state is State.OK else on_host(f"du -xh --max-depth 2 {place} | sort -h")
        yield Verdict("disk", state, size, text, mend)
    else:
        yield Verdict("disk", State.UNKNOWN)
    parts = found.one("inodes").split(" ", 2)
    # Nor a number of inodes: they are made as files come.
    if len(parts) == 3 and parts[0].isdecimal() and parts[1].isdecimal() and int(parts[0]):
        free = int(parts[1])
        state = _enough(free, _INODES_LEAST, _INODES_FEW)
        text = "" if state is State.OK else f"{free} more files fit on {parts[2]}"
        mend = (
            "" if state is State.OK else on_host(f"du -x --inodes --max-depth 2 {place} | sort -n")
        )
        yield Verdict("inodes", state, str(free), text, mend)
    else:
        yield Verdict("inodes", State.UNKNOWN)


def _enough(free: int, least: int, few: int) -> State:
    if free < least:
        return State.FAILED
    return State.WARNING if free < few else State.OK


def _cpus(found: Found, promised: Promised) -> Verdict:
    has = found.number("cpus")
    if has is None:
        return Verdict("cpus", State.UNKNOWN)
    if promised.cpus is not None and promised.cpus > has:
        text = f"the configuration says {promised.cpus} cpus, and it has {has}"
        return Verdict("cpus", State.WARNING, str(has), text, f"cpus = {has}")
    return Verdict("cpus", State.OK, str(has))


def _memory(found: Found, promised: Promised) -> Verdict:
    kib = found.number("memory")
    if kib is None:
        return Verdict("memory", State.UNKNOWN)
    has, size = kib << 10, format_size(kib << 10)
    if promised.memory_bytes is not None and promised.memory_bytes * _MEMORY_SHARE > has:
        text = f"the configuration says {format_size(promised.memory_bytes)}, and it has {size}"
        return Verdict("memory", State.WARNING, size, text, f'memory = "{kib >> 10}M"')
    return Verdict("memory", State.OK, size)


def _gpus(found: Found, promised: Promised, on_host: Remote) -> Verdict:
    trouble = found.one("gpu_trouble")
    has = found.number("gpus") or 0
    if promised.gpus is not None and promised.gpus > has:
        why = f" (nvidia-smi: {trouble})" if trouble else ""
        text = f"the configuration says {promised.gpus} gpus, and it has {has}{why}"
        mend = on_host("nvidia-smi") if trouble else f"gpus = {has}"
        return Verdict("gpus", State.FAILED, str(has), text, mend)
    if trouble:
        text = f"nvidia-smi does not work: {trouble}"
        return Verdict("gpus", State.WARNING, "", text, on_host("nvidia-smi"))
    return Verdict("gpus", State.OK, str(has))


def _clock(found: Found, on_host: Remote, asked_s: float, ended_s: float) -> Verdict:
    began, ended = found.number("began"), found.number("ended")
    if began is None or ended is None:
        return Verdict("clock", State.UNKNOWN)
    # The host told whole seconds, at two moments of which we only know that they lie in between.
    least, most = ended - ended_s, began + 1 - asked_s
    off_s = least if least > 0 else min(most, 0.0)
    value = f"{off_s:+.0f}s"
    if abs(off_s) < _CLOCK_OFF_S:
        return Verdict("clock", State.OK, "0s" if abs(off_s) < 1 else value)
    state = State.FAILED if abs(off_s) > _CLOCK_WRONG_S else State.WARNING
    way = "ahead of" if off_s > 0 else "behind"
    text = f"its clock is {abs(off_s):.0f} s {way} this machine's"
    return Verdict("clock", state, value, text, on_host("sudo chronyc makestep"))


def _ports(forwards: bool | None, on_host: Remote) -> Verdict:
    if forwards is None:
        return Verdict("ports", State.UNKNOWN)
    if forwards:
        return Verdict("ports", State.OK)
    text = "sshd forwards no ports, so that no port of a job can be reached"
    # It reads its configuration when it starts, and when it is told to.
    mend = (
        "sudo sed -i.bak 's/^ *AllowTcpForwarding .*/AllowTcpForwarding yes/' /etc/ssh/sshd_config "
        '&& sudo kill -HUP "$(cat /run/sshd.pid)"'
    )
    return Verdict("ports", State.FAILED, "", text, on_host(mend))


def _logout(found: Found, on_host: Remote) -> Verdict:
    if found.one("kills") == "true" and found.one("lingers") != "yes":
        text = "systemd-logind ends all that an account has left running when it logs out"
        user = shlex.quote(found.one("user"))
        mend = on_host(f"sudo loginctl enable-linger {user}")
        return Verdict("logout", State.FAILED, "", text, mend)
    return Verdict("logout", State.OK)


def _limits(found: Found, on_host: Remote) -> Verdict:
    told = found.one("systemd_run")
    if not told:
        return Verdict("limits", State.OK, "none")
    if told == "yes" and found.one("lingers") == "yes":
        return Verdict("limits", State.OK, "systemd")
    text = "cpus and memory of jobs without a container are not enforced there"
    mend = f"sudo loginctl enable-linger {shlex.quote(found.one('user'))}"
    return Verdict("limits", State.WARNING, "none", text, on_host(mend))


def _containers(found: Found, on_host: Remote) -> Verdict:
    usable, broken = [], []
    for line in found.values.get("engine", ()):
        name, answer, told = [*line.split(" ", 2), ""][:3]
        if answer == "yes":
            usable.append(f"{name} {told}".strip())
        else:
            broken.append((name, told))
    if usable:
        return Verdict("containers", State.OK, ", ".join(usable))
    if not broken:
        return Verdict("containers", State.OK, "none")
    name, told = broken[0]
    mend = f"{name} info"
    if "permission denied" in told.lower():
        mend = f"sudo usermod -aG {name} {shlex.quote(found.one('user'))}"
    elif "daemon running" in told or "cannot connect" in told.lower():
        mend = f"sudo systemctl enable --now {name}"
    text = f"{name} is there and can't be used: {told[:200]}"
    return Verdict("containers", State.WARNING, "none", text, on_host(mend))
