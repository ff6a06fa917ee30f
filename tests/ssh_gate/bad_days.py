"""A core with an SSH site of two real hosts, to which bad days come.

Each host is a partition of its own, `one` and `two`, so that a test says where a job runs. Import
`hosts`, `lab` and `latch` in a module of tests: they are its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skyport.terminal.v1 import catalog_pb2
from tests.ssh_gate.harness import SshSite
from tests.system.harness.core import Core, running_sites
from tests.system.harness.files import Tree
from tests.system.harness.jobs import JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.sites import GateProcess
from tests.system.harness.waiting import eventually
from tests.testbed.fixtures import need_root
from tests.testbed.hosts import Bed, BedHost

__all__ = ["AGAIN_S", "SITE", "USER", "HostLatch", "Lab", "hosts", "lab", "latch", "site_config"]

SITE = "lab"
USER = "alice"
PARTITIONS = {"one": "h1", "two": "h2"}
ROOT = f"/home/{USER}/.skyport"
"""The work root, as a host sees it."""
AGAIN_S = 60.0
"""A host or a core that has found no way for a while takes up to half a minute to try again."""

_UP = catalog_pb2.NODE_STATE_UP
_DOWN = catalog_pb2.NODE_STATE_DOWN
_DRAINED = catalog_pb2.NODE_STATE_DRAINED


def site_config(bed: Bed, **more: Any) -> dict[str, Any]:
    """The configuration of a gate for the two hosts."""
    return {
        "partitions": {name: {"hosts": [host]} for name, host in PARTITIONS.items()},
        "host": {host.name: {"address": host.address} for host in bed.hosts},
        "shared_account": True,
        "user": USER,
        "identity": str(bed.key(USER)),
        "known_hosts": str(bed.known_hosts),
        "ssh_config": "",
        "use_agent": False,
        "work_root": "~/.skyport",
        "cpus": 16,
    } | more


class HostLatch(Latch):
    """A latch for scripts on a host.

    Args:
        host: Where they run.
        name: Of a file in its /tmp.
    """

    def __init__(self, host: BedHost, name: str) -> None:
        self._name = name
        super().__init__(host.folder / "tmp" / name)
        self.path.chmod(0o666)

    @property
    def wait(self) -> str:
        """The line of shell that waits."""
        return f"read -r _ < /tmp/{self._name}"

    def close(self) -> None:
        super().close()
        self.path.unlink()


class Lab:
    """The site and its core.

    Args:
        bed: The hosts.
        core: The core.
        gate: The gate, which is started again whenever it has ended.
    """

    def __init__(self, bed: Bed, core: Core, gate: GateProcess) -> None:
        self.bed = bed
        self.core = core
        self.gate = gate

    def host(self, partition: str) -> BedHost:
        return self.bed[PARTITIONS[partition]]

    def submit(
        self, partition: str, script: str, *, inputs: Tree | None = None, user: str = "bo"
    ) -> JobHandle:
        """Submit a script that runs on the host of a partition."""
        head, _, rest = script.partition("\n") if script.startswith("#!") else ("", "", script)
        text = f"{head or '#!/bin/sh'}\n#SWM partition {partition}\n{rest}"
        return self.core.user(user).submit(text, inputs=inputs, site=SITE)

    def node(self, partition: str) -> catalog_pb2.Node:
        """The host as the core tells of it."""
        request = catalog_pb2.ListNodesRequest(partition_id=partition, site=SITE)
        (node,) = self.core.admin.catalog.ListNodes(request, timeout=30).nodes
        return node

    def up(self, *partitions: str) -> None:
        """Wait until hosts are told to be up: these, or all."""
        for name in partitions or PARTITIONS:
            self._until_node(name, _UP, "")

    def down(self, partition: str, why: str = "") -> None:
        """Wait until a host is told to be down, for a reason in whose text `why` stands."""
        self._until_node(partition, _DOWN, why)

    def drained(self, partition: str, why: str) -> None:
        """Wait until a host is told to take nothing new, for a reason with `why` in it."""
        self._until_node(partition, _DRAINED, why)

    def _until_node(self, partition: str, state: catalog_pb2.NodeState.ValueType, why: str) -> None:
        def is_so() -> bool:
            node = self.node(partition)
            return node.state == state and why in node.message

        what = f"{partition} is {catalog_pb2.NodeState.Name(state)}"
        try:
            eventually(is_so, what, within_s=AGAIN_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.node(partition)}") from None

    def port(self, job: JobHandle) -> tuple[str, int]:
        """Where the one port of a job is reached, once the core listens for it."""

        def found() -> str:
            ports = [port for node in job.get().nodes for port in node.ports]
            return ports[0].local_address if ports else ""

        place, _, number = eventually(found, "the core listens").rpartition(":")
        return place, int(number)

    def restart_gate(self) -> None:
        """Kill the gate, and wait until the core has another one."""
        self.kill_gate()
        self.core.wait_ready(SITE, within_s=AGAIN_S)

    def kill_gate(self) -> None:
        """Kill the gate, and wait until another one is there, whether or not the core knows."""
        starts = self.gate.starts
        self.gate.kill()
        eventually(lambda: self.gate.starts > starts, "the gate is started again")

    # The cable of a host.

    def traffic(self, partition: str) -> tuple[int, int]:
        """How many bytes a host has received, and sent."""
        for line in (self._of_host(partition) / "net/dev").read_text().splitlines():
            name, _, counts = line.partition(":")
            if name.strip() == "eth0":
                numbers = counts.split()
                return int(numbers[0]), int(numbers[8])
        raise AssertionError(f"{partition} has no cable")

    @contextlib.contextmanager
    def slowed(self, partition: str, rate: str = "40mbit") -> Iterator[None]:
        """Let no more pass to and from a host than `rate`, as tc takes it."""
        host = self.host(partition)
        limit = ["root", "tbf", "rate", rate, "burst", "64k", "latency", "100ms"]
        switch = ["tc", "-n", f"{self.bed.prefix}-sw", "qdisc"]
        inside = host.command("tc", "qdisc")
        cables = (switch, f"to-{host.name}"), (inside, "eth0")
        for command, cable in cables:
            subprocess.run([*command, "add", "dev", cable, *limit], check=True)
        try:
            yield
        finally:
            for command, cable in cables:
                subprocess.run([*command, "del", "dev", cable, "root"], check=True)

    # What lies on a host.

    def inside(self, partition: str, path: str = "") -> Path:
        """A path as the host sees it, also on what is mounted there."""
        return Path(f"{self._of_host(partition)}/root{path}")

    def _of_host(self, partition: str) -> Path:
        """What /proc has of the process that all enter the host by."""
        enter = self.host(partition).command()
        return Path("/proc", enter[enter.index("-t") + 1])

    def attempt(self, partition: str, job: JobHandle, attempt: int = 1) -> Path | None:
        """The folder of an attempt; None if there is none."""
        root = self.inside(partition, ROOT)
        return next(root.glob(f"jobs/*/*/{job.job_id}.{attempt}"), None)

    def cleared(self, partition: str, job: JobHandle) -> None:
        """Wait until nothing of the job is left on its host, and nothing of it runs."""
        eventually(lambda: self.attempt(partition, job) is None, f"{job.job_id} has no folder")
        assert not self.processes(partition, job)

    def processes(self, partition: str, job: JobHandle) -> str:
        """The processes of a job on its host, a line each."""
        mark = f"SWM_JOB_ID={job.job_id}"
        return self.host(partition).run(f"grep -lsz '^{mark}$' /proc/[0-9]*/environ || :")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Bed]:
    """Two hosts."""
    need_root()
    with Bed() as bed:
        yield bed


@pytest.fixture(scope="module")
def lab(hosts: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A core with a site on the hosts, which are as new."""
    folder = tmp_path_factory.mktemp("lab")
    endpoint = f"unix://{folder}/s/gate.sock"
    site = SshSite.make(SITE, folder / SITE, site_config(hosts), endpoint=endpoint)
    with contextlib.closing(GateProcess(site)) as gate:
        gate.keep_running()
        with running_sites(folder, [site]) as core:
            lab = Lab(hosts, core, gate)
            lab.up()
            yield lab


@pytest.fixture
def latch(lab: Lab) -> Iterator[Callable[[str], HostLatch]]:
    """Makes latches on the hosts of partitions, as many as a test needs."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(partition: str) -> HostLatch:
            made = HostLatch(lab.host(partition), f"latch{next(numbers)}.{os.getpid()}")
            return stack.enter_context(contextlib.closing(made))

        yield make
