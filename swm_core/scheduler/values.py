"""What the scheduler is told and what it answers, as plain values.

Values that change rarely carry what is derived from them, so keep them between calls and replace
only those that changed: a call then costs little for what stayed as it was.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

from swm_core.domain.failures import FailureReason
from swm_core.domain.job import Allocation, Job, JobSpec
from swm_core.domain.partition import Setup
from swm_core.domain.states import PartitionState
from swm_core.scheduler.catalog import FlavorCatalog
from swm_core.scheduler.demand import Demand, demand_of


class PartitionKind(enum.StrEnum):
    """How a partition comes to be and who places jobs on its nodes."""

    STATIC = "STATIC"
    DYNAMIC = "DYNAMIC"
    QUEUE = "QUEUE"


@dataclasses.dataclass(frozen=True, slots=True)
class FlavorView:
    """A kind of node: of these static and queue partitions, or, without any, to be created."""

    name: str
    location: str = ""
    cpus: int = 0
    mem_bytes: int = 0
    gpus: int = 0
    disk_bytes: int = 0
    price_per_hour: Decimal | None = None
    """Of one node; None: unknown."""
    currency: str = ""
    spot_price_per_hour: Decimal | None = None
    """Of one node that may be taken away; None: unknown, or not offered."""
    spot_currency: str = ""
    architecture: str = ""
    partition_ids: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class NodeView:
    """A node with what it has and what is taken of it. Zero cpus: it has not told what it has."""

    name: str
    cpus: int
    mem_bytes: int = 0
    gpu_ids: tuple[str, ...] = ()
    disk_bytes: int = 0
    """Free for work folders; zero: not known."""
    flavor: str = ""
    available: bool = True
    """Whether it takes jobs now."""
    port_first: int = 20_000
    port_last: int = 29_999
    """The last port of the range for free ones, included. A fixed port may lie outside."""
    used: tuple[Allocation, ...] = ()
    """What attempts have of it, all that are not known to have let go."""
    free_cpus: int = dataclasses.field(init=False, compare=False, repr=False)
    free_mem_bytes: int = dataclasses.field(init=False, compare=False, repr=False)
    free_gpu_ids: tuple[str, ...] = dataclasses.field(init=False, compare=False, repr=False)
    taken_ports: frozenset[int] = dataclasses.field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        taken_gpus = {gpu for allocation in self.used for gpu in allocation.gpu_ids}
        derived = {
            "free_cpus": self.cpus - sum(allocation.cpus for allocation in self.used),
            "free_mem_bytes": self.mem_bytes - sum(part.mem_bytes for part in self.used),
            "free_gpu_ids": tuple(gpu for gpu in self.gpu_ids if gpu not in taken_gpus),
            "taken_ports": frozenset(p for part in self.used for p in part.ports.values()),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionLimits:
    """What a job may ask of a partition at most. Zero: no limit is known."""

    max_nodes: int = 0
    max_cpus: int = 0
    max_mem_bytes: int = 0
    max_gpus: int = 0
    max_time_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class NodeClass:
    """Nodes of a partition that are alike in all that never changes."""

    flavor: str
    cpus: int
    mem_bytes: int
    gpus: int
    ports: int
    """How many ports its range has."""


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionView:
    """A group of nodes. A dynamic one serves its `owner` only, and its job only, if it has one."""

    partition_id: str
    kind: PartitionKind
    state: PartitionState = PartitionState.READY
    owner: str = ""
    job_id: str = ""
    flavor: str = ""
    """Of a dynamic one: what it was made of."""
    setup: Setup = dataclasses.field(default_factory=Setup)
    """Of a dynamic one: what its nodes are set up with."""
    disk_bytes: int = 0
    """Of a dynamic one: what was asked for on each node."""
    price_per_hour: Decimal | None = None
    """Of a dynamic one: of one node; None: unknown."""
    currency: str = ""
    nodes: tuple[NodeView, ...] = ()
    limits: PartitionLimits = PartitionLimits()
    classes: tuple[tuple[NodeClass, int], ...] = dataclasses.field(
        init=False, compare=False, repr=False
    )
    """Its kinds of nodes and how many there are of each."""

    def __post_init__(self) -> None:
        classes = Counter(
            (
                node.flavor or self.flavor,
                node.cpus,
                node.mem_bytes,
                len(node.gpu_ids),
                node.port_last - node.port_first + 1 if node.port_first else 0,
            )
            for node in self.nodes
        )
        counted = tuple((NodeClass(*kind), count) for kind, count in classes.items())
        object.__setattr__(self, "classes", counted)


_TAKE_GUESTS = frozenset({"USER_MAPPING", "SHARED_ACCOUNT"})


@dataclasses.dataclass(frozen=True, slots=True)
class SiteView:
    """A site as the core knows it now."""

    name: str
    ready: bool = True
    """Whether its gate answers and can reach it."""
    drained: bool = False
    inventory_known: bool = True
    """Whether flavors and partitions are what it last told; False: it has told nothing yet."""
    capabilities: frozenset[str] = frozenset()
    flavors: FlavorCatalog = dataclasses.field(default_factory=FlavorCatalog)
    partitions: tuple[PartitionView, ...] = ()
    max_partitions: int = 0
    """How many dynamic partitions may exist at once; zero: no limit."""
    partitions_in_use: int = 0
    option_prefix: str = ""
    """Of the options that it takes; empty: none."""
    options: frozenset[str] | None = None
    """The options that it takes, without their prefix; None: not known."""
    image_pattern: re.Pattern[str] | None = None
    """Of the whole names of images that nodes can boot; None: not known, or any."""
    image_form: str = ""
    """The same for people."""

    def boots(self, image: str) -> bool:
        """Whether its nodes can boot an image of that name, as far as is known."""
        pattern = self.image_pattern
        return not image or pattern is None or pattern.fullmatch(image) is not None

    def unknown_options(self, options: Iterable[str]) -> list[str]:
        """Those of a script's options that are meant for it, and that it does not have."""
        if self.options is None or not self.option_prefix:
            return []
        start = f"{self.option_prefix}."
        named = (name.removeprefix(start) for name in options if name.startswith(start))
        return sorted(name for name in named if name not in self.options)

    @property
    def takes_guests(self) -> bool:
        """Whether others than administrators may run jobs on nodes that are always there."""
        return not self.capabilities.isdisjoint(_TAKE_GUESTS)


