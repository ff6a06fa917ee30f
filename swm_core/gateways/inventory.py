"""What a site has, as its gate told it: flavors, images, partitions, nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from skyport.gate.v1 import inventory_pb2, partition_pb2

R = TypeVar("R")

_MOST_PAGES = 1_000
"""A list that goes on beyond so many pages of 1,000 is a gate's mistake."""
_MOST_BYTES = 512 << 20
"""The same for what is in them: a million files with long names need less."""
_MOST_PARTITIONS = 10_000
_MOST_NODES = 100_000


class Endless(ValueError):
    """A gate tells of more than there can be."""


@dataclasses.dataclass(slots=True)
class Inventory:
    """One site's. Values are the gate's own messages; they are replaced, never changed."""

    flavors: list[inventory_pb2.Flavor] = dataclasses.field(default_factory=list)
    images: list[inventory_pb2.Image] = dataclasses.field(default_factory=list)
    partitions: dict[str, partition_pb2.Partition] = dataclasses.field(default_factory=dict)
    nodes: dict[str, dict[str, inventory_pb2.Node]] = dataclasses.field(default_factory=dict)
    """By partition and name."""
    known: bool = False
    """Whether the gate has told all of it at least once since the core's start."""
    version: int = 0
    """Grows with every change."""

    def put_partition(self, partition: partition_pb2.Partition) -> None:
        """A partition as it is now, with its nodes where it tells them."""
        if (
            len(self.partitions) >= _MOST_PARTITIONS
            and partition.partition_id not in self.partitions
        ):
            raise Endless(f"its gate tells of more than {_MOST_PARTITIONS} partitions")
        if len(partition.nodes) > _MOST_NODES:
            raise Endless(f"its gate tells of more than {_MOST_NODES} nodes in one partition")
        self.partitions[partition.partition_id] = partition
        if partition.nodes:
            self.nodes[partition.partition_id] = {node.name: node for node in partition.nodes}
        self.version += 1

    def put_node(self, node: inventory_pb2.Node) -> None:
        """A node as it is now."""
        nodes = self.nodes.setdefault(node.partition_id, {})
        if max(len(nodes), len(self.nodes)) > _MOST_NODES:
            raise Endless(f"its gate tells of more than {_MOST_NODES} nodes")
        nodes[node.name] = node
        self.version += 1

    def remove_partition(self, partition_id: str) -> None:
        """A partition is gone."""
        self.partitions.pop(partition_id, None)
        self.nodes.pop(partition_id, None)
        self.version += 1


async def pages(
    call: Callable[[Any], Awaitable[R]], request: Any, *, page_size: int = 1_000
) -> AsyncIterator[R]:
    """The pages of a list, in order.

    Args:
        call: Sends one request and returns its answer.
        request: The first request, without page fields.
        page_size: Asked for; the gate may give less.

    Raises:
        Endless: The list does not end.
    """
    request.page_size = page_size
    size = 0
    for _ in range(_MOST_PAGES):
        answer: Any = await call(request)
        size += answer.ByteSize()
        if size > _MOST_BYTES:
            raise Endless(f"a list of more than {_MOST_BYTES >> 20} MiB")
        yield answer
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token
    raise Endless(f"a list of more than {_MOST_PAGES} pages")
