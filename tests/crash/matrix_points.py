"""Every point at which something can be killed: made of the tables and protos, not written down.

A new state, transition or RPC is a new point by itself. It has to be reached at each kind of site,
or to be told here as impossible there, with the reason.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping

from google.protobuf.descriptor import MethodDescriptor

from skyport.gate.v1 import (
    file_pb2,
    identity_pb2,
    inventory_pb2,
    job_pb2,
    partition_pb2,
    tunnel_pb2,
)
from swm_core.domain.states import JOB_TRANSITIONS, PARTITION_TRANSITIONS
from swm_core.store.jobs import DECISIONS
from tests.crash.matrix_parts import SITES

_FILES = (identity_pb2, inventory_pb2, partition_pb2, job_pb2, file_pb2, tunnel_pb2)


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """A fail point of the core that is about a site, or one of the site's gate.

    Attributes:
        site: Name of the site.
        what: What happens there, as `job QUEUED>PROVISIONING`, `job cancel`, `call METHOD` or
            `serve METHOD`.
        when: `before`, `after`, or at the `first` answer of a stream.
    """

    site: str
    what: str
    when: str

    @property
    def in_gate(self) -> bool:
        """Whether the gate passes by it, and not the core."""
        return self.what.startswith("serve ")

    @property
    def name(self) -> str:
        """As the process that passes by knows it."""
        name = f"{self.what} {self.when}"
        return name if self.in_gate else f"{self.site} {name}"

    @property
    def subject(self) -> str:
        """The transition, decision or RPC that it is about."""
        return self.what.removeprefix("call ").removeprefix("serve ")

    def __str__(self) -> str:
        return f"{self.site}: {self.what} {self.when}"


@dataclasses.dataclass(frozen=True)
class Impossible:
    """What cannot happen at some sites."""

    sites: tuple[str, ...]
    pattern: str
    reason: str

    def covers(self, point: Point) -> bool:
        text = f"{point.what} {point.when}"
        return point.site in self.sites and fnmatch.fnmatchcase(text, self.pattern)


_API = "skyport.gate.v1"
_NOT_CLOUD = ("hosts", "batch", "lab")
_NOT_BATCH = ("hosts", "cloud", "lab", "azure")
_NO_PARTITIONS = "it makes no partitions"
_AT_ONCE = "a place on what is there is taken and ready in one step"
_NO_QUEUE = "it has no queue of its own"
_NEVER_FULL = "the core knows what is free on nodes: their gate never says that there is no room"
_WATCH = "a watch has no end: it breaks"
_DROPPED = "the core ends it by dropping it"

IMPOSSIBLE = (
    Impossible(_NOT_CLOUD, "partition *", _NO_PARTITIONS),
    Impossible(_NOT_CLOUD, f"* {_API}.PartitionService/CreatePartition *", _NO_PARTITIONS),
    Impossible(_NOT_CLOUD, f"* {_API}.PartitionService/DeletePartition *", _NO_PARTITIONS),
    Impossible(_NOT_CLOUD, f"call {_API}.PartitionService/GetPartition *", _NO_PARTITIONS),
    Impossible(_NOT_CLOUD, f"call {_API}.PartitionService/RenewPartition *", _NO_PARTITIONS),
    Impossible(_NOT_CLOUD, "job PROVISIONING>QUEUED *", _AT_ONCE),
    Impossible(_NOT_CLOUD, "job PROVISIONING>FAILED *", _AT_ONCE),
    Impossible(_NOT_CLOUD, "job PROVISIONING>CANCELLED *", _AT_ONCE),
    Impossible(_NOT_BATCH, "job QUEUED_AT_SITE>* *", _NO_QUEUE),
    Impossible(_NOT_BATCH, "job STARTING>QUEUED_AT_SITE *", _NO_QUEUE),
    Impossible(("lab", "azure"), "job STAGING_IN>QUEUED *", _NEVER_FULL),
    Impossible(("lab", "azure"), "job STARTING>QUEUED *", _NEVER_FULL),
    Impossible(SITES, f"call {_API}.InventoryService/ListNodes *", "the watch tells of nodes"),
    Impossible(SITES, f"serve {_API}.JobService/WatchJobs after", _WATCH),
    Impossible(SITES, f"serve {_API}.PartitionService/WatchPartitions after", _WATCH),
)
"""Points that no kind of run can reach. One that is reached nevertheless is a mistake, too."""

BY_CHANCE = (
    Impossible(SITES, f"* {_API}.TunnelService/Accept after", _DROPPED),
    Impossible(SITES, f"* {_API}.TunnelService/Connect after", _DROPPED),
    Impossible(SITES, f"* {_API}.TunnelService/Listen after", _DROPPED),
)
"""Ends of streams that either side may end first: there is no case for them."""


def transitions() -> list[str]:
    """All transitions of jobs and of partitions, with their beginnings."""
    tables: Mapping[str, Mapping[str, frozenset[str]]] = {
        "job": {str(k): frozenset(map(str, v)) for k, v in JOB_TRANSITIONS.items()},
        "partition": {str(k): frozenset(map(str, v)) for k, v in PARTITION_TRANSITIONS.items()},
    }
    found = []
    for kind, table in tables.items():
        found.append(f"{kind} NEW>{next(iter(table))}")
        found += [f"{kind} {a}>{b}" for a, ways in table.items() for b in sorted(ways)]
    return found


def decisions() -> list[str]:
    """Ends of jobs that are on record before anything comes of them."""
    return [f"job {decision}" for decision in DECISIONS]


def methods() -> Iterator[MethodDescriptor]:
    """All RPCs of the Gate API."""
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def method_name(method: MethodDescriptor) -> str:
    """As `skyport.gate.v1.JobService/StartJob`."""
    return f"{method.containing_service.full_name}/{method.name}"


def all_points() -> list[Point]:
    """Every point of every site, but for those that are reached by chance."""
    points = [point for site in SITES for point in _points_of(site)]
    return [point for point in points if not any(entry.covers(point) for entry in BY_CHANCE)]


def _points_of(site: str) -> Iterator[Point]:
    for what in (*transitions(), *decisions()):
        for when in ("before", "after"):
            yield Point(site, what, when)
    for method in methods():
        whens = ("before", "first", "after") if method.server_streaming else ("before", "after")
        for kind in ("call", "serve"):
            for when in whens:
                yield Point(site, f"{kind} {method_name(method)}", when)
