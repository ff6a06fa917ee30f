"""PartitionService of a site whose partitions are always there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

from gate_kit import Context, Fields, WatchHub, errors, page_of
from skyport.gate.v1 import partition_pb2, partition_pb2_grpc, types_pb2

_DYNAMIC = types_pb2.CAPABILITY_DYNAMIC_PARTITIONS
_EXPIRY = types_pb2.CAPABILITY_EXPIRY


class Shown(Protocol):
    """The partitions of a site."""

    def has(self, partition_id: str) -> bool:
        """Whether there is such a partition."""
        ...

    def get(self, partition_id: str) -> partition_pb2.Partition:
        """One as it is now; raises PARTITION_NOT_FOUND."""
        ...

    def all(self) -> Iterable[partition_pb2.Partition]:
        """All of them, in order of their ids."""
        ...

    def snapshot(self) -> AsyncIterator[partition_pb2.PartitionEvent]:
        """All of them, for a watch."""
        ...


class Seen(Protocol):
    """What can be seen of the site."""

    def unreachable(self) -> Sequence[types_pb2.UnreachableNode]:
        """The nodes that can't be seen now."""
        ...


class PartitionService(partition_pb2_grpc.PartitionServiceServicer):
    """Tells partitions; makes none and deletes none."""

    def __init__(
        self,
        partitions: Shown,
        seen: Seen,
        hub: WatchHub[partition_pb2.PartitionEvent],
    ) -> None:
        self._partitions = partitions
        self._seen = seen
        self._hub = hub

    async def CreatePartition(
        self, request: partition_pb2.CreatePartitionRequest, context: Context
    ) -> partition_pb2.CreatePartitionResponse:
        if self._partitions.has(request.partition_id):
            raise errors.partition_differs(request.partition_id)
        raise errors.capability_missing(_DYNAMIC, "CreatePartition")

    async def GetPartition(
        self, request: partition_pb2.GetPartitionRequest, context: Context
    ) -> partition_pb2.GetPartitionResponse:
        fields = Fields()
        fields.partition("partition_id", request.partition_id)
        fields.done()
        _check_scope(request.scope_uid)
        partition = self._partitions.get(request.partition_id)
        return partition_pb2.GetPartitionResponse(partition=partition)

    async def ListPartitions(
        self, request: partition_pb2.ListPartitionsRequest, context: Context
    ) -> partition_pb2.ListPartitionsResponse:
        _check_scope(request.scope_uid)
        partitions, token = page_of(request).cut(
            (partition.partition_id, partition) for partition in self._partitions.all()
        )
        return partition_pb2.ListPartitionsResponse(
            partitions=partitions,
            next_page_token=token,
            unreachable=self._seen.unreachable(),
        )

    async def RenewPartition(
        self, request: partition_pb2.RenewPartitionRequest, context: Context
    ) -> partition_pb2.RenewPartitionResponse:
        if self._partitions.has(request.partition_id):
            raise errors.not_yours(request.partition_id)
        raise errors.capability_missing(_EXPIRY, "RenewPartition")

    async def DeletePartition(
        self, request: partition_pb2.DeletePartitionRequest, context: Context
    ) -> partition_pb2.DeletePartitionResponse:
        if self._partitions.has(request.partition_id):
            raise errors.not_yours(request.partition_id)
        raise errors.capability_missing(_DYNAMIC, "DeletePartition")

    async def WatchPartitions(
        self, request: partition_pb2.WatchPartitionsRequest, context: Context
    ) -> AsyncIterator[partition_pb2.WatchPartitionsResponse]:
        _check_scope(request.scope_uid)
        batches = self._hub.watch(self._partitions.snapshot, unreachable=self._seen.unreachable)
        async with contextlib.aclosing(batches):
            async for events in batches:
                yield partition_pb2.WatchPartitionsResponse(events=events)


def _check_scope(scope_uid: str) -> None:
    """Raise SITE_CHANGED if the caller knows an account scope: there is none here."""
    if scope_uid:
        raise errors.site_changed(scope_uid, "")
