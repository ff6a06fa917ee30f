"""Packing jobs onto the nodes of one partition: best fit, whole jobs only.

A `Room` is the working copy of a partition during one call. What is set aside for a waiting job is
subtracted as if it were given, also where that makes the rest negative: a later job then passes
only if it takes nothing of what the waiting one lacks, and leaves it what it needs of everything
else.
"""

from __future__ import annotations

import heapq
import zlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from operator import attrgetter

from swm_core.domain.job import Allocation, Port
from swm_core.scheduler.demand import Demand
from swm_core.scheduler.values import NodeView, PartitionView, QueuedJob

MAX_SET_ASIDE = 16
"""For how many waiting jobs of a partition places are kept. Later ones may be overtaken."""

_cpus = attrgetter("cpus")
_index = attrgetter("index")
_order = attrgetter("cpus", "mem", "index")
_gpu_order = attrgetter("gpus", "cpus", "mem", "index")


class Node:
    """A node's rest: what is neither given nor set aside."""

    __slots__ = (
        "cpus",
        "flavor",
        "gpu_ids",
        "gpus",
        "index",
        "mem",
        "ports",
        "range_free",
        "room",
        "view",
    )

    def __init__(self, view: NodeView, index: int, room: Room) -> None:
        self.view = view
        self.index = index
        self.room = room
        self.flavor = view.flavor or room.view.flavor
        self.cpus = view.free_cpus
        self.mem = view.free_mem_bytes
        self.gpu_ids = view.free_gpu_ids
        self.gpus = len(view.free_gpu_ids)
        self.ports: frozenset[int] = view.taken_ports
        self.range_free = _range_size(view)
        if self.ports:
            first, last = view.port_first, view.port_last
            self.range_free -= sum(first <= port <= last for port in self.ports)

    def fits(self, demand: Demand) -> bool:
        """Whether the job fits now, except for its cpus. What is not asked for may be overdrawn."""
        return (
            (not demand.mem_bytes or demand.mem_bytes <= self.mem)
            and (not demand.gpus or demand.gpus <= self.gpus)
            and (not demand.flavor or demand.flavor == self.flavor)
            and (not demand.ports or self._ports_fit(demand))
            and self._disk_fits(demand)
            and not (demand.excluded_nodes and self._is_excluded(demand))
        )

    def _ports_fit(self, demand: Demand) -> bool:
        return self.ports.isdisjoint(demand.fixed_ports) and (
            not demand.free_ports or self._range_left(demand) >= demand.free_ports
        )

    def _range_left(self, demand: Demand) -> int:
        first, last = self.view.port_first, self.view.port_last
        return self.range_free - sum(first <= port <= last for port in demand.fixed_ports)

    def _disk_fits(self, demand: Demand) -> bool:
        # Zero: not known, so the job may try.
        return not self.view.disk_bytes or demand.disk_bytes <= self.view.disk_bytes

    def _is_excluded(self, demand: Demand) -> bool:
        room = self.room
        return (room.site, room.view.partition_id, self.view.name) in demand.excluded_nodes

    def could(self, demand: Demand) -> bool:
        """Whether the job fits once enough of the other jobs have gone."""
        view = self.view
        return (
            view.cpus >= demand.cpus
            and view.mem_bytes >= demand.mem_bytes
            and len(view.gpu_ids) >= demand.gpus
            and (not demand.flavor or demand.flavor == self.flavor)
            and (not demand.free_ports or _range_size(view) >= demand.free_ports)
            and self._disk_fits(demand)
            and not (demand.excluded_nodes and self._is_excluded(demand))
        )

    def lack(self, demand: Demand) -> float:
        """How much is missing until the job fits. Never grows while only jobs end here."""
        lack = max(0, demand.cpus - self.cpus) / demand.cpus
        if demand.mem_bytes > max(self.mem, 0):
            lack += (demand.mem_bytes - self.mem) / demand.mem_bytes
        if demand.gpus > max(self.gpus, 0):
            lack += (demand.gpus - self.gpus) / demand.gpus
        if demand.ports:
            lack += len(self.ports.intersection(demand.fixed_ports))
            if demand.free_ports:
                lack += max(0, demand.free_ports - self._range_left(demand)) / demand.free_ports
        return lack

    def give(self, demand: Demand, seed: str) -> Allocation:
        """Take the job's part out of the rest."""
        gpu_ids, self.gpu_ids = self.gpu_ids[: demand.gpus], self.gpu_ids[demand.gpus :]
        ports: dict[str, int] = {}
        if demand.ports:
            ports = _choose_ports(demand.ports, self.view, self.ports, seed) or {}
            self._take_ports(ports.values())
        self.cpus -= demand.cpus
        self.mem -= demand.mem_bytes
        self.gpus -= demand.gpus
        return Allocation(self.view.name, demand.cpus, demand.mem_bytes, gpu_ids, ports)

    def set_aside(self, demand: Demand) -> None:
        """Take as much out of the rest, for a job that has to wait."""
        self.cpus -= demand.cpus
        self.mem -= demand.mem_bytes
        self.gpus -= demand.gpus
        if demand.ports:
            self._take_ports(demand.fixed_ports)
            self.range_free -= demand.free_ports

    def _take_ports(self, numbers: Iterable[int]) -> None:
        first, last = self.view.port_first, self.view.port_last
        fresh = [number for number in numbers if number not in self.ports]
        self.range_free -= sum(first <= number <= last for number in fresh)
        self.ports = self.ports.union(fresh)


