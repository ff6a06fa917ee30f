"""All attempts that hosts have, and the hosts that can't be asked for them."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import AsyncIterator, Sequence

from gate_kit import Operations, Refusal, WatchHub
from gate_kit.job_status import Phase
from gate_kit.ssh import evidence
from gate_kit.ssh.evidence import OnHost
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import Jobs
from gate_kit.ssh.layout import AttemptKey
from skyport.gate.v1 import job_pb2, types_pb2

log = logging.getLogger(__name__)


class Overview:
    """Lists attempts, and tells watchers of nodes whose attempts are not known.

    Args:
        jobs: Whose attempts they are.
        operations: Owns what is told later.
        hub: Told of nodes that go and come.
    """

    def __init__(self, jobs: Jobs, operations: Operations, hub: WatchHub[job_pb2.JobEvent]) -> None:
        self._jobs = jobs
        self._operations = operations
        self._hub = hub
        self._unreachable: dict[Host, types_pb2.UnreachableNode] = {}
        self._asked: set[Host] = set()
        """Of those, who are being asked whether they answer again."""

    async def snapshot(
        self, installation: str, partition_id: str = ""
    ) -> AsyncIterator[job_pb2.JobStatus]:
        """All attempts that can be seen, in order of job and attempt.

        Nodes that can't be seen are told by `unreachable` afterwards.
        """
        found: dict[AttemptKey, dict[str, OnHost]] = collections.defaultdict(dict)
        hosts = self._jobs.sites.everywhere(partition_id)
        listings = await asyncio.gather(*(self._listing(host, installation) for host in hosts))
        for host, listing in zip(hosts, listings, strict=True):
            for on_host in listing.values():
                told = evidence.told_ref(on_host.lasting)
                if told is not None and self._is_owners(host, told):
                    found[AttemptKey.of(told)][on_host.node] = on_host
        for key in sorted(found):
            status = await self._listed(key, found[key])
            if status is not None:
                yield status

    async def _listing(self, host: Host, installation: str) -> dict[str, OnHost]:
        if host in self._unreachable and host.facts is None:
            # One that has never answered keeps nobody waiting.
            self._ask_again(host)
            return {}
        try:
            reply = await host.ask("list", installation)
        except Refusal as refusal:
            self._note_unreachable(host, refusal.message)
            return {}
        if host in self._unreachable:
            self._ask_again(host)
        return evidence.read_list(host.node, reply)

    def _is_owners(self, host: Host, ref: types_pb2.JobRef) -> bool:
        """Whether what lies in an account is of an owner whose account it is."""
        try:
            return host in self._jobs.sites.hosts(ref)
        except Refusal:
            return False

    async def _listed(
        self, key: AttemptKey, on_nodes: dict[str, OnHost]
    ) -> job_pb2.JobStatus | None:
        first = next(iter(on_nodes.values()))
        lasting = next((each.lasting for each in on_nodes.values() if each.spec), first.lasting)
        if lasting.spec is not None:
            self._jobs.known.keep(key, lasting)
            ref, needed = lasting.spec.ref, evidence.nodes_of(lasting.spec)
        elif lasting.labels is not None:
            ref = lasting.labels.ref
            needed = list(ref.nodes)
        else:
            return None  # its folder is being made
        if any(node not in on_nodes for node in needed):
            return None  # not known: a node of it can't be seen
        on_hosts = [on_nodes[node] for node in needed]
        if any(on_host.phase is Phase.LOST for on_host in on_hosts):
            try:
                return await self._jobs.status(ref)
            except Refusal:
                return None
        return self._jobs.judge(ref, on_hosts)

    def unreachable(self) -> Sequence[types_pb2.UnreachableNode]:
        """Nodes whose attempts are not known now."""
        told = self._unreachable.values()
        return list({(each.partition_id, each.name): each for each in told}.values())

    def forget(self, host: Host) -> None:
        """The node is gone for good: nothing is unknown of it any more."""
        self._unreachable.pop(host, None)
        self._asked.discard(host)

    async def node_unreachable(self, node: str, text: str, partition_id: str = "") -> None:
        """Tell watchers that a node stopped answering.

        Args:
            node: Which.
            text: Why, for people.
            partition_id: Its partition, where a name is not one node's alone.
        """
        for host in self._jobs.sites.everywhere(partition_id):
            if host.node == node:
                self._note_unreachable(host, text)

    def _note_unreachable(self, host: Host, text: str) -> None:
        if host in self._unreachable:
            return
        told = types_pb2.UnreachableNode(
            name=host.node, message=text, partition_id=host.partition_id
        )
        self._unreachable[host] = told
        key = ("node", host.partition_id, host.node)
        self._hub.publish(key, job_pb2.JobEvent(unreachable=told))

    async def node_reachable(self, node: str, partition_id: str = "") -> None:
        """Tell the attempts of a node that answers again, then that it does."""
        for host in self._jobs.sites.everywhere(partition_id):
            if host.node == node and host in self._unreachable:
                await self._back(host)

    def _ask_again(self, host: Host) -> None:
        """Find out whether an account answers again; discovery may know another of its node."""
        if host not in self._asked:
            self._asked.add(host)
            self._operations.spawn(self._return_of(host), f"return of {host.node}")

    async def _return_of(self, host: Host) -> None:
        try:
            await self._back(host)
        finally:
            self._asked.discard(host)

    async def _back(self, host: Host) -> None:
        try:
            listing = evidence.read_list(host.node, await host.ask("list", "*"))
        except Refusal:
            return  # it went again, or it was another account that answers
        async for status in self._of_node(listing):
            self._jobs.tell(AttemptKey.of(status.ref), status)
        self._unreachable.pop(host, None)
        others = ((other.partition_id, other.node) for other in self._unreachable)
        if (host.partition_id, host.node) not in others:
            back = types_pb2.NodeRef(partition_id=host.partition_id, node=host.node)
            key = ("node", host.partition_id, host.node)
            self._hub.publish(key, job_pb2.JobEvent(reachable_node=back))

    async def _of_node(self, listing: dict[str, OnHost]) -> AsyncIterator[job_pb2.JobStatus]:
        for path, on_host in listing.items():
            ref = evidence.told_ref(on_host.lasting)
            if ref is None:
                continue
            try:
                status = await self._jobs.status(ref)
            except Refusal as refusal:
                log.info("%s: %s", path, refusal.message)
                continue
            if status is not None:
                yield status
