"""The channel to one gate, with a stub for each service of the Gate API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio

from rpc_kit import failpoints
from rpc_kit.channels import RenewableChannel
from rpc_kit.endpoint import Endpoint
from rpc_kit.tls import KeyPair, channel_credentials, channel_options
from skyport.gate.v1 import (
    file_pb2_grpc,
    identity_pb2_grpc,
    inventory_pb2_grpc,
    job_pb2_grpc,
    partition_pb2_grpc,
    tunnel_pb2_grpc,
)

if TYPE_CHECKING:
    from skyport.gate.v1.file_pb2_grpc import FileServiceAsyncStub
    from skyport.gate.v1.identity_pb2_grpc import IdentityServiceAsyncStub
    from skyport.gate.v1.inventory_pb2_grpc import InventoryServiceAsyncStub
    from skyport.gate.v1.job_pb2_grpc import JobServiceAsyncStub
    from skyport.gate.v1.partition_pb2_grpc import PartitionServiceAsyncStub
    from skyport.gate.v1.tunnel_pb2_grpc import TunnelServiceAsyncStub


class Connection:
    """Connects at the first call, and again after a break.

    Args:
        site: The site's name in the configuration.
        endpoint: Where its gate listens.
        keys: The core's certificate, for a TCP endpoint.
        server_name: The name that a gate on TCP has to prove.
    """

    def __init__(
        self, site: str, endpoint: Endpoint, keys: KeyPair | None, server_name: str
    ) -> None:
        self._endpoint = endpoint
        self._server_name = server_name
        self._channel = RenewableChannel(self._open(keys))
        channel: Any = failpoints.Calls(self._channel, site) if failpoints.ON else self._channel
        # The generated stubs know no asyncio; their types for it exist for the checker only.
        self.identity: IdentityServiceAsyncStub = identity_pb2_grpc.IdentityServiceStub(channel)
        self.site: InventoryServiceAsyncStub = inventory_pb2_grpc.InventoryServiceStub(channel)
        self.partitions: PartitionServiceAsyncStub = partition_pb2_grpc.PartitionServiceStub(
            channel
        )
        self.jobs: JobServiceAsyncStub = job_pb2_grpc.JobServiceStub(channel)
        self.files: FileServiceAsyncStub = file_pb2_grpc.FileServiceStub(channel)
        self.tunnels: TunnelServiceAsyncStub = tunnel_pb2_grpc.TunnelServiceStub(channel)

    def _open(self, keys: KeyPair | None) -> grpc.aio.Channel:
        target = self._endpoint.target
        if self._endpoint.path is not None or keys is None:
            return grpc.aio.insecure_channel(target, channel_options(keepalive_s=None))
        return grpc.aio.secure_channel(
            target, channel_credentials(keys), channel_options(self._server_name)
        )

    async def renew(self, keys: KeyPair) -> None:
        """Show a gate on TCP this certificate from the next call on."""
        if self._endpoint.path is None:
            replaced = self._channel.replace(self._open(keys))
            if replaced is not None:
                await replaced.close()

    async def close(self) -> None:
        """End all calls."""
        await asyncio.gather(*self._channel.close())
