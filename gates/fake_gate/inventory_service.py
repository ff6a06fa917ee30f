"""InventoryService: flavors, images and nodes, out of the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from gate_kit import Context, page_of
from gate_kit.node_lists import list_nodes
from gates.fake_gate.config import Config, ImageUse, Kind
from gates.fake_gate.nodes import flavor_message
from gates.fake_gate.partitions import Partitions
from skyport.gate.v1 import inventory_pb2, inventory_pb2_grpc

_IMAGE_KINDS = {
    ImageUse.NODE: inventory_pb2.IMAGE_KIND_NODE,
    ImageUse.CONTAINER: inventory_pb2.IMAGE_KIND_CONTAINER,
}


class InventoryService(inventory_pb2_grpc.InventoryServiceServicer):
    """Serves what the site has to give."""

    def __init__(self, config: Config, partitions: Partitions, started_ns: int) -> None:
        self._config = config
        self._partitions = partitions
        self._started_ns = started_ns

    async def ListFlavors(
        self, request: inventory_pb2.ListFlavorsRequest, context: Context
    ) -> inventory_pb2.ListFlavorsResponse:
        page = page_of(request)
        wanted = [
            (f"{flavor.location}\0{flavor.name}", flavor)
            for flavor in self._flavors()
            if request.location in {"", flavor.location}
        ]
        flavors, token = page.cut(wanted)
        return inventory_pb2.ListFlavorsResponse(flavors=flavors, next_page_token=token)

    async def ListImages(
        self, request: inventory_pb2.ListImagesRequest, context: Context
    ) -> inventory_pb2.ListImagesResponse:
        images, token = page_of(request).cut(
            [
                (
                    image.name,
                    inventory_pb2.Image(
                        name=image.name,
                        kind=_IMAGE_KINDS[image.kind],
                        description=image.description,
                    ),
                )
                for image in self._config.images
            ],
        )
        return inventory_pb2.ListImagesResponse(images=images, next_page_token=token)

    async def ListNodes(
        self, request: inventory_pb2.ListNodesRequest, context: Context
    ) -> inventory_pb2.ListNodesResponse:
        return list_nodes(request, self._partitions)

    def _flavors(self) -> Iterable[inventory_pb2.Flavor]:
        """Those that can be had, and those of nodes that are there."""
        if self._config.dynamic:
            for flavor in self._config.dynamic.flavors:
                yield flavor_message(self._config, flavor, self._started_ns)
        standing: dict[str, inventory_pb2.Flavor] = {}
        for name, partition in self._config.partitions.items():
            for node in partition.nodes if partition.kind is Kind.STATIC else ():
                if not node.flavor:
                    continue
                told = standing.setdefault(
                    node.flavor,
                    inventory_pb2.Flavor(
                        name=node.flavor,
                        cpus=node.cpus,
                        memory_bytes=node.memory,
                        gpus=len(node.gpus),
                    ),
                )
                if name not in told.partition_ids:
                    told.partition_ids.append(name)
        yield from standing.values()
