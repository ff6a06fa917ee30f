"""CatalogService: what sites there are, and what they give."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rpc_kit.errors import not_found
from rpc_kit.interceptor import Context as CallContext
from rpc_kit.paging import page_of
from skyport.gate.v1 import inventory_pb2 as gate_inventory
from skyport.gate.v1 import partition_pb2 as gate_partition
from skyport.gate.v1 import types_pb2 as gate_types
from skyport.terminal.v1 import catalog_pb2, catalog_pb2_grpc
from swm_core.domain.job import Job
from swm_core.domain.partition import Partition
from swm_core.domain.states import PartitionState
from swm_core.gateways.barred import Bar
from swm_core.gateways.gate import Gate
from swm_core.gateways.health import SiteState
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.engine import Lifecycle
from swm_core.lifecycle.removals import Removals
from swm_core.security.identity import Caller, current_caller
from swm_core.terminal import convert

T = TypeVar("T")

_MOST_FAILED = 20

_SITE_STATES = {
    SiteState.STARTING: catalog_pb2.SITE_STATE_STARTING,
    SiteState.READY: catalog_pb2.SITE_STATE_READY,
    SiteState.UNREACHABLE: catalog_pb2.SITE_STATE_UNREACHABLE,
    SiteState.BROKEN: catalog_pb2.SITE_STATE_BROKEN,
}
_OWN_STATES = {
    PartitionState.CREATING: catalog_pb2.PARTITION_STATE_CREATING,
    PartitionState.READY: catalog_pb2.PARTITION_STATE_READY,
    PartitionState.STOPPED: catalog_pb2.PARTITION_STATE_STOPPED,
    PartitionState.DELETING: catalog_pb2.PARTITION_STATE_DELETING,
}
_GATE_STATES = {
    gate_partition.PARTITION_STATE_CREATING: catalog_pb2.PARTITION_STATE_CREATING,
    gate_partition.PARTITION_STATE_READY: catalog_pb2.PARTITION_STATE_READY,
    gate_partition.PARTITION_STATE_STOPPED: catalog_pb2.PARTITION_STATE_STOPPED,
}
_KINDS = {
    gate_types.PARTITION_KIND_STATIC: catalog_pb2.PARTITION_KIND_STATIC,
    gate_types.PARTITION_KIND_DYNAMIC: catalog_pb2.PARTITION_KIND_DYNAMIC,
    gate_types.PARTITION_KIND_QUEUE: catalog_pb2.PARTITION_KIND_QUEUE,
}

_NODE_STATES = {
    gate_inventory.NodeState.Value(name): number
    for name, number in catalog_pb2.NodeState.items()
    if number
}


class CatalogService(catalog_pb2_grpc.CatalogServiceServicer):
    """Sites and what they give, as their gates told it."""

    def __init__(self, context: Context, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle

    async def ListSites(
        self, request: catalog_pb2.ListSitesRequest, context: CallContext
    ) -> catalog_pb2.ListSitesResponse:
        caller = current_caller()
        gates = [self._context.gates[name] for name in sorted(self._context.gates)]
        shown, token = _page(request, gates, lambda gate: gate.name)
        return catalog_pb2.ListSitesResponse(
            sites=[self._site(gate, caller) for gate in shown], next_page_token=token
        )

    def _site(self, gate: Gate, caller: Caller) -> catalog_pb2.Site:
        removals = self._lifecycle.removals[gate.name]
        deleting = [
            partition
            for partition in self._context.partitions
            if partition.site == gate.name and partition.state is PartitionState.DELETING
        ]
        change = gate.site_changed and (
            f"{gate.site_changed}; if that is meant: `swm site accept-change {gate.name}`"
        )
        site = catalog_pb2.Site(
            name=gate.name,
            state=_SITE_STATES[gate.state],
            message="; ".join(filter(None, (gate.message, change))),
            supervised=gate.process is not None,
            active_jobs=sum(1 for job in self._context.jobs if _placed_at(job, gate.name)),
            pending_removals=removals.pending + len(deleting),
            partitions=sum(1 for each in self._context.partitions if each.site == gate.name),
            max_partitions=self._lifecycle.placement.views.max_partitions(gate),
        )
        if idle_s := self._lifecycle.idle_s.get(gate.name, 0):
            site.idle_time.CopyFrom(convert.duration(idle_s))
        if gate.drained and gate.ready:
            site.state = catalog_pb2.SITE_STATE_DRAINED
        if gate.info is not None:
            site.summary = gate.info.summary
            site.gate_name = gate.info.name
            site.gate_version = gate.info.version
            site.capabilities.extend(sorted(gate.info.capabilities))
            site.storage.extend(sorted(gate.info.storage))
        if gate.process is not None:
            site.restarts = gate.process.restarts
            if caller.is_admin:
                site.pid = gate.process.pid or 0
                if not gate.ready:
                    site.log_tail.extend(gate.process.log_tail())
        if caller.is_admin:
            site.orphans = len(self._lifecycle.reconciliations[gate.name].orphans.all())
            site.failed_removals.extend(_failed(removals, deleting))
        if gate.last_contact is not None:
            site.last_contact_time.CopyFrom(convert.timestamp(gate.last_contact))
        return site

    async def ListFlavors(
        self, request: catalog_pb2.ListFlavorsRequest, context: CallContext
    ) -> catalog_pb2.ListFlavorsResponse:
        gates = self._gates(request.site)
        flavors = [
            _flavor(gate.name, flavor) for gate in gates for flavor in gate.inventory.flavors
        ]
        shown, token = _page(request, flavors, lambda each: (each.site, each.location, each.name))
        return catalog_pb2.ListFlavorsResponse(
            flavors=shown, next_page_token=token, unreachable_sites=_unknown(gates)
        )

    async def ListImages(
        self, request: catalog_pb2.ListImagesRequest, context: CallContext
    ) -> catalog_pb2.ListImagesResponse:
        gates = self._gates(request.site)
        images = [
            catalog_pb2.Image(
                name=image.name,
                site=gate.name,
                container=image.kind == gate_inventory.IMAGE_KIND_CONTAINER,
                description=image.description,
                architecture=image.architecture,
                location=image.location,
            )
            for gate in gates
            for image in gate.inventory.images
        ]
        shown, token = _page(request, images, lambda each: (each.site, each.name, each.location))
        return catalog_pb2.ListImagesResponse(
            images=shown, next_page_token=token, unreachable_sites=_unknown(gates)
        )

    async def ListPartitions(
        self, request: catalog_pb2.ListPartitionsRequest, context: CallContext
    ) -> catalog_pb2.ListPartitionsResponse:
        caller = current_caller()
        gates = self._gates(request.site)
        names = {gate.name for gate in gates}
        found = [
            _fixed_partition(gate, partition)
            for gate in gates
            for partition in gate.inventory.partitions.values()
            if partition.kind != gate_types.PARTITION_KIND_DYNAMIC
        ]
        found += [
            _own_partition(partition)
            for partition in self._context.partitions
            if partition.site in names and caller.may_see(partition.owner)
        ]
        shown, token = _page(request, found, lambda each: (each.site, each.partition_id))
        return catalog_pb2.ListPartitionsResponse(
            partitions=shown, next_page_token=token, unreachable_sites=_unknown(gates)
        )

    async def ListNodes(
        self, request: catalog_pb2.ListNodesRequest, context: CallContext
    ) -> catalog_pb2.ListNodesResponse:
        caller = current_caller()
        gates = self._gates(request.site)
        wanted = request.partition_id
        known = any(self._sees(caller, gate, wanted) for gate in gates)
        if wanted and not known and not _unknown(gates):
            raise not_found(
                "PARTITION_NOT_FOUND",
                f"there is no partition {wanted[:60]}; `swm partitions` lists what there is",
            )
        used = self._used()
        nodes = []
        for gate in gates:
            for partition_id, members in gate.inventory.nodes.items():
                if wanted in ("", partition_id) and self._sees(caller, gate, partition_id):
                    bars = _bars(gate, partition_id, caller)
                    nodes += [
                        _with_bar(_node(gate.name, node, used), bars, caller)
                        for node in members.values()
                    ]
        shown, token = _page(request, nodes, lambda each: (each.site, each.partition_id, each.name))
        return catalog_pb2.ListNodesResponse(
            nodes=shown, next_page_token=token, unreachable_sites=_unknown(gates)
        )

    def _sees(self, caller: Caller, gate: Gate, partition_id: str) -> bool:
        own = self._context.partitions.get(partition_id)
        if own is not None:
            return caller.may_see(own.owner)
        told = gate.inventory.partitions.get(partition_id)
        # A dynamic one that is not the core's (any more) has no owner to be known by.
        dynamic = gate_types.PARTITION_KIND_DYNAMIC
        return told is not None and (caller.is_admin or told.kind != dynamic)

    def _gates(self, site: str) -> list[Gate]:
        if not site:
            return [self._context.gates[name] for name in sorted(self._context.gates)]
        gate = self._context.gates.get(site)
        if gate is None:
            known = ", ".join(sorted(self._context.gates)) or "none"
            raise not_found("SITE_NOT_FOUND", f"there is no site {site}; configured: {known}")
        return [gate]

    def _used(self) -> Mapping[tuple[str, str, str], tuple[int, int, int, int]]:
        """By site, partition and node: cpus, bytes, GPUs and jobs."""
        used: dict[tuple[str, str, str], tuple[int, int, int, int]] = {}
        for job in self._context.jobs:
            if not _placed_at(job, job.site):
                continue
            for part in job.allocations:
                key = (job.site, job.partition_id, part.node)
                cpus, mem, gpus, jobs = used.get(key, (0, 0, 0, 0))
                used[key] = (
                    cpus + part.cpus,
                    mem + part.mem_bytes,
                    gpus + len(part.gpu_ids),
                    jobs + 1,
                )
        return used


def _failed(removals: Removals, deleting: Iterable[Partition]) -> list[catalog_pb2.FailedRemoval]:
    """What a site was asked to remove in vain, the most tried first."""
    failed = [
        catalog_pb2.FailedRemoval(
            partition_id=partition.partition_id,
            tries=partition.delete_tries,
            message=partition.text,
        )
        for partition in deleting
        if partition.delete_tries
    ]
    failed += [
        catalog_pb2.FailedRemoval(
            partition_id=each.partition_id,
            job_id=key.job_id,
            attempt=key.attempt,
            tries=each.tries,
            message=each.message,
        )
        for key, each in removals.failed.items()
    ]
    return sorted(failed, key=lambda each: -each.tries)[:_MOST_FAILED]


def _placed_at(job: Job, site: str) -> bool:
    return job.site == site and bool(site) and job.state.value != "QUEUED"


def _page(request: Any, items: Sequence[T], key: Callable[[T], Any]) -> tuple[list[T], str]:
    """One page of `items` by `key`, and the token of the next.

    The token holds the last key that was shown, so what comes and goes between pages does no harm.
    """
    page = page_of(request, current_caller().user)
    ordered = sorted(items, key=key)
    keys = [repr(key(item)) for item in ordered]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    start = bisect.bisect_right([keys[i] for i in order], page.after) if page.after else 0
    chosen = order[start : start + page.size]
    more = start + page.size < len(order)
    token = page.token(keys[chosen[-1]]) if more and chosen else ""
    return [ordered[i] for i in chosen], token


def _unknown(gates: Iterable[Gate]) -> list[str]:
    return [gate.name for gate in gates if not gate.inventory.known]


def _flavor(site: str, flavor: gate_inventory.Flavor) -> catalog_pb2.Flavor:
    message = catalog_pb2.Flavor(
        name=flavor.name,
        site=site,
        location=flavor.location,
        cpus=flavor.cpus,
        memory_bytes=flavor.memory_bytes,
        gpus=flavor.gpus,
        gpu_model=flavor.gpu_model,
        disk_bytes=flavor.disk_bytes,
        architecture=flavor.architecture,
        partition_ids=flavor.partition_ids,
    )
    if flavor.HasField("on_demand_price"):
        message.on_demand_price.CopyFrom(flavor.on_demand_price)
    if flavor.HasField("spot_price"):
        message.spot_price.CopyFrom(flavor.spot_price)
    return message


def _fixed_partition(gate: Gate, partition: gate_partition.Partition) -> catalog_pb2.Partition:
    return catalog_pb2.Partition(
        partition_id=partition.partition_id,
        site=gate.name,
        kind=_KINDS.get(partition.kind, catalog_pb2.PARTITION_KIND_UNSPECIFIED),
        state=_GATE_STATES.get(partition.state, catalog_pb2.PARTITION_STATE_CREATING),
        text=partition.text,
        node_count=len(gate.inventory.nodes.get(partition.partition_id, ())),
    )


def _own_partition(partition: Partition) -> catalog_pb2.Partition:
    message = catalog_pb2.Partition(
        partition_id=partition.partition_id,
        site=partition.site,
        kind=catalog_pb2.PARTITION_KIND_DYNAMIC,
        state=_OWN_STATES[partition.state],
        text=partition.text,
        owner=partition.owner,
        job_id=partition.job_id,
        flavor=partition.spec.flavor,
        location=partition.spec.location,
        node_count=partition.spec.node_count,
        create_time=convert.timestamp(partition.create_time),
        spot=partition.spec.spot,
    )
    if partition.price_per_hour is not None:
        message.price.CopyFrom(convert.hourly_price(partition))
    return message


def _bars(gate: Gate, partition_id: str, caller: Caller) -> dict[str, Bar]:
    """By node, or under an empty name for all nodes: what the caller may know of."""
    return {
        bar.node: bar
        for bar in gate.barred.now()
        if bar.partition_id == partition_id and (bar.everyone or caller.may_see(bar.owner))
    }


def _with_bar(node: catalog_pb2.Node, bars: Mapping[str, Bar], caller: Caller) -> catalog_pb2.Node:
    """A node with why it takes nothing new, if the core places nothing there."""
    bar = bars.get(node.name) or bars.get("")
    if bar is not None and node.state == catalog_pb2.NODE_STATE_UP:
        whose = "" if bar.everyone else f" of {bar.owner}"
        node.message = f"takes nothing new{whose}: {bar.why}"
        if bar.keeps_out(caller.user):
            node.state = catalog_pb2.NODE_STATE_DRAINED
    return node


def _node(
    site: str,
    node: gate_inventory.Node,
    used: Mapping[tuple[str, str, str], tuple[int, int, int, int]],
) -> catalog_pb2.Node:
    cpus, mem, gpus, jobs = used.get((site, node.partition_id, node.name), (0, 0, 0, 0))
    return catalog_pb2.Node(
        name=node.name,
        site=site,
        partition_id=node.partition_id,
        # One that this core does not know takes no jobs.
        state=_NODE_STATES.get(node.state, catalog_pb2.NODE_STATE_DOWN),
        message=node.message,
        flavor=node.flavor,
        cpus=node.cpus,
        allocated_cpus=cpus,
        memory_bytes=node.memory_bytes,
        allocated_memory_bytes=mem,
        gpus=len(node.gpu_ids),
        allocated_gpus=gpus,
        active_jobs=jobs,
    )
