"""Ways to the nodes on which jobs run: through the login node, or into them by SSH."""

from __future__ import annotations

import asyncio
import dataclasses

from gate_kit import errors
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.login import Logins
from gate_kit.ssh.one_way import OneWay
from gate_kit.ssh.target import SshTarget
from gate_kit.ssh.transport import Listener, Process, Stream, Transport
from gates.ssh_cluster_gate.plan import SitePlan
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.sites import SlurmSites
from skyport.gate.v1 import types_pb2


class NodeWays:
    """The ways to nodes.

    Args:
        plan: The site.
        sites: Its accounts on the login node.
        jobs: Knows where nodes are.
    """

    def __init__(self, plan: SitePlan, sites: SlurmSites, jobs: SlurmAttempts) -> None:
        self._plan = plan
        self._sites = sites
        self._jobs = jobs
        self._logins = Logins()
        self._made: dict[tuple[str, str], Transport] = {}

    def way(self, ref: types_pb2.JobRef, node: str) -> Transport:
        """The way to a node of an attempt, as the account of its owner.

        Raises:
            Refusal: USER_NOT_MAPPED.
        """
        host = self._sites.hosts(ref)[0]
        login = self._plan.login(ref.owner) or ""
        through = self._sites.login_node
        if self._plan.config.slurm.compute_ssh and not through.is_local:
            made = self._made.get((node, login))
            if made is None:
                via = self._plan.target(through, login)
                target: SshTarget = dataclasses.replace(via, host=node, port=0, via=via)
                made = OneWay(SshTransport(node, target, logins=self._logins))
                self._made[node, login] = made
            return made
        return _Through(node, host.transport, self._jobs.address(ref, node))

    async def close(self) -> None:
        """Let go of all nodes."""
        await asyncio.gather(*(transport.close() for transport in self._made.values()))
        self._logins.close()


class _Through:
    """A node as the login node reaches it: no more than its ports.

    Args:
        node: Its name.
        login: The way to the login node.
        address: Where the login node finds it.
    """

    def __init__(self, node: str, login: Transport, address: str) -> None:
        self.node = node
        self._login = login
        self._address = address

    async def open(self, command: str, *, lasting: bool = False) -> Process:
        """Nothing is run there but by the queue."""
        raise errors.node_unreachable(self.node, f"{self.node} lets nobody in")

    async def connect(self, port: int, address: str = "") -> Stream:
        """Connect to a port of the node."""
        try:
            return await self._login.connect(port, self._address)
        except errors.Refusal as refusal:
            if refusal.reason != "TARGET_REFUSED":
                raise
            raise errors.target_refused(self.node, port) from refusal

    async def listen(self, port: int) -> Listener:
        """Nobody can listen there."""
        raise errors.node_unreachable(self.node, f"{self.node} lets nobody in")

    async def close(self) -> None:
        """Nothing is kept."""
