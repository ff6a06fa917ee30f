"""The network of VMs: a switch in a namespace of its own, past all firewalls of this machine.

This machine is at the switch too, with an address as the gateway of VMs, and another that its
connections to them come from, which can change as that of a laptop on the move does. Each virtual
network has a block of addresses. Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.testbed.azure_arm.vms.backend import Rule
from tests.testbed.network import ip
from tests.testbed.processes import until

__all__ = ["Fabric"]

_NUMBERS = 16
_FIRST = 84
_BLOCK = 26


class Fabric:
    """One such network. What it makes is named by `prefix`, and its files are in `folder`."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._blocks: dict[str, ipaddress.IPv4Network] = {}
        self._taken: set[str] = set()
        self._egress = 2

    def open(self) -> None:
        """Make it."""
        with contextlib.ExitStack() as undo:
            number = undo.enter_context(_number())
            self.prefix = f"swmaz{number}"
            self.net = ipaddress.IPv4Network(f"10.{_FIRST + number}.0.0/16")
            clear(self.prefix)
            undo.callback(clear, self.prefix)
            # Not below /tmp: VMs may have one of their own.
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-", dir="/var/tmp"))
            self.folder.chmod(0o755)
            switch = f"{self.prefix}-sw"
            ip("netns", "add", switch)
            ip("-n", switch, "link", "add", "br0", "type", "bridge")
            ip("-n", switch, "link", "set", "br0", "up")
            ip("link", "add", self.prefix, "type", "veth", "peer", "name", "here", "netns", switch)
            ip("-n", switch, "link", "set", "here", "master", "br0", "up")
            ip("addr", "add", f"{self.net[1]}/16", "dev", self.prefix)
            ip("link", "set", self.prefix, "up")
            self._set_egress()
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Remove it, and all that is in it."""
        self._undo.close()

    def spaces(self) -> list[str]:
        """The namespaces that there are, but the switch's."""
        listed = (line.split(" ")[0] for line in ip("netns", "list").split("\n"))
        return [
            it for it in listed if it.startswith(f"{self.prefix}-") and it != f"{self.prefix}-sw"
        ]

    @property
    def gateway(self) -> str:
        """Where connections of this machine to VMs come from."""
        return str(self.net[self._egress])

    def move_gateway(self) -> str:
        """Have them come from another address, and those that are open be dead."""
        before = self.gateway
        self._egress = self._egress % 250 + 1
        self._egress = max(self._egress, 2)
        self._set_egress()
        ip("addr", "del", f"{before}/32", "dev", self.prefix)
        return self.gateway

    def _set_egress(self) -> None:
        ip("addr", "add", f"{self.gateway}/32", "dev", self.prefix)
        route = ("route", "replace", str(self.net), "dev", self.prefix, "src", self.gateway)
        ip(*route)

    def reserve(self, network: str) -> str:
        """An address in the block of a virtual network."""
        block = self._blocks.get(network)
        if block is None:
            used = set(self._blocks.values())
            # The first of them are this machine's own.
            blocks = list(self.net.subnets(new_prefix=_BLOCK))[4:]
            block = next(it for it in blocks if it not in used)
            self._blocks[network] = block
        for address in block.hosts():
            if str(address) not in self._taken:
                self._taken.add(str(address))
                return str(address)
        raise AssertionError(
            f"the stand-in has no more than {block.num_addresses} addresses in a vnet"
        )

    def release(self, address: str) -> None:
        """It is not needed any more; nor is its block, if it was the last of it."""
        self._taken.discard(address)
        for network, block in list(self._blocks.items()):
            if ipaddress.ip_address(address) in block and not any(
                ipaddress.ip_address(it) in block for it in self._taken
            ):
                del self._blocks[network]

    def attach(self, space: str, port: str, address: str) -> None:
        """Connect a network namespace, which `space` is a path of, to the switch."""
        switch = f"{self.prefix}-sw"
        # The same for the same address, or whoever knew the one before would not find it for long.
        hardware = "02:00:" + ":".join(f"{it:02x}" for it in ipaddress.ip_address(address).packed)
        lines = [
            f"link add eth0 address {hardware} type veth peer name {port}",
            f"link set {port} netns /run/netns/{switch}",
            f"addr add {address}/16 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via {self.net[1]}",
        ]
        text = "".join(f"{line}\n" for line in lines)
        _run("nsenter", f"--net={space}", "ip", "-batch", "-", stdin=text)
        ip("-n", switch, "link", "set", port, "master", "br0", "up")

    def detach(self, port: str) -> None:
        """Have it be connected no more, if it was; a namespace takes its end with it, but later."""
        words = ["ip", "-n", f"{self.prefix}-sw", "link", "del", port]
        subprocess.run(words, capture_output=True, check=False)

    def filter(self, space: str, address: str, rules: list[Rule]) -> None:
        """Have a namespace let in what comes from its virtual network, and what rules allow."""
        block = ipaddress.IPv4Network(f"{address}/{_BLOCK}", strict=False)
        # Before routing, so that ports that containers publish are as closed as others.
        lines = [
            "*mangle",
            "-F PREROUTING",
            "-A PREROUTING ! -i eth0 -j ACCEPT",
            "-A PREROUTING -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            f"-A PREROUTING -s {block} -j ACCEPT",
            *(line for rule in rules for line in _lines(rule)),
            "-A PREROUTING -j DROP",
            "COMMIT",
        ]
        text = "".join(f"{line}\n" for line in lines)
        _run("nsenter", f"--net={space}", "iptables-restore", "--noflush", stdin=text)

    def shut(self, space: str, port: int) -> None:
        """Have a namespace answer at a port as if nothing listened there, until `unshut`."""
        rule = ("INPUT", "-p", "tcp", "--dport", str(port))
        reject = ("-j", "REJECT", "--reject-with", "tcp-reset")
        _run("nsenter", f"--net={space}", "iptables", "-w", "-I", *rule, *reject)

    def unshut(self, space: str) -> None:
        """Let in again whoever is let in by `filter`."""
        _run("nsenter", f"--net={space}", "iptables", "-w", "-F", "INPUT")


