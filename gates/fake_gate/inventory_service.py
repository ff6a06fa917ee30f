"""InventoryService: flavors, images and nodes, out of the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from gate_kit import Context, Page, page_of
from gates.fake_gate.config import Config, ImageUse, Kind
from gates.fake_gate.nodes import flavor_message
from gates.fake_gate.partitions import Partitions
from skyport.gate.v1 import inventory_pb2, inventory_pb2_grpc

M = TypeVar("M", bound=Message)

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
        flavors, token = _cut(page, wanted)
        return inventory_pb2.ListFlavorsResponse(flavors=flavors, next_page_token=token)

    async def ListImages(
        self, request: inventory_pb2.ListImagesRequest, context: Context
    ) -> inventory_pb2.ListImagesResponse:
        images, token = _cut(
            page_of(request),
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
        page = page_of(request)
        if request.partition_id:
            partitions = [self._partitions.get(request.partition_id)]
        else:
            partitions = list(self._partitions.all())
        nodes, token = _cut(
            page,
            [(f"{node.partition_id}\0{node.name}", node) for p in partitions for node in p.nodes],
        )
        return inventory_pb2.ListNodesResponse(nodes=nodes, next_page_token=token)

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


def _cut(page: Page, items: Iterable[tuple[str, M]]) -> tuple[list[M], str]:
    """The items of a page, in order of their positions, and the token of the next."""
    rest = sorted((item for item in items if item[0] > page.after), key=lambda item: item[0])
    shown = rest[: page.size]
    token = page.token(shown[-1][0]) if len(rest) > len(shown) else ""
    return [item for _, item in shown], token
