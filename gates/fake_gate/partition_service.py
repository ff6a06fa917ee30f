"""PartitionService: checks requests and hands them on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from gate_kit import Context, Fields, WatchHub, errors, page_of
from gates.fake_gate.admission import Admission
from gates.fake_gate.config import Config, ImageUse
from gates.fake_gate.dynamic import DynamicPartitions
from gates.fake_gate.outages import Outages
from gates.fake_gate.partitions import Partitions
from gates.fake_gate.site import Site
from skyport.gate.v1 import partition_pb2, partition_pb2_grpc, types_pb2

_DYNAMIC = types_pb2.CAPABILITY_DYNAMIC_PARTITIONS
_EXPIRY = types_pb2.CAPABILITY_EXPIRY


class PartitionService(partition_pb2_grpc.PartitionServiceServicer):
    """Serves partitions."""

    def __init__(
        self,
        config: Config,
        site: Site,
        admission: Admission,
        partitions: Partitions,
        dynamic: DynamicPartitions,
        outages: Outages,
        hub: WatchHub[partition_pb2.PartitionEvent],
    ) -> None:
        self._config = config
        self._site = site
        self._admission = admission
        self._partitions = partitions
        self._dynamic = dynamic
        self._outages = outages
        self._hub = hub

    async def CreatePartition(
        self, request: partition_pb2.CreatePartitionRequest, context: Context
    ) -> partition_pb2.CreatePartitionResponse:
        self._admission.checks.need(_DYNAMIC, "CreatePartition")
        spec = request.spec
        fields = Fields()
        fields.id("partition_id", request.partition_id)
        fields.fingerprint("spec_fingerprint", request.spec_fingerprint)
        fields.origin(request.origin, "")
        fields.user("owner", request.owner)
        if fields.present("spec", spec):
            fields.name("spec.flavor", spec.flavor)
            fields.at_least("spec.node_count", spec.node_count, 1)
            self._admission.checks.options(fields, spec.site_options)
        if _EXPIRY in self._config.capabilities:
            self._expire_time(fields, request.expire_time)
        fields.done()
        self._scope(request.scope_uid)
        self._admission.account(request.owner)
        if request.HasField("expire_time"):
            self._admission.checks.need(_EXPIRY, "expire_time")
        if spec.spot:
            self._admission.checks.need(types_pb2.CAPABILITY_SPOT, "spec.spot")
        if spec.containers:
            self._admission.checks.need(types_pb2.CAPABILITY_CONTAINERS, "spec.containers")
        self._admission.checks.storage(spec.storage)
        images = [image.name for image in self._config.images if image.kind is ImageUse.NODE]
        if spec.image and spec.image not in images:
            raise errors.image_not_found(spec.image)
        partition = await self._dynamic.create(request)
        return partition_pb2.CreatePartitionResponse(partition=partition)

    async def GetPartition(
        self, request: partition_pb2.GetPartitionRequest, context: Context
    ) -> partition_pb2.GetPartitionResponse:
        self._named(request.partition_id, request.scope_uid)
        partition = self._partitions.get(request.partition_id)
        return partition_pb2.GetPartitionResponse(partition=partition)

    async def ListPartitions(
        self, request: partition_pb2.ListPartitionsRequest, context: Context
    ) -> partition_pb2.ListPartitionsResponse:
        self._scope(request.scope_uid)
        page = page_of(request)
        answer = partition_pb2.ListPartitionsResponse(unreachable=self._outages.unreachable())
        for partition in self._partitions.all(request.installation):
            if partition.partition_id <= page.after:
                continue
            if len(answer.partitions) >= page.size:
                answer.next_page_token = page.token(answer.partitions[-1].partition_id)
                break
            answer.partitions.append(partition)
        return answer

    async def RenewPartition(
        self, request: partition_pb2.RenewPartitionRequest, context: Context
    ) -> partition_pb2.RenewPartitionResponse:
        self._admission.checks.need(_DYNAMIC, "RenewPartition")
        self._admission.checks.need(_EXPIRY, "RenewPartition")
        fields = Fields()
        fields.partition("partition_id", request.partition_id)
        expire_ns = self._expire_time(fields, request.expire_time)
        fields.done()
        self._scope(request.scope_uid)
        if request.partition_id in self._config.partitions:
            raise errors.not_yours(request.partition_id)
        partition = await self._dynamic.renew(request.partition_id, expire_ns)
        return partition_pb2.RenewPartitionResponse(partition=partition)

    async def DeletePartition(
        self, request: partition_pb2.DeletePartitionRequest, context: Context
    ) -> partition_pb2.DeletePartitionResponse:
        self._admission.checks.need(_DYNAMIC, "DeletePartition")
        fields = Fields()
        fields.installation("installation", request.installation)
        fields.done()
        self._named(request.partition_id, request.scope_uid)
        await self._dynamic.delete(request.partition_id, request.installation)
        return partition_pb2.DeletePartitionResponse()

    async def WatchPartitions(
        self, request: partition_pb2.WatchPartitionsRequest, context: Context
    ) -> AsyncIterator[partition_pb2.WatchPartitionsResponse]:
        self._scope(request.scope_uid)
        installation = request.installation
        batches = self._hub.watch(
            lambda: self._partitions.snapshot(installation),
            wants=lambda topic: installation in {"", topic},
            unreachable=self._outages.unreachable,
        )
        async with contextlib.aclosing(batches):
            async for events in batches:
                yield partition_pb2.WatchPartitionsResponse(events=events)

    def _named(self, partition_id: str, scope_uid: str) -> None:
        fields = Fields()
        fields.partition("partition_id", partition_id)
        fields.done()
        self._scope(scope_uid)

    def _scope(self, scope_uid: str) -> None:
        """Raise SITE_CHANGED if the caller knows another site."""
        found = self._site.scope_uid()
        if scope_uid and scope_uid != found:
            raise errors.site_changed(scope_uid, found)

    def _expire_time(self, fields: Fields, expire_time: Timestamp) -> int:
        expire_ns = fields.time("expire_time", expire_time)
        if expire_ns == 0:
            return 0
        longest_s = self._config.dynamic.longest_expiry if self._config.dynamic else 0
        if expire_ns <= time.time_ns():
            fields.wrong("expire_time", "is past", "FIELD_OUT_OF_RANGE")
        # The caller's clock may be ahead of ours.
        if expire_ns - time.time_ns() > (longest_s + 60) * 1_000_000_000:
            fields.wrong("expire_time", f"lies more than {longest_s} s ahead", "FIELD_OUT_OF_RANGE")
        return expire_ns
