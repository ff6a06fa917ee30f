"""ListNodes out of what a gate tells of its partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rpc_kit.paging import page_of
from skyport.gate.v1 import inventory_pb2, partition_pb2


class Partitions(Protocol):
    """All partitions of a site."""

    def get(self, partition_id: str) -> partition_pb2.Partition:
        """One as it is now; raises PARTITION_NOT_FOUND."""
        ...

    def all(self) -> Iterable[partition_pb2.Partition]:
        """All of them, in order of their ids."""
        ...


def list_nodes(
    request: inventory_pb2.ListNodesRequest, partitions: Partitions
) -> inventory_pb2.ListNodesResponse:
    """A page of the nodes of one partition, or of all.

    Raises:
        Refusal: PARTITION_NOT_FOUND, FIELD_*.
    """
    page = page_of(request)
    wanted = [partitions.get(request.partition_id)] if request.partition_id else partitions.all()
    nodes, token = page.cut(
        (f"{node.partition_id}\0{node.name}", node)
        for partition in wanted
        for node in partition.nodes
    )
    return inventory_pb2.ListNodesResponse(nodes=nodes, next_page_token=token)
