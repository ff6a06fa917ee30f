"""A real Azure gate as a process, before the stand-in for Azure."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc

from rpc_kit.errors import Problem
from skyport.gate.v1 import identity_pb2, partition_pb2, types_pb2
from tests.fake_gate import harness
from tests.fake_gate.harness import INSTALLATION
from tests.testbed.azure_arm.client import AzureArm

OWNER = "ann"
FLAVOR = "Standard_D2s_v3"
LOCATION = "westeurope"
ORIGIN = types_pb2.Origin(installation=INSTALLATION, store_generation="g1")
WITHIN_S = 30.0
CREATING = partition_pb2.PARTITION_STATE_CREATING
READY = partition_pb2.PARTITION_STATE_READY
STOPPED = partition_pb2.PARTITION_STATE_STOPPED
FAILED = partition_pb2.PARTITION_STATE_FAILED
DELETING = partition_pb2.PARTITION_STATE_DELETING


class Gate(harness.Gate):
    """An Azure gate, which can be killed and started again.

    Args:
        folder: Holds its files; short, since a socket lies there.
        arm: What it takes for Azure.
        more: Settings of the configuration.
    """

    module = "gates.azure_gate"

    def __init__(self, folder: Path, arm: AzureArm, **more: Any) -> None:
        super().__init__(folder, {})
        self.arm = arm
        ready = arm.ready
        self.config = {
            "subscription_id": ready.subscription,
            "tenant_id": ready.tenant,
            "app_id": ready.app,
            "certificate_file": ready.principal,
            "state_dir": str(folder / "state"),
            "locations": [LOCATION],
            **more,
            "endpoints": {
                "resource_manager": ready.resource_manager,
                "authority": ready.authority,
                "prices": ready.prices,
                "egress": ready.egress,
                "ca_file": ready.ca_file,
            },
        }

    async def create(
        self, partition_id: str, *, nodes: int = 1, **spec: Any
    ) -> partition_pb2.Partition:
        """Ask that a partition exist."""
        request = create_request(partition_id, nodes=nodes, **spec)
        answer = await self.partitions.CreatePartition(request, timeout=WITHIN_S)
        partition: partition_pb2.Partition = answer.partition
        return partition

    async def get(self, partition_id: str) -> partition_pb2.Partition:
        request = partition_pb2.GetPartitionRequest(partition_id=partition_id)
        answer = await self.partitions.GetPartition(request, timeout=WITHIN_S)
        partition: partition_pb2.Partition = answer.partition
        return partition

    async def delete(self, partition_id: str) -> None:
        """Ask that it be deleted."""
        await self.partitions.DeletePartition(
            partition_pb2.DeletePartitionRequest(
                partition_id=partition_id, installation=INSTALLATION
            ),
            timeout=WITHIN_S,
        )

    async def delete_for_good(self, partition_id: str) -> None:
        """Ask for it until it is gone."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    await self.delete(partition_id)
                except grpc.aio.AioRpcError as error:
                    problem = Problem.from_error(error)
                    if problem.reason == "PARTITION_NOT_FOUND":
                        return
                    if problem.code is not grpc.StatusCode.UNAVAILABLE:
                        raise
                await asyncio.sleep(0.05)  # OK is no word for gone: it is asked for again

    async def partition_events(self) -> AsyncGenerator[partition_pb2.PartitionEvent, None]:
        call = self.partitions.WatchPartitions(partition_pb2.WatchPartitionsRequest())
        try:
            async for answer in call:
                for event in answer.events:
                    yield event
        finally:
            call.cancel()

    async def until_partition(
        self, partition_id: str, check: Callable[[partition_pb2.Partition], object]
    ) -> partition_pb2.Partition:
        """The first state of a partition, as the watch tells it, for which `check` holds."""
        told = None
        try:
            async with asyncio.timeout(WITHIN_S):
                async with contextlib.aclosing(self.partition_events()) as events:
                    async for event in events:
                        if event.partition.partition_id == partition_id:
                            told = event.partition
                            if check(told):
                                return told
        except TimeoutError:
            pass
        raise AssertionError(f"last told: {told}\n{self.log.read_text()[-6000:]}")

    async def until_state(
        self, partition_id: str, state: partition_pb2.PartitionState.ValueType
    ) -> partition_pb2.Partition:
        told = await self.until_partition(partition_id, lambda told: told.state in {state, FAILED})
        assert told.state == state, f"{told}\n{self.log.read_text()[-6000:]}"
        return told

    async def probe(self) -> identity_pb2.ProbeResponse:
        answer: identity_pb2.ProbeResponse = await self.identity.Probe(
            identity_pb2.ProbeRequest(), timeout=2.0
        )
        return answer


def new_id() -> str:
    return f"p-{secrets.token_hex(4)}"


def group_of(partition_id: str) -> str:
    return f"swm-{INSTALLATION}-{partition_id}"


def create_request(
    partition_id: str, *, nodes: int = 1, expires_in_s: float = 3_600.0, **spec: Any
) -> partition_pb2.CreatePartitionRequest:
    request = partition_pb2.CreatePartitionRequest(
        partition_id=partition_id,
        spec_fingerprint=hashlib.sha256(f"{nodes} {sorted(spec)}".encode()).hexdigest(),
        spec=partition_pb2.PartitionSpec(
            **{"flavor": FLAVOR, "location": LOCATION, "node_count": nodes, **spec}
        ),
        origin=ORIGIN,
        owner=OWNER,
    )
    request.expire_time.FromNanoseconds(int((time.time() + expires_in_s) * 1e9))
    return request


async def refused(call: Any) -> Problem:
    """What a call is refused with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Problem.from_error(error)
    raise AssertionError("it was not refused")


async def until_called(arm: AzureArm, method: str, kind: str, since: int) -> None:
    """Wait until Azure was called so."""
    async with asyncio.timeout(WITHIN_S):
        while not any(  # noqa: ASYNC110 - the books are all there is to ask
            (call.method, call.kind) == (method, kind)
            for call in await asyncio.to_thread(arm.calls, since)
        ):
            await asyncio.sleep(0.02)