def _lines(rule: Rule) -> Iterator[str]:
    target = "ACCEPT" if rule.allow else "DROP"
    start = "-A PREROUTING" + ("" if rule.source == "*" else f" -s {rule.source}")
    protocols = {"*": [""], "tcp": ["tcp"], "udp": ["udp"]}.get(rule.protocol, [rule.protocol])
    for port in rule.ports or ("*",):
        if port == "*":
            for protocol in protocols:
                yield f"{start}{f' -p {protocol}' if protocol else ''} -j {target}"
            continue
        for protocol in ["tcp", "udp"] if protocols == [""] else protocols:
            yield f"{start} -p {protocol} --dport {port.replace('-', ':')} -j {target}"


def _run(*words: str, stdin: str = "") -> None:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    done = subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def _number() -> Iterator[int]:
    """A number that no other such network has meanwhile."""
    for number in range(_NUMBERS):
        with Path("/var/tmp", f"swmaz{number}.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield number
            return
    raise AssertionError(f"{_NUMBERS} stand-ins are up")


def clear(prefix: str) -> None:
    """Remove all that is of one, also if it was killed."""
    listed = ip("netns", "list").split("\n")
    for space in (line.split(" ")[0] for line in listed if line.startswith(f"{prefix}-")):
        remove_space(space)
    until(lambda: f"{prefix}@" not in ip("-o", "link"), f"{prefix} is still there")
    for folder in Path("/var/tmp").glob(f"{prefix}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def remove_space(space: str) -> None:
    """Remove a namespace, and end what is in it."""
    empty_space(space)
    ip("netns", "del", space)


def empty_space(space: str) -> None:
    """End what is in a namespace, and return when it is gone."""

    def is_empty() -> bool:
        pids = ip("netns", "pids", space).split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    until(is_empty, f"{space} is in use")
