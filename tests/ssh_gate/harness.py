"""A real SSH gate as a process, and hosts for it: this machine itself, and by sshd."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from skyport.gate.v1 import identity_pb2, inventory_pb2, partition_pb2, types_pb2
from tests.fake_gate import harness
from tests.fake_gate.harness import WITHIN_S, eventually, make_ref
from tests.ssh.sshd import Sshd
from tests.system.harness.sites import Site


class Gate(harness.Gate):
    """An SSH gate of one site, which can be killed and started again.

    Args:
        folder: Holds its files; short, since a socket lies there.
        config: Its configuration; work_root is a folder of its own if it is not given.
    """

    module = "gates.ssh_cluster_gate"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__(folder, config)
        self.config = {"work_root": str(self.site), **config}

    async def probe(self) -> identity_pb2.ProbeResponse:
        answer: identity_pb2.ProbeResponse = await self.identity.Probe(
            identity_pb2.ProbeRequest(), timeout=1.0
        )
        return answer

    async def ready(self) -> identity_pb2.ProbeResponse:
        """Wait until it has found its hosts."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                answer = await self.probe()
                if answer.ready:
                    return answer
                await asyncio.sleep(0.02)  # a probe is all there is to ask

    async def nodes(self, partition_id: str = "") -> dict[str, inventory_pb2.Node]:
        request = inventory_pb2.ListNodesRequest(partition_id=partition_id)
        answer = await self.inventory.ListNodes(request)
        return {node.name: node for node in answer.nodes}

    async def until_node(
        self, name: str, check: Callable[[inventory_pb2.Node], object]
    ) -> inventory_pb2.Node:
        """The first state of a node, as the watch tells it, for which `check` holds."""
        async with contextlib.aclosing(self.partition_events()) as events:
            async for event in events:
                told = [event.node] if event.HasField("node") else list(event.partition.nodes)
                for node in told:
                    if node.name == name and check(node):
                        return node
        raise AssertionError("the watch ended")

    async def up(self, *names: str) -> None:
        """Wait until these nodes are up."""
        for name in names:
            await self.until_node(name, is_up)

    async def jobs_boundary(self) -> types_pb2.SnapshotEnd:
        """What a watch of jobs says after its snapshot."""
        async with contextlib.aclosing(self.watch()) as events:
            async for event in events:
                if event.HasField("snapshot_end"):
                    return event.snapshot_end
        raise AssertionError("the watch ended")

    async def partition_events(self) -> AsyncGenerator[partition_pb2.PartitionEvent, None]:
        call = self.partitions.WatchPartitions(partition_pb2.WatchPartitionsRequest())
        try:
            async with asyncio.timeout(WITHIN_S * 2):
                async for answer in call:
                    for event in answer.events:
                        yield event
        finally:
            call.cancel()


def is_up(node: inventory_pb2.Node) -> bool:
    return node.state == inventory_pb2.NODE_STATE_UP


def is_down(node: inventory_pb2.Node) -> bool:
    return node.state == inventory_pb2.NODE_STATE_DOWN


def local_ref(job_id: str = "job-1", **fields: Any) -> types_pb2.JobRef:
    """An attempt on this machine."""
    return make_ref(job_id, "localhost", **fields)


class Cluster:
    """Hosts that are ports of this machine, each with a home of its own.

    Args:
        folder: Where their files go.
        names: Of the hosts.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.hosts: dict[str, Sshd] = {}
        for name in names:
            home = folder / name / "home"
            home.mkdir(parents=True)
            self.hosts[name] = Sshd(folder / name, environment={"HOME": str(home)})
        self.trust()

    def home(self, name: str) -> Path:
        """The home folder on a host."""
        return self.folder / name / "home"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def trust(self) -> None:
        """Have the present host keys be those that are known."""
        for host in self.hosts.values():
            host.trust()
        self.known_hosts.write_text(
            "".join(host.known_hosts.read_text() for host in self.hosts.values())
        )

    def config(self, **more: Any) -> dict[str, Any]:
        """The configuration of a gate for them, with one partition `lab`."""
        return {
            "hosts": list(self.hosts),
            "partition": "lab",
            "shared_account": True,
            "work_root": "~/.skyport",
            "ssh_config": "",
            "use_agent": False,
            "known_hosts": str(self.known_hosts),
            **more,
            "host": {
                name: {"address": "127.0.0.1", "port": host.port, "identity": str(host.key)}
                for name, host in self.hosts.items()
            }
            | more.get("host", {}),
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """Have all of them answer while the context lasts."""
        try:
            for host in self.hosts.values():
                host.start()
            yield self
        finally:
            for host in self.hosts.values():
                host.stop()


class SshSite(Site):
    """A site of this kind in the configuration of a core. Its work root is on this machine."""

    @classmethod
    def make(
        cls, name: str, folder: Path, config: Mapping[str, Any], *, endpoint: str = ""
    ) -> SshSite:
        """Write the configuration of a gate."""
        folder.mkdir(parents=True)
        settings = {"work_root": str(folder / "site"), **config}
        (folder / "gate.toml").write_text(tomlkit.dumps(settings))
        return cls(name, folder, endpoint)

    @property
    def command(self) -> list[str]:
        """What starts its gate; `--listen` is to be appended."""
        file = str(self.folder / "gate.toml")
        return [sys.executable, "-m", "gates.ssh_cluster_gate", "--config", file]

    def faults(self, *faults: Mapping[str, Any]) -> None:
        """There are none: what goes wrong here is real."""


__all__ = ["Cluster", "Gate", "SshSite", "eventually", "is_down", "is_up", "local_ref"]
