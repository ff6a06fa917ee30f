"""InventoryService: classes of hosts and hosts. There are no prices and no images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gate_kit import Context, node_lists, page_of
from gate_kit.node_lists import list_nodes
from skyport.gate.v1 import inventory_pb2, inventory_pb2_grpc


class Shown(node_lists.Partitions, Protocol):
    """The partitions of a site, and the classes of their nodes."""

    def flavors(self) -> Iterable[inventory_pb2.Flavor]:
        """The classes, in order of their names or not."""
        ...


class InventoryService(inventory_pb2_grpc.InventoryServiceServicer):
    """Serves what the site has to give."""

    def __init__(self, partitions: Shown) -> None:
        self._partitions = partitions

    async def ListFlavors(
        self, request: inventory_pb2.ListFlavorsRequest, context: Context
    ) -> inventory_pb2.ListFlavorsResponse:
        known = [] if request.location else self._partitions.flavors()
        flavors, token = page_of(request).cut((flavor.name, flavor) for flavor in known)
        return inventory_pb2.ListFlavorsResponse(flavors=flavors, next_page_token=token)

    async def ListImages(
        self, request: inventory_pb2.ListImagesRequest, context: Context
    ) -> inventory_pb2.ListImagesResponse:
        page_of(request)
        return inventory_pb2.ListImagesResponse()

    async def ListNodes(
        self, request: inventory_pb2.ListNodesRequest, context: Context
    ) -> inventory_pb2.ListNodesResponse:
        return list_nodes(request, self._partitions)
