"""What each host has and whether it answers: looked at again and again, told when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from gate_kit import Health, errors
from gate_kit.errors import Refusal
from gate_kit.ssh import capacity
from gate_kit.ssh.capacity import Capacity
from gate_kit.ssh.host import Host
from gates.ssh_cluster_gate.hosts import Hosts
from gates.ssh_cluster_gate.plan import SitePlan
from skyport.gate.v1 import types_pb2

log = logging.getLogger(__name__)

EVERY_S = 300.0
"""Free space and the like may be so old."""
_PAUSE_S = (0.5, 30.0)
"""Before a host that is away is tried again: at first, and at most."""
_BLINK_S = 3.0
"""A link that was lost and is back within so long was no outage."""
_AGAIN_S = 0.2
"""Before a host that was there until now is tried again."""
_AT_ONCE = 32
"""Hosts that are being connected to; more would starve each other of processor time."""

_OF_ACCOUNTS = frozenset({"CREDENTIALS_INVALID", "PERMISSION_MISSING"})
"""Another account may do better."""
_OF_SITES = _OF_ACCOUNTS | {"HOST_KEY_MISMATCH"}
"""What the site as a whole is told to suffer from where all hosts say so."""


class NodeObserver(Protocol):
    """Who is told of hosts that go and come."""

    async def node_unreachable(self, node: str, text: str) -> None:
        """The host does not answer any more: nothing is known of what runs there."""
        ...

    async def node_reachable(self, node: str) -> None:
        """The host answers, for the first time or again."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Sight:
    """How a host was last seen."""

    is_up: bool = False
    found: Capacity | None = None
    """From the last time that it answered."""
    refusal: Refusal | None = None
    """Why it is not up; None while it is, and for the first moment."""

    @property
    def is_new(self) -> bool:
        """Whether nothing can be said yet."""
        return not self.is_up and self.refusal is None

    @property
    def text(self) -> str:
        """Why it is not up, for people."""
        if self.is_up:
            return self.found.trouble if self.found else ""
        return self.refusal.message if self.refusal else "it has not answered yet"


