"""Whether a partition could hold a job if it were empty."""

from __future__ import annotations

from swm_core.scheduler.catalog import satisfies
from swm_core.scheduler.demand import Demand
from swm_core.scheduler.values import NodeClass, PartitionKind, PartitionView, SiteView


def can_hold(part: PartitionView, demand: Demand, site: SiteView) -> bool:
    """Whether the job would fit into the partition, as far as is known, if it were empty."""
    limits = part.limits
    if (
        (limits.max_time_s and demand.time_limit_s > limits.max_time_s)
        or (limits.max_nodes and demand.nodes > limits.max_nodes)
        or (limits.max_cpus and demand.cpus > limits.max_cpus)
        or (limits.max_mem_bytes and demand.mem_bytes > limits.max_mem_bytes)
        or (limits.max_gpus and demand.gpus > limits.max_gpus)
    ):
        return False
    if part.kind is PartitionKind.QUEUE:
        return _queue_can_hold(part, demand, site)
    return count_able(part, demand) >= demand.nodes


def count_able(part: PartitionView, demand: Demand) -> int:
    """How many nodes of the partition can take a node's part of the job when empty."""
    return sum(count for kind, count in part.classes if class_can_hold(kind, demand))


def _queue_can_hold(part: PartitionView, demand: Demand, site: SiteView) -> bool:
    # What a queue has is told by flavors, by nodes, or not at all; then only the site can say no.
    flavors = site.flavors.of_partition(part.partition_id)
    if flavors:
        has_enough = not part.classes or sum(n for _, n in part.classes) >= demand.nodes
        return has_enough and any(satisfies(flavor, demand) for flavor in flavors)
    if part.classes:
        return count_able(part, demand) >= demand.nodes
    return not demand.flavor


def class_can_hold(kind: NodeClass, demand: Demand) -> bool:
    """Whether an empty node of this kind can take a node's part of the job."""
    if demand.flavor and kind.flavor != demand.flavor:
        return False
    if not kind.cpus:
        return True  # a node that is down has not told what it has
    return (
        kind.cpus >= demand.cpus
        and kind.mem_bytes >= demand.mem_bytes
        and kind.gpus >= demand.gpus
        and kind.ports >= demand.free_ports
    )
