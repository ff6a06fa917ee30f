"""InventoryService: sizes of machines with their prices, images, and the nodes that there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gate_kit import Context, page_of
from gates.azure_gate.catalog import Catalog
from skyport.gate.v1 import inventory_pb2, inventory_pb2_grpc


class Nodes(Protocol):
    """The partitions that exist, as far as the nodes in them go."""

    async def listed(
        self, request: inventory_pb2.ListNodesRequest
    ) -> inventory_pb2.ListNodesResponse:
        """A page of nodes; raises PARTITION_NOT_FOUND, SITE_UNREACHABLE, FIELD_*."""
        ...


class InventoryService(inventory_pb2_grpc.InventoryServiceServicer):
    """Serves what the site has to give."""

    def __init__(self, catalog: Catalog, images: Iterable[str], nodes: Nodes) -> None:
        """Serves what these have.

        Args:
            catalog: Sizes and prices.
            images: Names of those that the configuration has; any other URN or id is taken too.
            nodes: Of the partitions that exist.
        """
        self._catalog = catalog
        self._images = dict.fromkeys(images)
        self._nodes = nodes

    async def ListFlavors(
        self, request: inventory_pb2.ListFlavorsRequest, context: Context
    ) -> inventory_pb2.ListFlavorsResponse:
        page = page_of(request)
        known, unreachable = await self._catalog.flavors(request.location)
        flavors, token = page.cut((f"{each.location}\0{each.name}", each) for each in known)
        return inventory_pb2.ListFlavorsResponse(
            flavors=flavors, next_page_token=token, unreachable_locations=unreachable
        )

    async def ListImages(
        self, request: inventory_pb2.ListImagesRequest, context: Context
    ) -> inventory_pb2.ListImagesResponse:
        images, token = page_of(request).cut((name, _image(name)) for name in self._images)
        return inventory_pb2.ListImagesResponse(images=images, next_page_token=token)

    async def ListNodes(
        self, request: inventory_pb2.ListNodesRequest, context: Context
    ) -> inventory_pb2.ListNodesResponse:
        return await self._nodes.listed(request)


def _image(name: str) -> inventory_pb2.Image:
    kind = inventory_pb2.IMAGE_KIND_NODE
    if name.startswith("/"):
        description = f"image {name.rpartition('/')[2]} of the subscription's own"
        return inventory_pb2.Image(name=name, kind=kind, description=description)
    publisher, offer, sku, version = name.split(":")
    description = f"{offer} {sku} of {publisher}" + (
        "" if version == "latest" else f", version {version}"
    )
    return inventory_pb2.Image(name=name, kind=kind, description=description)