class Discovery:
    """Follows each host by a link of its own, which says by its end that the host is gone.

    Args:
        plan: The site.
        hosts: The ways there.
        every_s: Seconds after which a host is asked again what it has.
    """

    def __init__(self, plan: SitePlan, hosts: Hosts, *, every_s: float = EVERY_S) -> None:
        self.on_change: list[Callable[[str], None]] = []
        """Called with the name of a host of which something is known now that was not before."""
        self.on_dark: list[Callable[[Refusal], None]] = []
        """Called when the last host has gone that was seen, with what is to be said of the site."""
        self.observers: list[NodeObserver] = []
        self._hosts = hosts
        self._every_s = every_s
        self._partitions = {name: node.partition_id for name, node in plan.nodes.items()}
        self._sights = dict.fromkeys(plan.nodes, Sight())
        self._untried = set(plan.nodes)
        self._wanted = {name: asyncio.Event() for name in plan.nodes}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to follow all hosts."""
        self._hosts.on_made.append(self._listen)
        for node in self._sights:
            task = asyncio.create_task(self._follow(node), name=f"discovery of {node}")
            self._tasks.append(task)

    async def close(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def sights(self) -> Mapping[str, Sight]:
        """How each host was last seen, by name."""
        return self._sights

    def unreachable(self, partition_id: str = "") -> list[types_pb2.UnreachableNode]:
        """The hosts that can't be seen now, of one partition or of all."""
        return [
            types_pb2.UnreachableNode(
                name=node, message=sight.text, partition_id=self._partitions[node]
            )
            for node, sight in self._sights.items()
            if not sight.is_up and partition_id in {"", self._partitions[node]}
        ]

    def health(self) -> Health:
        """How the site does, from memory.

        Raises:
            Refusal: No host answers: SITE_UNREACHABLE, or what all of them say.
        """
        total = len(self._sights)
        down = {name: sight for name, sight in self._sights.items() if not sight.is_up}
        new = sum(sight.is_new for sight in down.values())
        if new or (self._untried and len(down) == total):
            return Health(ready=False, message=f"looks for {len(down)} of {_hosts(total)}")
        if len(down) == total:
            raise _of_site(list(down.values()))
        if not down:
            return Health()
        name, sight = next(iter(down.items()))
        are = "is" if len(down) == 1 else "are"
        return Health(message=f"{len(down)} of {_hosts(total)} {are} down; {name}: {sight.text}")

    # Following one host.

    async def _follow(self, node: str) -> None:
        """Keep what is known of a host current, for ever."""
        while True:
            try:
                await self._keep_up(node)
            except Exception as error:
                # A mistake of ours must not leave the host as it was last seen.
                log.exception("%s: cannot be followed", node)
                refusal = errors.node_unreachable(node, f"the gate cannot follow {node}: {error}")
                self._sights[node] = Sight(found=self._sights[node].found, refusal=refusal)
                self._tell(node)
            await self._pause(node, _PAUSE_S[1])

    async def _keep_up(self, node: str) -> None:
        # Nor does a host that has never answered keep anybody waiting.
        lost: Refusal | None = errors.node_unreachable(node, f"{node} has not answered yet")
        pause_s = _PAUSE_S[0]
        while True:
            try:
                watched, first = await self._reach(node, lost)
            except Refusal as error:
                lost = None
                refusal = _cause(error)
                self._untried.discard(node)
                await self._missed(node, refusal)
                await self._pause(node, max(pause_s, refusal.retry_after_s or 0.0))
                pause_s = min(pause_s * 2, _PAUSE_S[1])
                continue
            pause_s = _PAUSE_S[0]
            self._untried.discard(node)
            try:
                async with contextlib.aclosing(watched):
                    await self._saw(node, first)
                    async for found in watched:
                        await self._saw(node, found)
            except Refusal as error:
                lost = _cause(error)
            await self._pause(node, _AGAIN_S)

    async def _reach(
        self, node: str, lost: Refusal | None
    ) -> tuple[AsyncGenerator[Capacity, None], Capacity]:
        """The host's reports, and the first of them.

        Args:
            node: The host.
            lost: Why it is not there any more, if nobody has been told so yet: they are if it stays
                away.

        Raises:
            Refusal: It can't be reached.
        """
        reaching = asyncio.create_task(self._reports(node))
        try:
            if lost is not None and not (await asyncio.wait((reaching,), timeout=_BLINK_S))[0]:
                await self._missed(node, lost)
            return await reaching
        finally:
            if reaching.cancel():
                await asyncio.wait((reaching,))

    async def _reports(self, node: str) -> tuple[AsyncGenerator[Capacity, None], Capacity]:
        refusal: Refusal | None = None
        for host in self._hosts.accounts(node):
            watched = capacity.reports(host, every_s=self._every_s)
            try:
                async with self._room:
                    first = await anext(watched)
            except Refusal as error:
                refusal = error
                if _cause(error).reason not in _OF_ACCOUNTS:
                    break
                continue
            if host.facts is not None and host.facts.lacks:
                await watched.aclose()
                lacks = ", ".join(host.facts.lacks)
                await host.begin_anew()  # it may be there the next time
                raise errors.node_unreachable(node, f"{node} lacks {lacks}, which jobs need there")
            return watched, first
        assert refusal is not None  # noqa: S101 - for the type only: every host has an account
        raise refusal

    async def _saw(self, node: str, found: Capacity) -> None:
        before = self._sights[node]
        self._sights[node] = Sight(is_up=True, found=found)
        if found.address:
            self._hosts.note_address(node, found.address)
        if before.found != found or not before.is_up:
            self._tell(node)
        if before.is_up:
            return
        log.info("%s answers", node)
        for observer in self.observers:
            await observer.node_reachable(node)

    async def _missed(self, node: str, refusal: Refusal) -> None:
        before = self._sights[node]
        self._sights[node] = Sight(found=before.found, refusal=refusal)
        if before.text != refusal.message or before.is_up:
            self._tell(node)
        if not before.is_up and not before.is_new:
            return
        log.warning("%s does not answer: %s", node, refusal.message)
        for observer in self.observers:
            await observer.node_unreachable(node, refusal.message)
        sights = list(self._sights.values())
        if before.is_up and not any(sight.is_up for sight in sights):
            for told in self.on_dark:
                told(_of_site(sights))

    def _tell(self, node: str) -> None:
        for told in self.on_change:
            told(node)

    def _listen(self, host: Host) -> None:
        """Somebody else may get to a host first: then there is nothing to wait for."""

        def told(key: str) -> None:
            if not key:
                self._wanted[host.node].set()

        host.on_event.append(told)

    async def _pause(self, node: str, longest_s: float) -> None:
        wanted = self._wanted[node]
        wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s * random.uniform(0.7, 1.0)):  # noqa: S311 - no secret  # nosec B311
                await wanted.wait()


def _cause(refusal: Refusal) -> Refusal:
    """What was refused, where a refusal was made one of a node."""
    return refusal.__cause__ if isinstance(refusal.__cause__, Refusal) else refusal


def _of_site(down: Sequence[Sight]) -> Refusal:
    """What to say of a site none of whose hosts answers."""
    refusals = [sight.refusal for sight in down if sight.refusal is not None]
    first = refusals[0]
    text = f"none of {_hosts(len(down))} answers; {first.message}"
    reasons = {refusal.reason for refusal in refusals}
    if len(reasons) == 1 and first.reason in _OF_SITES:
        return Refusal(first.code, first.reason, text, metadata=first.metadata)
    return errors.site_unreachable(text)


def _hosts(count: int) -> str:
    return f"{count} host{'' if count == 1 else 's'}"
