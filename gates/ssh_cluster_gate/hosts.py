"""The ways to hosts: one for each account on each host, made when it is first wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gate_kit import errors
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.host import Host
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.login import Logins
from gate_kit.ssh.one_way import OneWay
from gate_kit.ssh.transport import Transport
from gates.ssh_cluster_gate.plan import NodePlan, SitePlan
from skyport.gate.v1 import types_pb2

LOOPBACK = "127.0.0.1"


class Hosts:
    """All accounts on all hosts of the site: its `gate_kit.ssh.sites.Sites`.

    Args:
        plan: The site.
        claims_as: As for each `Host`.
    """

    def __init__(self, plan: SitePlan, *, claims_as: str = "") -> None:
        self.on_made: list[Callable[[Host], None]] = []
        """Called with each way that is made, before it is used."""
        self._plan = plan
        self._nodes = plan.nodes
        self._claims_as = claims_as
        self._logins = Logins()
        self._made: dict[tuple[str, str], Host] = {}
        self._addresses = {name: LOOPBACK for name, node in self._nodes.items() if node.is_local}

    @property
    def is_shared(self) -> bool:
        """Whether an account has one work root for all nodes of a partition."""
        return self._plan.config.shared_filesystem

    def hosts(self, ref: types_pb2.JobRef) -> list[Host]:
        """The owner's account on each node of an attempt, rank 0 first.

        Raises:
            Refusal: USER_NOT_MAPPED, PARTITION_NOT_FOUND; NODE_UNREACHABLE for a node that is none
                of the partition's.
        """
        login = self.login(ref.owner)
        nodes = self._plan.partitions.get(ref.partition_id)
        if nodes is None:
            raise errors.partition_not_found(ref.partition_id)
        for name in ref.nodes:
            if name not in nodes:
                raise errors.node_unreachable(name, f"{ref.partition_id} has no node {name}")
        return [self._host(nodes[name], login) for name in ref.nodes]

    def way(self, ref: types_pb2.JobRef, node: str) -> Transport:
        """The way to one node of an attempt, as the account of its owner.

        Raises:
            Refusal: As for `hosts`.
        """
        return next(host.transport for host in self.hosts(ref) if host.node == node)

    def login(self, owner: str) -> str:
        """The account that the jobs of `owner` run as; empty where all owners share one.

        Raises:
            Refusal: USER_NOT_MAPPED.
        """
        login = self._plan.login(owner)
        if login is None:
            raise errors.user_not_mapped(owner)
        return login

    def accounts(self, node: str) -> list[Host]:
        """All accounts on a host."""
        return [self._host(self._nodes[node], login) for login in self._plan.logins]

    def everywhere(self, partition_id: str = "") -> list[Host]:
        """All accounts on all hosts, of one partition or of all."""
        return [
            self._host(node, login)
            for node in self._nodes.values()
            if partition_id in {"", node.partition_id}
            for login in self._plan.logins
        ]

    def addresses(self, partition_id: str) -> dict[str, str]:
        """An address of each node of a partition, as far as it is known."""
        nodes = self._plan.partitions.get(partition_id, {})
        return {name: self._addresses[name] for name in nodes if name in self._addresses}

    def note_address(self, node: str, address: str) -> None:
        """Remember where a host was reached."""
        self._addresses[node] = address

    async def close(self) -> None:
        """Let go of all hosts. What runs there goes on."""
        await asyncio.gather(*(host.close() for host in self._made.values()))
        self._logins.close()

    def _host(self, node: NodePlan, login: str) -> Host:
        host = self._made.get((node.name, login))
        if host is None:
            transport: Transport
            if node.is_local:
                transport = LocalTransport(node.name, self._plan.config.loopback)
            else:
                transport = SshTransport(
                    node.name, self._plan.target(node, login), logins=self._logins
                )
            host = Host(
                OneWay(transport),
                node.partition_id,
                self._plan.config.work_root,
                claims_as=self._claims_as,
            )
            self._made[node.name, login] = host
            for told in self.on_made:
                told(host)
        return host
