"""ListNodes out of what is known of partitions."""

from __future__ import annotations

from collections.abc import Iterable

from gate_kit import node_lists
from gates.azure_gate.lives import Lives
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import Known, Partitions
from skyport.gate.v1 import inventory_pb2, partition_pb2

_FRESH_S = 10.0


class Nodes:
    """The nodes that there are: `inventory_service.Nodes`.

    Args:
        partitions: Which they belong to.
        lives: Knows what is positively not there.
        observer: Sees them.
    """

    def __init__(self, partitions: Partitions, lives: Lives, observer: Observer) -> None:
        self._partitions = partitions
        self._lives = lives
        self._observer = observer

    async def listed(
        self, request: inventory_pb2.ListNodesRequest
    ) -> inventory_pb2.ListNodesResponse:
        """A page of nodes, of one partition or of all.

        Raises:
            Refusal: PARTITION_NOT_FOUND, SITE_UNREACHABLE, FIELD_*.
        """
        one: Known | None = None
        if request.partition_id:
            one = await self._lives.find(request.partition_id)
        else:
            await self._observer.look(older_s=_FRESH_S)
        return node_lists.list_nodes(request, _Shown(self._partitions, one))


class _Shown:
    """Partitions as `node_lists` wants them."""

    def __init__(self, partitions: Partitions, one: Known | None) -> None:
        self._partitions = partitions
        self._one = one

    def get(self, partition_id: str) -> partition_pb2.Partition:
        """The one that was asked for."""
        assert self._one is not None  # noqa: S101 - for the type only: it was found
        return self._partitions.message(self._one)

    def all(self) -> Iterable[partition_pb2.Partition]:
        """All of them."""
        return self._partitions.all()