class Room:
    """What is left of a partition. Nodes that take no jobs now are not in it."""

    def __init__(self, site: str, view: PartitionView, *, alone: bool = True) -> None:
        self.site = site
        self.view = view
        self.alone = alone
        """Whether it is the only static partition of its site."""
        self.waited_for = False
        """Whether a job has been found in this call that has to wait for it."""
        self.set_aside_count = 0
        self.free_cpus = 0
        """Neither given nor set aside, over all nodes."""
        # Nodes without GPUs are tried first by jobs that need none; each pool in order of what is
        # left.
        self._plain: list[Node] = []
        self._with_gpus: list[Node] = []
        for index, node in enumerate(view.nodes):
            if node.available and node.cpus:
                pool = self._with_gpus if node.gpu_ids else self._plain
                pool.append(Node(node, index, self))
                self.free_cpus += node.free_cpus
        self._plain.sort(key=_order)
        self._with_gpus.sort(key=_order)

    @property
    def closed(self) -> bool:
        """Whether no job at all fits any more: each needs at least one cpu."""
        plain, with_gpus = self._plain, self._with_gpus
        return (not plain or plain[-1].cpus <= 0) and (not with_gpus or with_gpus[-1].cpus <= 0)

    def place(self, demand: Demand, seed: str) -> tuple[Allocation, ...] | None:
        """The job's parts of its nodes; None if it does not fit now. `seed` spreads free ports."""
        nodes = self._find(demand)
        if nodes is None:
            return None
        given = []
        for node in sorted(nodes, key=_index):
            pool = self._with_gpus if node.view.gpu_ids else self._plain
            pool.remove(node)
            given.append(node.give(demand, seed))
            insort(pool, node, key=_order)
        self.free_cpus -= demand.cpus * demand.nodes
        return tuple(given)

    def _find(self, demand: Demand) -> list[Node] | None:
        """The nodes on which the least would be left over."""
        if demand.gpus:
            pool = self._with_gpus
            fitting = [node for node in pool[_start(pool, demand) :] if node.fits(demand)]
            chosen = heapq.nsmallest(demand.nodes, fitting, key=_gpu_order)
            return chosen if len(chosen) == demand.nodes else None
        chosen = []
        for pool in (self._plain, self._with_gpus):
            for position in range(_start(pool, demand), len(pool)):
                node = pool[position]
                if node.fits(demand):
                    chosen.append(node)
                    if len(chosen) == demand.nodes:
                        return chosen
        return None

    def nearest(self, demand: Demand) -> tuple[float, list[Node]] | None:
        """How much is lacking until the job fits, and where; None if there are too few nodes.

        Ties go to the nodes listed first. So the choice stays the same from call to call, or moves
        to less lack: what waits for it is not starved.
        """
        best: list[tuple[float, int, Node]] = []  # a heap with the worst of them on top
        for pool in (self._with_gpus,) if demand.gpus else (self._plain, self._with_gpus):
            for node in reversed(pool):
                least = (demand.cpus - node.cpus) / demand.cpus
                if len(best) == demand.nodes and least > -best[0][0]:
                    break  # those that follow have no more cpus than this one
                if node.could(demand):
                    entry = (-node.lack(demand), -node.index, node)
                    if len(best) < demand.nodes:
                        heapq.heappush(best, entry)
                    elif entry > best[0]:
                        heapq.heapreplace(best, entry)
        if len(best) < demand.nodes:
            return None
        return -sum(entry[0] for entry in best), [entry[2] for entry in best]

    def missing(self, demand: Demand) -> list[tuple[str, int, int]] | None:
        """What the nearest node lacks: kind, asked, free. None: there is no node for it now."""
        found = self.nearest(demand)
        if found is None:
            return None
        node = found[1][0]
        parts = [
            ("cpus", demand.cpus, max(node.cpus, 0)),
            ("mem", demand.mem_bytes, max(node.mem, 0)),
            ("gpus", demand.gpus, max(node.gpus, 0)),
            ("ports", demand.free_ports, max(node.range_free, 0)),
        ]
        taken = [("port", port, 0) for port in demand.fixed_ports if port in node.ports]
        return [part for part in parts if part[1] > part[2]] + taken

    def set_aside(self, demand: Demand, nodes: Iterable[Node]) -> None:
        """Keep these nodes for a job that waits for them."""
        self.set_aside_count += 1
        self.free_cpus -= demand.cpus * demand.nodes
        for node in nodes:
            pool = self._with_gpus if node.view.gpu_ids else self._plain
            pool.remove(node)
            node.set_aside(demand)
            insort(pool, node, key=_order)

    def count_fitting(self, demand: Demand) -> int:
        """On how many nodes a part of the job fits now."""
        return sum(
            node.cpus >= demand.cpus and node.fits(demand)
            for pool in (self._plain, self._with_gpus)
            for node in pool
        )


