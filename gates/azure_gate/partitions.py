"""Partitions as they were last seen: what Azure told, and what was found on their nodes."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from gate_kit import WatchHub, errors
from gate_kit.job_checks import Place
from gate_kit.job_status import failure as failure_of
from gate_kit.job_status import timestamp
from gate_kit.ssh.capacity import Capacity
from gates.azure_gate.answers import Content, Group
from gates.azure_gate.catalog import Catalog
from gates.azure_gate.tags import Tags
from skyport.gate.v1 import inventory_pb2, partition_pb2, types_pb2

_DYNAMIC = types_pb2.PARTITION_KIND_DYNAMIC
_NS = 1_000_000_000
_ABSENT_S = 60.0
"""Whoever asks for what is not there so long after it was looked for has it looked for again."""
_MOST_ABSENT = 1_000
FIRST_PORT, LAST_PORT = 20_000, 29_999
"""Jobs that ask for a free port get one of these."""

State = partition_pb2.PartitionState
CREATING = partition_pb2.PARTITION_STATE_CREATING
READY = partition_pb2.PARTITION_STATE_READY
STOPPED = partition_pb2.PARTITION_STATE_STOPPED
FAILED = partition_pb2.PARTITION_STATE_FAILED
DELETING = partition_pb2.PARTITION_STATE_DELETING


class Pulse:
    """Wakes all who wait, each time."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def beat(self) -> None:
        """Wake them."""
        beaten, self._next = self._next, asyncio.Event()
        beaten.set()

    async def wait(self, longest_s: float | None = None) -> bool:
        """Wait for the next beat; False if it did not come within `longest_s`."""
        try:
            async with asyncio.timeout(longest_s):
                await self._next.wait()
        except TimeoutError:
            return False
        return True


@dataclasses.dataclass(slots=True)
class Sight:
    """What is known of one node beside what Azure tells."""

    is_up: bool = False
    found: Capacity | None = None
    """From the last time that it answered."""
    text: str = ""
    """Why it is not up, or what it does while it boots."""
    is_booted: bool = False
    """Whether cloud-init has said that it is done."""


@dataclasses.dataclass(eq=False, slots=True, weakref_slot=True)
class Known:
    """One partition."""

    group: Group
    tags: Tags
    content: Content = dataclasses.field(default_factory=Content)
    seen_at: float = 0.0
    """When its content was last told, by the clock of `time.monotonic`; 0: never."""
    sights: dict[str, Sight] = dataclasses.field(default_factory=dict)
    is_making: bool = False
    """Whether it is being made, or started again, now."""
    is_resumed: bool = False
    """Whether an earlier gate, or an earlier try, may have made some of it."""
    is_deleting: bool = False
    """Whether its deletion was asked for."""
    text: str = ""
    """What is being done, for people."""
    trouble: str = ""
    """What hinders that."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    pulse: Pulse = dataclasses.field(default_factory=Pulse)
    """Beats when anything of it has changed."""
    told: bytes = b""
    """What watchers were told last."""

    @property
    def id(self) -> str:
        """The partition's id."""
        return self.tags.partition_id

    @property
    def location(self) -> str:
        """Where it is."""
        return self.group.location

    @property
    def nodes(self) -> list[str]:
        """Its nodes that are not lost."""
        return [node for node in self.tags.nodes if node not in self.tags.lost]

    @property
    def is_stopped(self) -> bool:
        """Whether Azure has deallocated its machines."""
        machines = [self.content.machines.get(node) for node in self.nodes]
        return bool(machines) and all(one is not None and one.is_stopped for one in machines)

    @property
    def state(self) -> State.ValueType:
        """What the contract calls it."""
        if self.is_deleting or self.group.is_deleting:
            return DELETING
        if self.tags.failure is not None:
            # As long as something of it costs money it is not over.
            if self.tags.is_empty:
                return FAILED
            return READY if self.tags.is_ready else CREATING
        if self.is_making or not self.tags.is_ready:
            return CREATING
        return STOPPED if self.is_stopped else READY

    def sight(self, node: str) -> Sight:
        """What is known of a node."""
        return self.sights.setdefault(node, Sight())

    @property
    def elapsed(self) -> str:
        """How long it has been in the making, for people."""
        return f"{time.monotonic() - self.began:.0f} s"


