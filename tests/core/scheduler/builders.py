"""Short ways to write down jobs and sites."""

from __future__ import annotations

import random
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from swm_core.domain.job import Allocation, Direction, JobSpec, Port, Resources
from swm_core.scheduler import (
    Create,
    Decision,
    Enqueue,
    FlavorCatalog,
    FlavorView,
    NodeView,
    PartitionKind,
    PartitionView,
    Place,
    QueuedJob,
    Reject,
    SiteView,
    Wait,
    schedule,
)

GIB = 2**30
NOW = 1_000.0
HOST_CAPABILITIES = frozenset({"STATIC_PARTITIONS", "MULTI_NODE", "TUNNELS", "REVERSE_TUNNELS"})
CLOUD_CAPABILITIES = HOST_CAPABILITIES | {"DYNAMIC_PARTITIONS", "CONTAINERS", "PRICES"}


def seeded(seed: int) -> random.Random:
    """Chances that repeat."""
    return random.Random(seed)  # noqa: S311 - a simulation needs no secret


def spec(
    cpus: int = 1, mem: int = 0, gpus: int = 0, *, ports: str = "", disk: int = 0, **fields: Any
) -> JobSpec:
    """A specification; `mem` and `disk` in GiB, `ports` as `8888 out:8081 WEB`."""
    wanted = []
    for word in ports.split():
        direction = Direction.OUT if word.startswith("out:") else Direction.IN
        number = word.removeprefix("out:")
        wanted.append(
            Port(int(number), direction) if number.isdigit() else Port(0, direction, number)
        )
    resources = Resources(cpus, mem * GIB, gpus, disk * GIB)
    return JobSpec(resources=resources, ports=tuple(wanted), **fields)


def job(job_id: str, what: JobSpec | None = None, **fields: Any) -> QueuedJob:
    """A queued job; submitted in the order of the ids unless said otherwise."""
    fields.setdefault("owner", "ann")
    fields.setdefault("submit_time", 0.0)
    return QueuedJob(job_id=job_id, spec=what or spec(), **fields)


def node(
    name: str, cpus: int = 4, mem: int = 16, gpus: int = 0, *, used: Any = (), **fields: Any
) -> NodeView:
    """A node with `gpus` GPUs named `<node>-g0` and so on. `used`: allocations, or (cpus, GiB)."""
    parts = tuple(
        part if isinstance(part, Allocation) else Allocation(name, part[0], part[1] * GIB)
        for part in used
    )
    ids = tuple(f"{name}-g{number}" for number in range(gpus))
    return NodeView(name, cpus, mem * GIB, ids, used=parts, **fields)


def hosts(*nodes: NodeView, partition_id: str = "lab-hosts", **fields: Any) -> PartitionView:
    """A static partition."""
    return PartitionView(partition_id, PartitionKind.STATIC, nodes=nodes, **fields)


def queue(partition_id: str, **fields: Any) -> PartitionView:
    """A queue of the site's own."""
    return PartitionView(partition_id, PartitionKind.QUEUE, **fields)


def lab(*nodes: NodeView, **fields: Any) -> SiteView:
    """A site of hosts."""
    fields.setdefault("capabilities", HOST_CAPABILITIES)
    fields.setdefault("partitions", (hosts(*nodes),))
    return SiteView(fields.pop("name", "lab"), **fields)


def flavor(
    name: str, cpus: int, mem: int, price: str | None, gpus: int = 0, **fields: Any
) -> FlavorView:
    """A flavor; `mem` in GiB, `price` in USD."""
    return FlavorView(
        name,
        cpus=cpus,
        mem_bytes=mem * GIB,
        gpus=gpus,
        price_per_hour=None if price is None else Decimal(price),
        currency=fields.pop("currency", "USD"),
        **fields,
    )


def cloud(*flavors: FlavorView, **fields: Any) -> SiteView:
    """A site that creates partitions."""
    fields.setdefault("capabilities", CLOUD_CAPABILITIES)
    return SiteView(fields.pop("name", "cloud"), flavors=FlavorCatalog(flavors), **fields)


def slurm(*partitions: PartitionView, **fields: Any) -> SiteView:
    """A site with a queue of its own."""
    fields.setdefault("capabilities", frozenset({"SITE_QUEUE", "MULTI_NODE"}))
    return SiteView(fields.pop("name", "hpc"), partitions=partitions, **fields)


def decide(jobs: Iterable[QueuedJob], *sites: SiteView, now: float = NOW) -> dict[str, Decision]:
    """The decisions by job."""
    decided: dict[str, Decision] = {}
    for decision in schedule(list(jobs), sites, now):
        ids = decision.job_ids if isinstance(decision, Wait) else (decision.job_id,)
        for job_id in ids:
            assert job_id not in decided, "two decisions for one job"
            decided[job_id] = decision
    return decided


def told(decision: Decision) -> str:
    """A decision in few words, for tables: `n1+n2`, `queue hpc-main`, `new cloud/small`, …."""
    match decision:
        case Place(allocations=allocations):
            return "+".join(allocation.node for allocation in allocations)
        case Enqueue(partition_id=partition_id):
            return f"queue {partition_id}"
        case Create(site=site, flavor=name, node_count=count):
            return f"new {site}/{name}" + (f" x{count}" if count > 1 else "")
        case Reject(reason=reason):
            return f"never {reason}"
        case Wait(text=text):
            return text