def _range_size(view: NodeView) -> int:
    return view.port_last - view.port_first + 1 if view.port_first else 0


def _start(pool: list[Node], demand: Demand) -> int:
    return bisect_left(pool, demand.cpus, key=_cpus)


def allocate(job: QueuedJob, partition: PartitionView) -> tuple[Allocation, ...] | None:
    """What the partition's nodes give to the job, rank 0 first; None if it does not fit now.

    A dynamic partition that was made for this job gives all that its nodes have: they are the job's
    alone.
    """
    seed = seed_of(job)
    if not partition.job_id or partition.job_id != job.job_id:
        return Room("", partition).place(job.demand, seed)
    given: list[Allocation] = []
    for node in partition.nodes:
        if len(given) == job.demand.nodes:
            break
        if node.available and not node.used:
            ports = _choose_ports(job.demand.ports, node, frozenset(), seed)
            if ports is not None:
                given.append(Allocation(node.name, node.cpus, node.mem_bytes, node.gpu_ids, ports))
    return tuple(given) if len(given) == job.demand.nodes else None


def seed_of(job: QueuedJob) -> str:
    """What the choice of free ports starts from: another place for each attempt."""
    return f"{job.job_id}/{job.attempt + 1}"


def _choose_ports(
    ports: Iterable[Port], node: NodeView, taken: frozenset[int], seed: str
) -> dict[str, int] | None:
    """The numbers for the ports asked for, by name, or by number where they have none.

    Free ones are looked for from a place in the range that differs by attempt: a port that was in
    use a moment ago may still be refused by the kernel. None: the range has too few.
    """
    chosen = {port.name or str(port.number): port.number for port in ports if port.number}
    names = [port.name for port in ports if not port.number]
    if names:
        size = _range_size(node)
        begin = zlib.crc32(seed.encode())
        fixed = set(chosen.values())
        waiting = iter(names)
        name = next(waiting, None)
        for step in range(size):
            number = node.port_first + (begin + step) % size
            if number not in taken and number not in fixed:
                chosen[str(name)] = number
                name = next(waiting, None)
                if name is None:
                    break
        if name is not None:
            return None
    return chosen
