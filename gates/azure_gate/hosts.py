"""The ways to nodes: the first of a partition by its public address, the others through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gate_kit import errors
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.host import Host
from gate_kit.ssh.login import Logins
from gate_kit.ssh.one_way import OneWay
from gate_kit.ssh.target import SshTarget
from gate_kit.ssh.transport import Transport
from gates.azure_gate.cloud_init import LOGIN_CONTAINERS, LOGIN_PLAIN
from gates.azure_gate.keys import Keys
from gates.azure_gate.partitions import READY, Known, Partitions
from gates.azure_gate.tags import Tags
from skyport.gate.v1 import types_pb2

WORK_ROOT = "~/.skyport"


def login(tags: Tags) -> str:
    """The account of the partition's jobs."""
    return LOGIN_CONTAINERS if tags.spec.containers else LOGIN_PLAIN


class Hosts:
    """All nodes of all partitions: the gate's `gate_kit.ssh.sites.Sites`.

    Args:
        partitions: Which there are.
        keys: What gets us in, and what nodes show.
    """

    def __init__(self, partitions: Partitions, keys: Keys) -> None:
        self.on_made: list[Callable[[Host], None]] = []
        """Called with each way that is made, before it is used."""
        self._partitions = partitions
        self._keys = keys
        self._logins: dict[str, Logins] = {}
        """By partition: a jump through one's first node leads to its others only."""
        self._made: dict[tuple[str, str], Host] = {}
        self._first: dict[tuple[str, str], SshTransport] = {}
        """The ways by which nodes were seen to be ready, until they have hosts."""
        self._closing: set[asyncio.Task[None]] = set()
        partitions.on_gone.append(self._gone)

    @property
    def is_shared(self) -> bool:
        """No: each node has a disk of its own."""
        return False

    def hosts(self, ref: types_pb2.JobRef) -> list[Host]:
        """Each node of an attempt, rank 0 first.

        Raises:
            Refusal: PARTITION_NOT_READY, NODE_UNREACHABLE, SITE_UNREACHABLE.
        """
        known = self._partitions.find(ref.partition_id)
        if known is None or known.tags.owner != ref.owner:
            # Not known is not gone: who asks for the partition itself is told.
            self._partitions.place(ref.partition_id)
            raise errors.user_not_mapped(ref.owner)
        for name in ref.nodes:
            if name not in known.tags.nodes:
                raise errors.node_unreachable(name, f"{ref.partition_id} has no node {name}")
        return [self.host(known, name) for name in ref.nodes]

    def way(self, ref: types_pb2.JobRef, node: str) -> Transport:
        """The way to one node of an attempt.

        Raises:
            Refusal: As for `hosts`.
        """
        return next(host.transport for host in self.hosts(ref) if host.node == node)

    def everywhere(self, partition_id: str = "") -> list[Host]:
        """All nodes that can take jobs, of one partition or of all."""
        return [
            self.host(known, node)
            for known in self._partitions.known.values()
            if partition_id in {"", known.id} and known.state == READY
            for node in known.nodes
            if self.address(known, node)
        ]

    def addresses(self, partition_id: str) -> dict[str, str]:
        """Where nodes reach each other."""
        known = self._partitions.find(partition_id)
        return dict(known.content.private) if known else {}

    def host(self, known: Known, node: str) -> Host:
        """The way to a node.

        Raises:
            Refusal: NODE_UNREACHABLE: it has no address yet.
        """
        made = self._made.get((known.id, node))
        if made is None:
            transport = self._first.pop((known.id, node), None) or self.first_way(known, node)
            # A job may take the key out of its own account: that is no word for all machines.
            made = self._made[known.id, node] = Host(OneWay(transport), known.id, WORK_ROOT)
            for told in self.on_made:
                told(made)
        return made

    def first_way(self, known: Known, node: str) -> SshTransport:
        """A way to a node that boots: `leave` it.

        Raises:
            Refusal: NODE_UNREACHABLE: it has no address yet.
        """
        return SshTransport(node, self.target(known, node), logins=self._logins_of(known))

    async def leave(self, known: Known, node: str, way: SshTransport, *, is_ready: bool) -> None:
        """Keep a first way for what comes, or close it.

        Args:
            known: The node's partition.
            node: Which.
            way: What `first_way` gave.
            is_ready: Whether the node is ready for jobs.
        """
        key = (known.id, node)
        # For the login's groups, see `_logins_of`.
        is_over = known.tags.spec.containers or known.is_deleting or not is_ready
        if is_over or key in self._made or key in self._first:
            await way.close()
        else:
            self._first[key] = way

    def address(self, known: Known, node: str) -> str:
        """Where a node is reached; empty if that is not known yet."""
        if node == known.tags.nodes[0]:
            return known.content.public.get(node, "")
        return known.content.private.get(node, "")

    def target(self, known: Known, node: str) -> SshTarget:
        """How ssh gets to a node.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        address = self.address(known, node)
        if not address:
            raise errors.node_unreachable(
                node, f"{node} of {known.id} has no address yet", retry_after_s=1.0
            )
        tags = known.tags
        first = tags.nodes[0]
        known_hosts = self._keys.known_hosts(known.group.name.lower(), tags.host_key)
        via = None if node == first else self.target(known, first)
        return _target(address, login(tags), known_hosts, self._keys.file, via)

    async def drop(self, known: Known) -> None:
        """Let go of a partition's nodes: they boot anew, or are gone."""
        made = [self._made.pop(key) for key in list(self._made) if key[0] == known.id]
        first = [self._first.pop(key) for key in list(self._first) if key[0] == known.id]
        closing = [host.close() for host in made] + [way.close() for way in first]
        await asyncio.gather(*closing)
        if logins := self._logins.pop(known.id, None):
            logins.close()

    async def close(self) -> None:
        """Let go of all nodes. What runs there goes on."""
        closing = [host.close() for host in self._made.values()]
        await asyncio.gather(*closing, *(way.close() for way in self._first.values()))
        for logins in self._logins.values():
            logins.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _logins_of(self, known: Known) -> Logins:
        # A login has the groups that its account had when it came, and that of containers gets
        # docker's while the node boots: one that came early is good for a way only.
        return self._logins.setdefault(known.id, Logins(is_shared=not known.tags.spec.containers))

    def _gone(self, known: Known) -> None:
        self._keys.forget(known.group.name.lower())
        task = asyncio.create_task(self.drop(known))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _target(
    address: str, user: str, known_hosts: Path, identity: Path, via: SshTarget | None
) -> SshTarget:
    """Nothing of what else is configured for ssh here, and no agent."""
    return SshTarget(
        host=address,
        user=user,
        port=22,
        config=None,
        known_hosts=known_hosts,
        identities=(identity,),
        use_agent=False,
        via=via,
    )
