"""PartitionService: checks requests and hands them on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from gate_kit import Context, Fields, WatchHub, errors, page_of
from gates.azure_gate import config as configuration
from gates.azure_gate.admission import Admission
from gates.azure_gate.config import Config
from gates.azure_gate.lives import Lives
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import Partitions
from gates.azure_gate.prices import CURRENCY
from gates.azure_gate.schedules import LONGEST_S
from skyport.common.v1 import money_pb2
from skyport.gate.v1 import partition_pb2, partition_pb2_grpc, types_pb2

_EXPIRY = types_pb2.CAPABILITY_EXPIRY
_CLOCK_S = 60
"""The caller's clock may be ahead of ours."""
_MOST_NODES = 1_000
_FRESH_S = 1.0
"""A look at Azure that is so old is good enough for a list."""


class PartitionService(partition_pb2_grpc.PartitionServiceServicer):
    """Serves partitions.

    Args:
        config: What is offered.
        scope_uid: What they lie in.
        admission: What the gate can do.
        partitions: How they were last seen.
        lives: Makes and unmakes them.
        observer: Sees them.
        hub: Of their changes.
    """

    def __init__(
        self,
        config: Config,
        scope_uid: str,
        admission: Admission,
        partitions: Partitions,
        lives: Lives,
        observer: Observer,
        hub: WatchHub[partition_pb2.PartitionEvent],
    ) -> None:
        self._config = config
        self._scope_uid = scope_uid
        self._admission = admission
        self._partitions = partitions
        self._lives = lives
        self._observer = observer
        self._hub = hub

    async def CreatePartition(
        self, request: partition_pb2.CreatePartitionRequest, context: Context
    ) -> partition_pb2.CreatePartitionResponse:
        spec = request.spec
        fields = Fields()
        fields.id("partition_id", request.partition_id)
        fields.fingerprint("spec_fingerprint", request.spec_fingerprint)
        fields.origin(request.origin, "")
        fields.user("owner", request.owner)
        if fields.present("spec", spec):
            fields.name("spec.flavor", spec.flavor)
            fields.at_least("spec.node_count", spec.node_count, 1)
            fields.at_most("spec.node_count", spec.node_count, _MOST_NODES)
            self._admission.checks.options(fields, spec.site_options)
            if spec.HasField("spot_price_limit"):
                _limit(fields, spec.spot_price_limit)
        if self._config.expiry:
            self._expire_time(fields, request.expire_time)
        fields.done()
        self._scope(request.scope_uid)
        if request.HasField("expire_time") and not self._config.expiry:
            self._admission.need(_EXPIRY, "expire_time")
        self._admission.checks.storage(spec.storage)
        if spec.image and not configuration.is_image(spec.image):
            raise errors.image_not_found(spec.image)
        partition = await self._lives.create(request)
        return partition_pb2.CreatePartitionResponse(partition=partition)

    async def GetPartition(
        self, request: partition_pb2.GetPartitionRequest, context: Context
    ) -> partition_pb2.GetPartitionResponse:
        self._named(request.partition_id, request.scope_uid)
        known = await self._lives.find(request.partition_id)
        return partition_pb2.GetPartitionResponse(partition=self._partitions.message(known))

    async def ListPartitions(
        self, request: partition_pb2.ListPartitionsRequest, context: Context
    ) -> partition_pb2.ListPartitionsResponse:
        self._scope(request.scope_uid)
        page = page_of(request)
        await self._observer.look(older_s=_FRESH_S)
        partitions, token = page.cut(
            (one.partition_id, one) for one in self._partitions.all(request.installation)
        )
        return partition_pb2.ListPartitionsResponse(partitions=partitions, next_page_token=token)

    async def RenewPartition(
        self, request: partition_pb2.RenewPartitionRequest, context: Context
    ) -> partition_pb2.RenewPartitionResponse:
        self._admission.need(_EXPIRY, "RenewPartition")
        fields = Fields()
        fields.partition("partition_id", request.partition_id)
        self._expire_time(fields, request.expire_time)
        fields.done()
        self._scope(request.scope_uid)
        partition = await self._lives.renew(request.partition_id, request.expire_time.seconds)
        return partition_pb2.RenewPartitionResponse(partition=partition)

    async def DeletePartition(
        self, request: partition_pb2.DeletePartitionRequest, context: Context
    ) -> partition_pb2.DeletePartitionResponse:
        fields = Fields()
        fields.installation("installation", request.installation)
        fields.done()
        self._named(request.partition_id, request.scope_uid)
        await self._lives.delete(request.partition_id, request.installation)
        return partition_pb2.DeletePartitionResponse()

    async def WatchPartitions(
        self, request: partition_pb2.WatchPartitionsRequest, context: Context
    ) -> AsyncIterator[partition_pb2.WatchPartitionsResponse]:
        self._scope(request.scope_uid)
        installation = request.installation
        batches = self._hub.watch(
            lambda: self._snapshot(installation),
            wants=lambda topic: installation in {"", topic},
        )
        self._observer.watches()
        try:
            async with contextlib.aclosing(batches):
                async for events in batches:
                    yield partition_pb2.WatchPartitionsResponse(events=events)
        finally:
            self._observer.watches_no_more()

    async def _snapshot(self, installation: str) -> AsyncIterator[partition_pb2.PartitionEvent]:
        await self._observer.look(older_s=_FRESH_S)
        for partition in self._partitions.all(installation):
            yield partition_pb2.PartitionEvent(partition=partition)

    def _named(self, partition_id: str, scope_uid: str) -> None:
        fields = Fields()
        fields.partition("partition_id", partition_id)
        fields.done()
        self._scope(scope_uid)

    def _scope(self, scope_uid: str) -> None:
        """Raise SITE_CHANGED if the caller knows another subscription."""
        if scope_uid and scope_uid != self._scope_uid:
            raise errors.site_changed(scope_uid, self._scope_uid)

    def _expire_time(self, fields: Fields, expire_time: Timestamp) -> None:
        expire_ns = fields.time("expire_time", expire_time)
        if expire_ns == 0:
            return
        if expire_ns <= time.time_ns():
            fields.wrong("expire_time", "is past", "FIELD_OUT_OF_RANGE")
        if expire_ns - time.time_ns() > (LONGEST_S + _CLOCK_S) * 1_000_000_000:
            text = f"lies more than {LONGEST_S} s ahead"
            fields.wrong("expire_time", text, "FIELD_OUT_OF_RANGE")


def _limit(fields: Fields, limit: money_pb2.Money) -> None:
    """What an hour may cost at most: Azure takes a number, and means US dollars."""
    if limit.currency_code != CURRENCY:
        text = f"is {limit.currency_code or 'missing'}; prices here are in {CURRENCY}"
        fields.wrong("spec.spot_price_limit.currency_code", text, "FIELD_MALFORMED")
    if limit.units < 0 or limit.nanos < 0 or not (limit.units or limit.nanos):
        fields.wrong("spec.spot_price_limit", "is not more than nothing", "FIELD_OUT_OF_RANGE")
