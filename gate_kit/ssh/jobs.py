"""Attempts on hosts: found, judged and told of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from gate_kit import WatchHub, job_status
from gate_kit.bells import Bells
from gate_kit.job_status import Phase
from gate_kit.ssh import evidence
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.containers import Containers
from gate_kit.ssh.evidence import Lasting, OnHost
from gate_kit.ssh.glances import Glances
from gate_kit.ssh.host import Host
from gate_kit.ssh.known import Known
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.shell import Reply
from gate_kit.ssh.sites import Sites
from skyport.gate.v1 import job_pb2, types_pb2


class Jobs:
    """All attempts of a site.

    Args:
        sites: Its hosts.
        hub: Told of every change.
        containers: Those that attempts run in.
        lost: Why a node of an attempt is gone for good, as `PREEMPTED`; empty: it is not.
    """

    def __init__(
        self,
        sites: Sites,
        hub: WatchHub[job_pb2.JobEvent],
        containers: Containers,
        lost: Callable[[types_pb2.JobRef, str], str] = lambda ref, node: "",
    ) -> None:
        self.bells = Bells()
        """Rung, by keys, when an attempt has changed."""
        self.known = Known()
        self.sites = sites
        self.containers = containers
        self._glances = Glances()
        self._hub = hub
        self._lost = lost

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is there but a tombstone.

        The end of what was lost is written down.

        Raises:
            Refusal: NODE_UNREACHABLE, SITE_CHANGED, USER_NOT_MAPPED, PARTITION_NOT_FOUND.
        """
        on_hosts = await self.look(ref)
        untold = evidence.vanished(on_hosts)
        if untold or any(on_host.phase is Phase.LOST for on_host in on_hosts):
            await self._settle(ref, on_hosts)
            await self._bury(ref, [each.node for each in untold if not each.is_buried])
            on_hosts = await self.look(ref)
        return self.judge(ref, on_hosts)

    def just_seen(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """How an attempt that goes on was seen a moment ago; None: it has to be asked for."""
        return self.known.just_seen(ref)

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        """Whether the attempt has a tombstone.

        Raises:
            Refusal: As for `status`.
        """
        return any(on_host.is_buried for on_host in await self.look(ref))

    def place(self, status: job_pb2.JobStatus, node: str) -> tuple[Host, str]:
        """Where what a node writes lies, and what stands for the node in names of files there.

        Args:
            status: The attempt as it is.
            node: One of its nodes; empty is the one of rank 0.

        Raises:
            Refusal: As for `sites.hosts`.
        """
        hosts = {host.node: host for host in self.sites.hosts(status.ref)}
        name = node or next(iter(hosts))
        return hosts[name], name

    async def look(self, ref: types_pb2.JobRef) -> list[OnHost]:
        """What each host of the attempt has of it.

        Raises:
            Refusal: As for `status`.
        """
        key = AttemptKey.of(ref)
        known = self.known.lasting(key)
        needed = list(self.known.nodes(ref))
        lost = {node: reason for node in needed if (reason := self._lost(ref, node))}
        hosts = self.sites.hosts(ref) if len(lost) < len(needed) else ()
        there = {host.node: host for host in hosts if host.node not in lost}
        asked = (self.look_at(ref, there[node], known) for node in needed if node in there)
        with as_refusals(ref):
            answers = {each.node: each for each in await asyncio.gather(*asked)}
        seen = self.known.last(ref)
        found = [
            answers.get(node) or evidence.on_lost(ref, node, lost[node], known, seen)
            for node in needed
            if node in there or node in lost
        ]
        lasting = next((each.lasting for each in found if each.spec), None)
        if lasting is not None:
            self.known.keep(key, lasting)
        return found

    async def look_at(
        self, ref: types_pb2.JobRef, host: Host, known: Lasting | None = None
    ) -> OnHost:
        """What one host has of the attempt.

        Args:
            ref: Which.
            host: Where.
            known: What never changes of it, so as not to be asked for it again.

        Raises:
            HostRefused: SITE_CHANGED (see `as_refusals`).
            Refusal: NODE_UNREACHABLE.
        """
        path, root_uid = AttemptKey.of(ref).path, root_of(ref, host.node)
        if known is not None:
            reply = Reply(await self._glances.of(host).look(path, root_uid))
        else:
            reply = await host.ask("status", path, root_uid, "all")
        return evidence.read_status(host.node, reply, known, of=ref)

    def judge(self, ref: types_pb2.JobRef, on_hosts: Sequence[OnHost]) -> job_pb2.JobStatus | None:
        """What follows from what hosts have of an attempt; notes whether it goes on."""
        key = AttemptKey.of(ref)
        for on_host in on_hosts:
            if on_host.phase is not Phase.UNCLAIMED:
                self.known.arrived(key, on_host.node)
        preparing = self.known.preparing.get(key)
        is_starting = preparing is not None or any(
            self.known.sent_for_s(key, node) is not None for node in ref.nodes
        )
        status = evidence.judge(
            on_hosts,
            is_starting=is_starting,
            is_shared=self.sites.is_shared,
            now_ns=time.time_ns(),
        )
        if status is None:
            pass  # `publish` says what has become of it
        elif status.HasField("end"):
            self.known.ended(key)
        elif status.state == job_pb2.JOB_STATE_STAGED:
            self.known.live.pop(key, None)
        else:
            self.known.live[key] = _with_roots(status)
            self.known.saw(key, status)
            if status.state == job_pb2.JOB_STATE_STARTING and preparing:
                status.text = preparing
        return status

    async def publish(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """Tell watchers how the attempt is now, and return it.

        Raises:
            Refusal: As for `status`.
        """
        key = AttemptKey.of(ref)
        status = await self.status(ref)
        if status is None and (live := self.known.live.get(key)) is not None:
            status = await self._traceless(live)
        self.tell(key, status)
        return status

    async def _traceless(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """What to tell of an attempt that was started, and that has deleted all that tells of it.

        Nobody would ask for it otherwise: nothing is told of what is gone. None: not known yet.
        """
        key = AttemptKey.of(ref)
        lasting = self.known.lasting(key)
        if lasting is None or lasting.spec is None or await self.never_starts(ref):
            self.known.live.pop(key, None)
            return None
        nodes = self.known.nodes(ref)
        if not await self._bury(ref, nodes):
            return None  # it is looked at again
        self.known.live.pop(key, None)
        end = job_status.End("failure", job_status.END_UNKNOWN, 0.0, time.time_ns())
        status = job_status.beginning(lasting.spec, ref.roots)
        job_status.end(status, [(node, end) for node in nodes])
        return status

    async def _bury(self, ref: types_pb2.JobRef, nodes: Sequence[str]) -> bool:
        """See to it that what has run, and left no trace, is neither started again nor waited for.

        Returns:
            Whether it was done: not while anything of it is alive on one of these nodes.
        """
        key = AttemptKey.of(ref)
        hosts = [host for host in self.sites.hosts(ref) if host.node in nodes]
        with as_refusals(ref):
            for host in hosts:
                if await count_alive(host, key, "0"):
                    return False
            for host in hosts:
                root = root_of(ref, host.node)
                await host.ask("bury", key.path, root, job_status.END_UNKNOWN)
        return True

    def tell(self, key: AttemptKey, status: job_pb2.JobStatus | None) -> None:
        """Tell watchers, and whoever waits for the attempt."""
        if status is not None:
            event = job_pb2.JobEvent(status=status)
            self._hub.publish(key, event, topic=key.installation)
        # An end never changes: nobody has to ask for it again.
        self.bells.ring(key, status if status is not None and status.HasField("end") else None)

    async def _settle(self, ref: types_pb2.JobRef, on_hosts: Sequence[OnHost]) -> None:
        """Write the end of runners that are gone without one, once nothing of them is alive."""
        key = AttemptKey.of(ref)
        by_node = {host.node: host for host in self.sites.hosts(ref)}
        with as_refusals(ref):
            for on_host in on_hosts:
                if on_host.phase is not Phase.LOST:
                    continue
                host = by_node[on_host.node]
                if await count_alive(host, key, "0"):
                    continue  # it runs on, though nobody guards it
                if on_host.spec is not None and on_host.spec.spec.container_image:
                    # It may be on its way still: who begins it has gone, and its engine has not.
                    await self.containers.remove(host, key)
                reason = on_host.verdict or job_status.why_lost(
                    is_readable=on_host.is_readable, is_buried=on_host.is_buried
                )
                ran = on_host.has_runner_claim or reason == job_status.END_UNKNOWN
                kind = "failure" if ran else "unstarted"
                await host.ask("end", key.path, reason, kind, "gone")


async def count_alive(host: Host, key: AttemptKey, signal: str) -> int:
    """How many processes of the attempt, the runner not counted, a host has.

    Args:
        host: Where.
        key: Which.
        signal: What is sent to each, a name without SIG; "0" is sent to nobody.
    """
    reply = await host.ask("signal", key.path, key.mark(host.node), signal)
    return len(reply.lines)


def root_of(ref: types_pb2.JobRef, node: str) -> str:
    """The root that the core knows for a node; empty if it knows none."""
    known = {root.node: root.root_uid for root in ref.roots}
    return known.get(node) or known.get("", "")


def _with_roots(status: job_pb2.JobStatus) -> types_pb2.JobRef:
    ref = types_pb2.JobRef()
    ref.CopyFrom(status.ref)
    ref.roots.extend(status.roots)
    return ref
