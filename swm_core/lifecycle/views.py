"""What the scheduler is told: sites, nodes and jobs as they are at this moment."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from decimal import Decimal
from typing import Literal

from skyport.gate.v1 import inventory_pb2, partition_pb2, types_pb2
from swm_core.domain.job import Allocation, Job
from swm_core.domain.partition import Partition
from swm_core.domain.states import PartitionState
from swm_core.gateways import convert
from swm_core.gateways.barred import Bar
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.costs import CostBook
from swm_core.scheduler import (
    Exclusion,
    FlavorCatalog,
    FlavorView,
    NodeView,
    PartitionKind,
    PartitionLimits,
    PartitionView,
    QueuedJob,
    SiteView,
)
from swm_core.scheduler.demand import storage_capability

_KINDS = {
    types_pb2.PARTITION_KIND_STATIC: PartitionKind.STATIC,
    types_pb2.PARTITION_KIND_QUEUE: PartitionKind.QUEUE,
}
_STEP = 50
"""So many jobs are looked at at a time."""
_PORTS = inventory_pb2.PortRange(first=20_000, last=29_999)
"""Where a node tells no range (the Gate API's own default)."""

Used = Mapping[tuple[str, str, str], tuple[Allocation, ...]]


class Views:
    """Makes views, and keeps the parts that did not change since the last time.

    Args:
        context: The core's parts.
        max_partitions: By site: how many partitions the core may have; 0: as the gate says.
    """

    def __init__(self, context: Context, max_partitions: Mapping[str, int]) -> None:
        self._context = context
        self._max_partitions = max_partitions
        self._flavors: dict[str, tuple[list[inventory_pb2.Flavor], FlavorCatalog]] = {}
        self._queued: dict[str, tuple[Job, QueuedJob]] = {}
        self._known: tuple[object, list[SiteView]] = (None, [])

    def queued_jobs(
        self, excluded: Mapping[str, tuple[Exclusion, ...]], costs: CostBook
    ) -> Generator[None, None, list[QueuedJob]]:
        """The jobs that wait for a place; yields again and again, since there may be many.

        Args:
            excluded: By job: what is left out for it.
            costs: Knows what they have cost so far.
        """
        found: dict[str, tuple[Job, QueuedJob]] = {}
        barred = [
            (gate.name, bar) for gate in self._context.gates.values() for bar in gate.barred.now()
        ]
        for number, job in enumerate(tuple(self._context.jobs.queued)):
            if number % _STEP == 0:
                yield
            left_out = excluded.get(job.job_id, ())
            if barred:
                left_out += _barred_for(job.owner, barred)
            known = self._queued.get(job.job_id)
            if known is None or known[0] is not job or known[1].excluded != left_out:
                known = (job, QueuedJob.of(job, left_out, _spent(job, costs)))
            found[job.job_id] = known
        self._queued = found
        return [queued for _, queued in found.values()]

    def sites(self) -> list[SiteView]:
        """All configured sites, with what is taken of them."""
        used = _used(self._context.jobs.placed)
        return [self._site(gate, used) for gate in self._context.gates.values()]

    def empty_sites(self) -> list[SiteView]:
        """All configured sites as if nothing ran there: for what could run at all."""
        gates = self._context.gates.values()
        key = [(gate.name, gate.state, gate.drained, gate.inventory.version) for gate in gates]
        if self._known[0] != key:
            self._known = (key, [self._site(gate, {}) for gate in gates])
        return self._known[1]

    def _site(self, gate: Gate, used: Used) -> SiteView:
        own = [each for each in self._context.partitions if each.site == gate.name]
        inventory = gate.inventory
        fixed = [
            fixed_partition(gate, partition, used)
            for partition in inventory.partitions.values()
            if partition.kind in _KINDS
        ]
        return SiteView(
            name=gate.name,
            ready=gate.ready,
            drained=gate.drained,
            inventory_known=inventory.known,
            capabilities=_capabilities(gate),
            flavors=self._catalog(gate),
            partitions=(*fixed, *(own_partition(gate, each, used) for each in own)),
            max_partitions=self.max_partitions(gate),
            partitions_in_use=len(own),
            option_prefix=gate.info.option_prefix if gate.info else "",
            options=gate.info.options if gate.info else None,
            image_pattern=gate.info.image_pattern if gate.info else None,
            image_form=gate.info.image_form if gate.info else "",
        )

    def max_partitions(self, gate: Gate) -> int:
        """How many dynamic partitions the core may have at a site at once; 0: no limit."""
        told = gate.info.max_partitions if gate.info else 0
        own = self._max_partitions.get(gate.name, 0)
        return min(told, own) if told and own else told or own

    def _catalog(self, gate: Gate) -> FlavorCatalog:
        flavors = gate.inventory.flavors
        known = self._flavors.get(gate.name)
        if known is None or known[0] is not flavors:
            known = (flavors, FlavorCatalog(map(_flavor, flavors)))
            self._flavors[gate.name] = known
        return known[1]


def _barred_for(owner: str, barred: Iterable[tuple[str, Bar]]) -> tuple[Exclusion, ...]:
    """Where nothing of the owner is placed, of what the sites named beside it have barred."""
    return tuple(
        Exclusion(
            site,
            partition_id=bar.partition_id,
            node=bar.node,
            message=bar.why,
            until=bar.until,
        )
        for site, bar in barred
        if bar.keeps_out(owner)
    )


def _spent(job: Job, costs: CostBook) -> Decimal:
    """What the job has cost so far in the currency of its cap."""
    cap = job.spec.max_cost
    if cap is None or not job.attempt:
        return Decimal(0)
    return costs.of_job(job.job_id).get(cap.currency, Decimal(0))


def _capabilities(gate: Gate) -> frozenset[str]:
    if gate.info is None:
        return frozenset()
    return gate.info.capabilities | {storage_capability(name) for name in gate.info.storage}


def fixed_partition(gate: Gate, partition: partition_pb2.Partition, used: Used) -> PartitionView:
    """A static or queue partition as the scheduler sees it."""
    ready = partition.state == partition_pb2.PARTITION_STATE_READY
    return PartitionView(
        partition_id=partition.partition_id,
        kind=_KINDS[partition.kind],
        state=PartitionState.READY if ready else PartitionState.CREATING,
        nodes=_nodes(gate, partition.partition_id, used),
        limits=PartitionLimits(max_time_s=partition.longest_time_limit.seconds),
    )


def own_partition(gate: Gate, partition: Partition, used: Used | None = None) -> PartitionView:
    """A dynamic partition of this core as the scheduler sees it."""
    return PartitionView(
        partition_id=partition.partition_id,
        kind=PartitionKind.DYNAMIC,
        state=partition.state,
        owner=partition.owner,
        job_id="" if partition.pooled else partition.job_id,
        flavor=partition.spec.flavor,
        setup=partition.spec.setup,
        disk_bytes=partition.spec.disk_bytes,
        price_per_hour=partition.price_per_hour,
        currency=partition.currency,
        nodes=_nodes(gate, partition.partition_id, used or {}),
    )


def _nodes(gate: Gate, partition_id: str, used: Used) -> tuple[NodeView, ...]:
    return tuple(
        _node(node, used.get((gate.name, partition_id, node.name), ()))
        for node in gate.inventory.nodes.get(partition_id, {}).values()
    )


def _node(node: inventory_pb2.Node, used: tuple[Allocation, ...]) -> NodeView:
    ports = node.ports if node.HasField("ports") else _PORTS
    return NodeView(
        name=node.name,
        cpus=node.cpus,
        mem_bytes=node.memory_bytes,
        gpu_ids=tuple(node.gpu_ids),
        disk_bytes=node.disk_bytes,
        flavor=node.flavor,
        available=node.state == inventory_pb2.NODE_STATE_UP,
        port_first=ports.first,
        port_last=ports.last,
        used=used,
    )


def _flavor(flavor: inventory_pb2.Flavor) -> FlavorView:
    price, currency = _price(flavor, "on_demand_price")
    spot_price, spot_currency = _price(flavor, "spot_price")
    return FlavorView(
        name=flavor.name,
        location=flavor.location,
        cpus=flavor.cpus,
        mem_bytes=flavor.memory_bytes,
        gpus=flavor.gpus,
        disk_bytes=flavor.disk_bytes,
        price_per_hour=price,
        currency=currency,
        spot_price_per_hour=spot_price,
        spot_currency=spot_currency,
        architecture=flavor.architecture,
        partition_ids=tuple(flavor.partition_ids),
    )


def _price(
    flavor: inventory_pb2.Flavor, field: Literal["on_demand_price", "spot_price"]
) -> tuple[Decimal | None, str]:
    if not flavor.HasField(field):
        return None, ""
    return convert.price(getattr(flavor, field))


def _used(jobs: Iterable[Job]) -> Used:
    """What attempts have that are not known to have let go, by site, partition and node."""
    used: dict[tuple[str, str, str], list[Allocation]] = {}
    for job in jobs:
        for allocation in job.allocations:
            key = (job.site, job.partition_id, allocation.node)
            used.setdefault(key, []).append(allocation)
    return {key: tuple(allocations) for key, allocations in used.items()}