@dataclasses.dataclass(frozen=True, slots=True)
class Exclusion:
    """A place that failed for a job and is left out for it. Empty fields match anything."""

    site: str
    location: str = ""
    flavor: str = ""
    partition_id: str = ""
    node: str = ""
    """Of the partition that is named."""
    reason: FailureReason = FailureReason.NO_CAPACITY
    message: str = ""
    until: float = math.inf
    """Seconds since the epoch; infinite: for good."""


@dataclasses.dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits for a place."""

    job_id: str
    owner: str
    submit_time: float
    spec: JobSpec
    priority: int = 0
    not_before: float = 0.0
    last_site: str = ""
    """Where its latest attempt was; empty: it had none."""
    excluded: tuple[Exclusion, ...] = ()
    attempt: int = 0
    """The number of its latest attempt; 0: it had none."""
    spent: Decimal = Decimal(0)
    """What it has cost so far, in the currency of its `max_cost`."""
    rank: tuple[int, float, str] = dataclasses.field(init=False, compare=False, repr=False)
    """Jobs are served in ascending order of this."""
    demand: Demand = dataclasses.field(init=False, compare=False, repr=False)
    signature: str = dataclasses.field(init=False, compare=False, repr=False)
    """The same for jobs that can go to the same places."""

    def __post_init__(self) -> None:
        demand = demand_of(self.spec, self.last_site, self.spent)
        nodes = [(each.site, each.partition_id, each.node) for each in self.excluded if each.node]
        if nodes:
            demand = dataclasses.replace(demand, excluded_nodes=frozenset(nodes))
        # A string keeps its hash, which makes looking up ten thousand of them cheap.
        signature = demand.signature + (f"\n{self.excluded}" if self.excluded else "")
        object.__setattr__(self, "rank", (-self.priority, self.submit_time, self.job_id))
        object.__setattr__(self, "demand", demand)
        object.__setattr__(self, "signature", signature)

    @classmethod
    def of(
        cls, job: Job, excluded: tuple[Exclusion, ...] = (), spent: Decimal = Decimal(0)
    ) -> QueuedJob:
        """The scheduler's view of a job that is QUEUED."""
        return cls(
            job_id=job.job_id,
            owner=job.owner,
            submit_time=job.submit_time,
            spec=job.spec,
            priority=job.spec.priority,
            not_before=job.not_before,
            last_site=job.site,
            excluded=excluded,
            attempt=job.attempt,
            spent=spent,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Give the job these parts of nodes of a partition that is ready; rank 0 first."""

    job_id: str
    site: str
    partition_id: str
    allocations: tuple[Allocation, ...]
    time_limit_s: int = 0
    """Where the job names none: what limits it on nodes that cost money; 0: nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Enqueue:
    """Hand the job to the site's own queue."""

    job_id: str
    site: str
    partition_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Create:
    """Have a partition made for the job."""

    job_id: str
    site: str
    location: str
    flavor: str
    node_count: int
    price_per_hour: Decimal | None
    """Of one node; None: unknown."""
    currency: str
    time_limit_s: int = 0
    """As of `Place`."""
    spot_price_limit: Decimal | None = None
    """Of spot nodes: what an hour of one may cost before the job's cap does not cover it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """These jobs stay queued, in their order, for what `text` tells people."""

    job_ids: tuple[str, ...]
    text: str
    until: float = 0.0
    """Ask again by this time (seconds since the epoch); 0: only when something changes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """The job can never run as it is, with all that is known of the sites it may go to."""

    job_id: str
    reason: FailureReason
    message: str


Decision = Place | Enqueue | Create | Wait | Reject
