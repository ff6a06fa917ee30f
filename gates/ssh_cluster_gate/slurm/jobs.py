"""Attempts at a Slurm site: found, judged and told of."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable

from gate_kit import Operations, Refusal, WatchHub, errors
from gate_kit.bells import Bells
from gate_kit.ssh.answers import as_refusals, refused
from gate_kit.ssh.evidence import told_ref
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gates.ssh_cluster_gate.slurm import judgement
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.evidence import Evidence
from gates.ssh_cluster_gate.slurm.judgement import Judged, Missing
from gates.ssh_cluster_gate.slurm.judging import Judging
from gates.ssh_cluster_gate.slurm.live import Live
from gates.ssh_cluster_gate.slurm.pace import Pace
from gates.ssh_cluster_gate.slurm.sites import SlurmSites
from gates.ssh_cluster_gate.slurm.words import Queue
from skyport.gate.v1 import job_pb2, types_pb2

log = logging.getLogger(__name__)

_MOST_WARNED = 10_000
_MOST_ENDED = 1_000
"""Attempts whose ends are kept in memory: each is read and removed soon after."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that has ended, which never changes."""

    status: job_pb2.JobStatus
    workdir: str
    """The folder of the user's own that it ran in, if it did."""


class SlurmAttempts:
    """All attempts of the site.

    Args:
        sites: Its accounts.
        operations: Owns what goes on beside.
        hub: Told of every change.
        slowest_s: Seconds between two squeue while nothing changes.
        fuse_cache_s: How long a file system in user space may show a file as it was.
    """

    def __init__(
        self,
        sites: SlurmSites,
        operations: Operations,
        hub: WatchHub[job_pb2.JobEvent],
        slowest_s: float,
        fuse_cache_s: float,
    ) -> None:
        self.bells = Bells()
        """Rung, by keys, when an attempt has changed."""
        self.sites = sites
        self.live: dict[AttemptKey, Live] = {}
        self.on_live: list[Callable[[Account], None]] = []
        """Called with the account when it has an attempt to be followed."""
        self.warnings: dict[AttemptKey, tuple[str, ...]] = {}
        """What was done otherwise than asked."""
        self.judging = Judging(self.queue, self.warnings, fuse_cache_s)
        self._operations = operations
        self._hub = hub
        self._pace = Pace()
        self._slowest_s = slowest_s
        self.submitted_at = 0.0
        """When the latest answer of sbatch came, by the monotonic clock."""
        self._ended: collections.OrderedDict[AttemptKey, Ended] = collections.OrderedDict()
        self._queues: dict[Account, Queue] = {}
        self._telling: set[Account] = set()

    # What Output and Tunnels ask.

    async def status(
        self, ref: types_pb2.JobRef, *, is_settled: bool = False
    ) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is there but a tombstone.

        Args:
            ref: Which.
            is_settled: Whether nothing of it runs, and all that it wrote can be seen by now.

        Raises:
            Refusal: NODE_UNREACHABLE, SITE_CHANGED, USER_NOT_MAPPED; SITE_UNREACHABLE where the
                queue does not answer, and nothing is known without it.
        """
        return await self.judged(ref, await self.look(ref), is_settled=is_settled)

    def just_seen(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it was last told; None if it was not. What changes is told at once."""
        key = AttemptKey.of(ref)
        live = self.live.get(key)
        told = live.told if live is not None else None
        if live is None and key in self._ended:
            told = self._ended[key].status
        return told if told is not None and _is_at(ref, told) else None

    def ended(self, ref: types_pb2.JobRef) -> Ended | None:
        """The attempt if it has ended, and that is remembered."""
        found = self._ended.get(AttemptKey.of(ref))
        return found if found is not None and _is_at(ref, found.status) else None

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        """Whether the attempt has a tombstone."""
        return (await self.look(ref)).is_buried

    def place(self, status: job_pb2.JobStatus, node: str) -> tuple[Host, str]:
        """Where what a node writes lies, and its rank.

        Raises:
            Refusal: FIELD_MALFORMED for a node that is none of the attempt, once they are known.
        """
        nodes = [allocation.node for allocation in status.allocations]
        if node and nodes and node not in nodes:
            text = f"{node[:60]} is no node of the attempt ({', '.join(nodes)[:200]})"
            raise errors.invalid(text, field="cursors")
        rank = nodes.index(node) if node in nodes else 0
        return self.sites.hosts(status.ref)[0], str(rank)

    def address(self, ref: types_pb2.JobRef, node: str) -> str:
        """Where a node of an attempt is, as far as its job has told; else its name."""
        live = self.live.get(AttemptKey.of(ref))
        given = live.found.given if live is not None and live.found is not None else None
        return given.addresses.get(node, node) if given is not None else node

    # Looking.

    async def look(self, ref: types_pb2.JobRef) -> Evidence:
        """What lies of an attempt.

        Raises:
            Refusal: NODE_UNREACHABLE, SITE_CHANGED, USER_NOT_MAPPED.
        """
        account, path = self.sites.account(ref), AttemptKey.of(ref).path
        live = self.live.get(AttemptKey.of(ref))
        known = live.lasting if live is not None else None
        looked_at = time.monotonic()
        one = await account.glance(path, root_of(ref, account.host.node), known)
        if one.refused:
            with as_refusals(ref):
                raise refused(account.host.node, one.refused)
        return one if live is None else live.saw(one, looked_at)

    async def judged(
        self, ref: types_pb2.JobRef, found: Evidence, *, is_settled: bool = False
    ) -> job_pb2.JobStatus | None:
        """What follows from what lies there; the queue is asked if nothing does without it.

        Args:
            ref: Which.
            found: What lies there.
            is_settled: As for `status`.

        Raises:
            Refusal: SITE_UNREACHABLE.
        """
        live = self._follow(ref, found, time.monotonic())
        if live is None:
            return judgement.judge(found, Missing.UNASKED, now_ns=time.time_ns()).status
        judged = await self.judging.judge(live, is_settled=is_settled)
        if judged.status is None and judged.needs_word:
            queue = self.queue(live.account)
            await queue.fresh()
            judged = await self.judging.judge(live, is_settled=is_settled)
            if judged.status is None:
                raise errors.site_unreachable("the queue has not said yet what it knows of it")
        self._keep(live, judged)
        return judged.status

    def _keep(self, live: Live, judged: Judged) -> None:
        """Go on to follow an attempt if there is more to be told of it."""
        status, is_followed = judged.status, self.live.get(live.key) is live
        if status is None or not (
            status.HasField("end") or status.state == job_pb2.JOB_STATE_STAGED
        ):
            if not is_followed:
                self.begin(live)
            if judged.needs_word:
                self.queue(live.account).poke()
        elif is_followed:
            self.tell(live, status)

    def _follow(self, ref: types_pb2.JobRef, found: Evidence, looked_at: float) -> Live | None:
        """The attempt as one to be followed; None if it was never asked to start."""
        key = AttemptKey.of(ref)
        live = self.live.get(key)
        if live is None:
            if found.lasting.spec is None:
                return None
            with_roots = types_pb2.JobRef()
            with_roots.CopyFrom(found.lasting.spec.ref)
            with_roots.roots.append(types_pb2.SiteRoot(root_uid=found.root_uid))
            account = self.sites.account(ref)
            # What has an id was submitted before now, by this gate or by one before it.
            since = self.submitted_at if found.slurm_id else time.monotonic()
            live = Live(with_roots, found.lasting, account, since, found, looked_at)
        return live

    def begin(self, live: Live) -> None:
        """Follow an attempt from now on."""
        self.live[live.key] = live
        self.queue(live.account).poke()
        for told in self.on_live:
            told(live.account)

    def queue(self, account: Account) -> Queue:
        """What an account knows of the queue; asked from now on."""
        found = self._queues.get(account)
        if found is None:
            found = Queue(
                account,
                self._pace,
                self._slowest_s,
                functools.partial(self._spawn_on_word, account),
                lambda: any(live.account is account for live in self.live.values()),
            )
            self._queues[account] = found
            self._operations.spawn(found.follow(), f"queue at {account.host.node}")
        return found

    def _spawn_on_word(self, account: Account) -> None:
        self._operations.spawn(self.on_word(account), "the queue's word")

    # Telling.

    async def publish(self, live: Live, *, is_settled: bool = False) -> job_pb2.JobStatus | None:
        """Tell watchers how an attempt is by what was last seen of it, and return it."""
        judged = await self.judging.judge(live, is_settled=is_settled)
        status = judged.status
        if judged.needs_word:
            self.queue(live.account).poke()
        if status is None:
            return None
        self.tell(live, status)
        return status

    def tell(self, live: Live, status: job_pb2.JobStatus) -> None:
        """Tell watchers, and whoever waits for the attempt, unless it was told so already."""
        key = live.key
        if status.HasField("end") or status.state == job_pb2.JOB_STATE_STAGED:
            if self.live.get(key) is live:
                del self.live[key]
            if status.HasField("end"):
                self.warnings.pop(key, None)
                self._ended[key] = Ended(status, live.lasting.workdir)
                if len(self._ended) > _MOST_ENDED:
                    self._ended.popitem(last=False)
        if live.told == status:
            return
        live.told = status
        event = job_pb2.JobEvent(status=status)
        self._hub.publish(key, event, topic=key.installation)
        self.bells.ring(key, status)

    def warn(self, key: AttemptKey, warnings: tuple[str, ...]) -> None:
        """Remember what is to be told with an attempt."""
        if warnings:
            self.warnings[key] = warnings
            if len(self.warnings) > _MOST_WARNED:
                del self.warnings[next(iter(self.warnings))]

    async def on_word(self, account: Account) -> None:
        """Tell what the queue's word changes."""
        if account in self._telling:
            return  # who tells goes on by the latest word
        self._telling.add(account)
        try:
            await self._tell_word(account)
        finally:
            self._telling.discard(account)

    async def _tell_word(self, account: Account) -> None:
        for live in [live for live in self.live.values() if live.account is account]:
            if live.found is None or live.is_starting:
                continue
            try:
                await self.publish(live)
            except Refusal as refusal:
                log.info("%s: %s", live.key.path, refusal.message)
            except Exception:
                # A mistake of ours about one must not keep the others from being told.
                log.exception("%s cannot be told of", live.key.path)

    async def look_again(self, account: Account, lives: Collection[Live]) -> None:
        """Look at attempts of an account anew, and tell what has changed."""
        if not lives:
            return
        at = time.monotonic()
        asked = {live.key.path: root_of(live.ref, account.host.node) for live in lives}
        known = {live.key.path: live.lasting for live in lives}
        found = await account.look(asked, known)
        for live in lives:
            one = found.get(live.key.path)
            if one is None or one.refused or not (one.exists or live.found):
                continue
            live.saw(one, at)
            try:
                await self.publish(live)
            except Refusal as refusal:
                log.info("%s: %s", live.key.path, refusal.message)
            except Exception:
                # A mistake of ours about one must not keep the others from being told.
                log.exception("%s cannot be told of", live.key.path)

    # Lists.

    async def snapshot(
        self, installation: str, partition_id: str = ""
    ) -> AsyncIterator[job_pb2.JobStatus]:
        """All attempts that can be seen, in order of job and attempt."""
        found: dict[AttemptKey, tuple[types_pb2.JobRef, Evidence]] = {}
        looked_at = time.monotonic()
        listings = await asyncio.gather(
            *(account.all_of(installation) for account in self.sites.accounts),
            return_exceptions=True,
        )
        for account, listing in zip(self.sites.accounts, listings, strict=True):
            if isinstance(listing, BaseException):
                if not isinstance(listing, Refusal):
                    raise listing
                continue
            for one in listing.values():
                ref = told_ref(one.lasting)
                if ref is None or partition_id not in {"", ref.partition_id}:
                    continue
                if self._is_owners(account, ref):
                    found[AttemptKey.of(ref)] = (ref, one)
        await self._word_for(found.values())
        for key in sorted(found):
            ref, one = found[key]
            if key in self._ended:
                # The queue was asked about others meanwhile.
                yield self._ended[key].status
                continue
            live = self._follow(ref, one, looked_at)
            try:
                if live is None:
                    judged = judgement.judge(one, Missing.UNASKED, now_ns=time.time_ns())
                else:
                    if live.looked_at < looked_at:
                        live.found, live.looked_at = one, looked_at
                    judged = await self.judging.judge(live)
                    self._keep(live, judged)
            except Refusal:
                continue
            if judged.status is not None:
                yield judged.status

    async def _word_for(self, found: Iterable[tuple[types_pb2.JobRef, Evidence]]) -> None:
        """Have the queue's word on what was found, if it answers, so that nothing seems lost."""
        accounts = {
            self.sites.account(ref)
            for ref, one in found
            if one.lasting.spec is not None and one.final is None
        }
        for account in accounts:
            queue = self.queue(account)
            if queue.word is None and queue.refusal is None:
                try:
                    await queue.fresh()
                except Refusal as refusal:
                    log.info("%s", refusal.message)

    def _is_owners(self, account: Account, ref: types_pb2.JobRef) -> bool:
        """Whether what lies in an account is of an owner whose account it is."""
        try:
            return self.sites.account(ref) is account
        except Refusal:
            return False

    def forget(self, key: AttemptKey) -> None:
        """Nothing is known of the attempt any more: it was removed."""
        self.live.pop(key, None)
        self.warnings.pop(key, None)
        self._ended.pop(key, None)
        self.bells.ring(key, "removed")


def _is_at(ref: types_pb2.JobRef, status: job_pb2.JobStatus) -> bool:
    """Whether a status is of what the caller knows as the place."""
    there = {root.root_uid for root in status.roots}
    return bool(ref.roots) and all(root.root_uid in there for root in ref.roots)