class Partitions:
    """All partitions that the gate knows of.

    Args:
        hub: Told of every change.
        catalog: What sizes have, and cost.
    """

    def __init__(self, hub: WatchHub[partition_pb2.PartitionEvent], catalog: Catalog) -> None:
        self.known: dict[str, Known] = {}
        """By the names of their groups, in lower case."""
        self.on_change: list[Callable[[Known], None]] = []
        """Called with each that has changed."""
        self.on_lost: list[Callable[[Known], None]] = []
        """Called with each of which nodes are gone for good."""
        self.on_unknown: list[Callable[[str], None]] = []
        """Called with the id of a partition that was asked for and is not known."""
        self._absent: dict[str, float] = {}
        """When partitions were positively not there, by the clock of `time.monotonic`."""
        self.on_gone: list[Callable[[Known], None]] = []
        """Called with each that is gone."""
        self._hub = hub
        self._catalog = catalog

    def is_there(self) -> bool:
        """Whether there is anything that may change by itself."""
        return any(one.state != FAILED for one in self.known.values())

    def is_changing(self) -> bool:
        """Whether something is being made or deleted."""
        return any(
            one.is_making or one.state == DELETING or (one.tags.failure and not one.tags.is_empty)
            for one in self.known.values()
        )

    def find(self, partition_id: str) -> Known | None:
        """The partition of that id, if it is known."""
        return next((one for one in self.known.values() if one.id == partition_id), None)

    def place(self, partition_id: str) -> Place:
        """Where jobs of the partition run.

        Raises:
            Refusal: PARTITION_NOT_FOUND: it is positively not there. SITE_UNREACHABLE: that is not
                known yet, and is being looked for.
        """
        known = self.find(partition_id)
        if known is None:
            absent_at = self._absent.get(partition_id)
            if absent_at is not None and time.monotonic() - absent_at < _ABSENT_S:
                raise errors.partition_not_found(partition_id)
            for told in self.on_unknown:
                told(partition_id)
            raise errors.site_unreachable(
                f"partition {partition_id} has not been seen yet", retry_after_s=1.0
            )
        gpus: dict[str, Sequence[str] | None] = {}
        for node in known.tags.nodes:
            found = known.sight(node).found
            gpus[node] = [gpu.id for gpu in found.gpus] if found else None
        is_ready = known.state == READY
        return Place(_DYNAMIC, gpus, is_ready=is_ready, text=self.text(known))

    def saw(
        self, group: Group, content: Content | None = None, *, tells: bool = True
    ) -> Known | None:
        """Take in what Azure told of a group; None if it is no partition of ours.

        Args:
            group: The group.
            content: What it holds, where that was told.
            tells: Whether watchers are told now; else whoever calls has more to tell.
        """
        if group.tags is None:
            return None
        name = group.name.lower()
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = Known(group, group.tags)
            self._absent.pop(known.id, None)
        else:
            known.group = group
        if content is not None:
            known.content = content
            known.seen_at = time.monotonic()
        if tells:
            self.changed(known)
        return known

    def note_absent(self, partition_id: str) -> None:
        """There is positively no such partition."""
        self._absent.pop(partition_id, None)
        self._absent[partition_id] = time.monotonic()
        if len(self._absent) > _MOST_ABSENT:
            del self._absent[next(iter(self._absent))]

    def gone(self, known: Known) -> None:
        """Forget a partition whose group is positively gone, and tell so."""
        if self.known.pop(known.group.name.lower(), None) is None:
            return
        self.note_absent(known.id)
        for told in self.on_gone:
            told(known)
        known.pulse.beat()
        event = partition_pb2.PartitionEvent(deleted_partition_id=known.id)
        self._hub.publish(known.id, event, topic=known.tags.installation)

    def changed(self, known: Known) -> None:
        """Tell of a partition, if there is news."""
        known.pulse.beat()
        for told in self.on_change:
            told(known)
        message = self.message(known)
        # How long something takes already is no news by itself.
        text, message.text = message.text, ""
        news = f"{known.text}; {known.trouble}"
        data = message.SerializeToString(deterministic=True) + news.encode()
        if data != known.told:
            known.told = data
            message.text = text
            event = partition_pb2.PartitionEvent(partition=message)
            self._hub.publish(known.id, event, topic=known.tags.installation)

    def lost(self, known: Known) -> None:
        """Nodes of a partition are gone for good: `tags.lost` says which."""
        for told in self.on_lost:
            told(known)

    def node_changed(self, known: Known, node: str) -> None:
        """Tell of one node."""
        event = partition_pb2.PartitionEvent(node=self._node(known, node))
        topic = known.tags.installation
        self._hub.publish((known.id, node), event, topic=topic)
        self.changed(known)

    def all(self, installation: str = "") -> Iterator[partition_pb2.Partition]:
        """All of them, in order of their ids, of one installation or of any."""
        for known in sorted(self.known.values(), key=lambda one: one.id):
            if installation in {"", known.tags.installation}:
                yield self.message(known)

    def message(self, known: Known) -> partition_pb2.Partition:
        """A partition as the contract tells it."""
        tags = known.tags
        told = partition_pb2.Partition(
            partition_id=tags.partition_id,
            kind=_DYNAMIC,
            state=known.state,
            text=self.text(known),
            spec_fingerprint=tags.fingerprint,
            origin=types_pb2.Origin(
                installation=tags.installation, store_generation=tags.generation
            ),
            owner=tags.owner,
            create_time=timestamp(tags.created_s * _NS),
            handle=known.group.name,
        )
        if told.state == FAILED and tags.failure is not None:
            told.failure.CopyFrom(tags.failure)
        if tags.expires_s:
            told.expire_time.CopyFrom(timestamp(tags.expires_s * _NS))
        if told.state in {READY, STOPPED, CREATING}:
            told.nodes.extend(self._node(known, node) for node in tags.nodes)
        prices = self._catalog.prices_of(tags.spec.flavor, known.location)
        price = prices.spot if tags.spec.spot else prices.on_demand
        if price is not None:
            told.price.CopyFrom(price)
        return told

    def text(self, known: Known) -> str:
        """What a partition is doing, for people."""
        text = self._text(known)
        return f"{text}; {known.trouble}" if known.trouble else text

    def _text(self, known: Known) -> str:
        count = known.tags.spec.node_count
        match known.state:
            case partition_pb2.PARTITION_STATE_CREATING:
                if known.tags.failure is not None:
                    return f"removing what was made: {known.tags.failure.message}"
                if known.is_making:
                    return f"{known.text or 'beginning'}, {known.elapsed}"
                return "waits to be asked for again: the gate was started anew"
            case partition_pb2.PARTITION_STATE_READY if known.tags.failure is not None:
                return f"removing what is left: {known.tags.failure.message}"
            case partition_pb2.PARTITION_STATE_READY:
                up = sum(known.sight(node).is_up for node in known.nodes)
                nodes = "1 node is" if count == 1 else f"{count} nodes are"
                return f"{nodes} up" if up == count else f"{up} of {count} nodes are up"
            case partition_pb2.PARTITION_STATE_STOPPED:
                return "its time passed, and Azure deallocated its nodes; disks cost on"
            case partition_pb2.PARTITION_STATE_FAILED if known.tags.failure is not None:
                return known.tags.failure.message
            case _:
                return "is being deleted"

    def _node(self, known: Known, name: str) -> inventory_pb2.Node:
        spec, sight = known.tags.spec, known.sight(name)
        found = sight.found
        size = self._catalog.size(spec.flavor, known.location)
        told = inventory_pb2.Node(
            name=name,
            partition_id=known.id,
            state=self._node_state(known, name),
            message=sight.text,
            flavor=spec.flavor,
            ports=inventory_pb2.PortRange(first=FIRST_PORT, last=LAST_PORT),
            addresses=[
                address
                for address in (known.content.private.get(name), known.content.public.get(name))
                if address
            ],
        )
        if found is not None:
            told.cpus, told.memory_bytes = found.cpus, found.memory_bytes
            told.disk_bytes = found.disk_bytes
            told.gpu_ids.extend(gpu.id for gpu in found.gpus)
        elif size is not None:
            told.cpus, told.memory_bytes = size.cpus, size.memory_bytes
            told.gpu_ids.extend(str(index) for index in range(size.gpus))
        reason = known.tags.lost.get(name)
        if reason is not None:
            told.failure.CopyFrom(failure_of(reason))
            told.message = told.failure.message
        return told

    def _node_state(self, known: Known, name: str) -> inventory_pb2.NodeState.ValueType:
        if name in known.tags.lost:
            return inventory_pb2.NODE_STATE_LOST
        sight = known.sight(name)
        if known.state == CREATING and not sight.is_up:
            return inventory_pb2.NODE_STATE_STARTING
        return inventory_pb2.NODE_STATE_UP if sight.is_up else inventory_pb2.NODE_STATE_DOWN
