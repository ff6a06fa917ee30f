"""Partitions as they are: those that are always there, and dynamic ones, from their folders.

A dynamic one is a folder of the site:

    request      the CreatePartitionRequest: the tagged object
    expire       when it ends by itself, in nanoseconds since the epoch
    ready        empty: its nodes are up
    stopped      empty: its time passed, and its nodes were deallocated
    failure      why it could not be made
    deleting     empty: it is being deleted
    lost.NODE    why that node is gone for good
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from gate_kit import errors
from gate_kit.job_checks import Place
from gate_kit.job_status import timestamp
from gates.fake_gate.config import Config, FlavorConfig, Kind
from gates.fake_gate.faults import FaultScript
from gates.fake_gate.nodes import configured_nodes, created_nodes, price, queue_nodes
from gates.fake_gate.site import Site
from skyport.gate.v1 import partition_pb2, types_pb2

_ID = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
_STATIC = {
    Kind.STATIC: types_pb2.PARTITION_KIND_STATIC,
    Kind.QUEUE: types_pb2.PARTITION_KIND_QUEUE,
}


class Partitions:
    """All partitions of the site. Changes nothing.

    Args:
        site: Where the dynamic ones are.
        config: The others, and what dynamic ones are made of.
        faults: Which nodes do not answer.
        started_ns: When the gate started, for prices whose age nobody says.
    """

    def __init__(self, site: Site, config: Config, faults: FaultScript, started_ns: int) -> None:
        self._site = site
        self._config = config
        self._faults = faults
        self._started_ns = started_ns

    def place(self, partition_id: str) -> Place:
        """Where jobs of the partition run.

        Raises:
            Refusal: PARTITION_NOT_FOUND.
        """
        config = self._config.partitions.get(partition_id)
        if config is None:
            partition = self.get(partition_id)
            return Place(
                partition.kind,
                {node.name: list(node.gpu_ids) for node in partition.nodes},
                is_ready=partition.state == partition_pb2.PARTITION_STATE_READY,
                text=partition.text,
            )
        gpus: dict[str, Sequence[str] | None] = {node.name: node.gpus for node in config.nodes}
        if config.kind is Kind.QUEUE:
            gpus = dict.fromkeys(queue_nodes(partition_id, config), ())
        return Place(_STATIC[config.kind], gpus, is_ready=True, text="")

    def get(self, partition_id: str) -> partition_pb2.Partition:
        """One partition as it is now.

        Raises:
            Refusal: PARTITION_NOT_FOUND.
        """
        config = self._config.partitions.get(partition_id)
        if config is not None:
            nodes = configured_nodes(partition_id, config, self._faults.unreachable)
            return partition_pb2.Partition(
                partition_id=partition_id,
                kind=_STATIC[config.kind],
                state=partition_pb2.PARTITION_STATE_READY,
                nodes=nodes,
                text=f"{len(nodes)} nodes",
            )
        # Only an id can be a folder's name: others hold dots.
        is_id = _ID.fullmatch(partition_id) is not None
        partition = self._dynamic(self._site.partitions / partition_id) if is_id else None
        if partition is None:
            raise errors.partition_not_found(partition_id)
        return partition

    def all(self, installation: str = "") -> Iterator[partition_pb2.Partition]:
        """All of them, in order of their ids; dynamic ones of one installation if it is given."""
        names = {*self._config.partitions, *(folder.name for folder in self.folders())}
        for name in sorted(names):
            with contextlib.suppress(errors.Refusal):  # gone meanwhile
                partition = self.get(name)
                owned = partition.kind != types_pb2.PARTITION_KIND_DYNAMIC
                if owned or not installation or partition.origin.installation == installation:
                    yield partition

    async def snapshot(self, installation: str) -> AsyncIterator[partition_pb2.PartitionEvent]:
        """All of them, for a watch."""
        for partition in self.all(installation):
            yield partition_pb2.PartitionEvent(partition=partition)

    def folders(self) -> list[Path]:
        return [path for path in self._site.partitions.iterdir() if not path.name.startswith(".")]

    def request(self, folder: Path) -> partition_pb2.CreatePartitionRequest | None:
        try:
            data = (folder / "request").read_bytes()
        except FileNotFoundError:
            return None
        return partition_pb2.CreatePartitionRequest.FromString(data)

    def _dynamic(self, folder: Path) -> partition_pb2.Partition | None:
        request = self.request(folder)
        if request is None:
            return None
        told = partition_pb2.Partition(
            partition_id=request.partition_id,
            kind=types_pb2.PARTITION_KIND_DYNAMIC,
            spec_fingerprint=request.spec_fingerprint,
            origin=request.origin,
            owner=request.owner,
            create_time=timestamp((folder / "request").stat().st_mtime_ns),
            handle=f"fake/{request.partition_id}",
        )
        if expires := expire_ns(folder):
            told.expire_time.CopyFrom(timestamp(expires))
        flavor = self.flavor(request.spec)
        amount = (flavor.spot_price if request.spec.spot else flavor.price) if flavor else ""
        if flavor and amount and types_pb2.CAPABILITY_PRICES in self._config.capabilities:
            told.price.CopyFrom(price(flavor, amount, self._started_ns))
        self._add_state(folder, request, flavor, told)
        return told

    def _add_state(
        self,
        folder: Path,
        request: partition_pb2.CreatePartitionRequest,
        flavor: FlavorConfig | None,
        told: partition_pb2.Partition,
    ) -> None:
        count = request.spec.node_count
        if (folder / "deleting").exists():
            told.state = partition_pb2.PARTITION_STATE_DELETING
            told.text = "is being deleted"
        elif (folder / "failure").exists():
            told.state = partition_pb2.PARTITION_STATE_FAILED
            told.failure.ParseFromString((folder / "failure").read_bytes())
            told.text = told.failure.message
        elif (folder / "stopped").exists():
            told.state = partition_pb2.PARTITION_STATE_STOPPED
            told.text = "its time passed; its nodes are deallocated"
        elif (folder / "ready").exists() and flavor is not None:
            told.state = partition_pb2.PARTITION_STATE_READY
            told.text = f"{count} nodes are up"
            told.nodes.extend(
                created_nodes(request, flavor, self._faults.unreachable, lost(folder))
            )
        else:
            told.state = partition_pb2.PARTITION_STATE_CREATING
            told.text = f"booting {count} nodes"

    def flavor(self, spec: partition_pb2.PartitionSpec) -> FlavorConfig | None:
        flavors = self._config.dynamic.flavors if self._config.dynamic else ()
        return next(
            (f for f in flavors if f.name == spec.flavor and f.location == spec.location), None
        )


def expire_ns(folder: Path) -> int:
    """When the partition ends by itself, in nanoseconds since the epoch; zero: never."""
    try:
        return int((folder / "expire").read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0


def lost(folder: Path) -> dict[str, str]:
    """The nodes of the partition that are gone for good, and why."""
    return {
        path.name.partition(".")[2]: path.read_text(encoding="ascii")
        for path in folder.glob("lost.*")
    }
