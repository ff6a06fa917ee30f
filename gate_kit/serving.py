"""Runs a gate: its services at its endpoint, until it is told to end or its parent is gone."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gate_kit.errors import DOMAIN, shutting_down
from gate_kit.identity import GateInfo, Health, IdentityService
from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import CoreOnly
from rpc_kit.server import RpcServer, ServeError, run
from rpc_kit.tls import KeyFiles, KeyPair
from skyport.gate.v1 import (
    file_pb2_grpc,
    identity_pb2_grpc,
    inventory_pb2_grpc,
    job_pb2_grpc,
    partition_pb2_grpc,
    tunnel_pb2_grpc,
)

Closer = Callable[[], Awaitable[None]]

# Streams that go on as long as the job does: they would hold up the end for the whole grace.
_ENDLESS = frozenset({f"/{DOMAIN}.JobService/ReadOutput", f"/{DOMAIN}.TunnelService/Listen"})


@dataclasses.dataclass(frozen=True, slots=True)
class Listen:
    """Where a gate listens, and how it knows who calls."""

    endpoint: Endpoint
    keys: KeyPair | KeyFiles | None = None
    """REQUIRED for TCP. A unix socket lies in a folder that only its user can enter."""
    core_installation: str = ""
    """REQUIRED for TCP: only the core of this installation is served."""


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """One service of a gate: the generated `add_XServicer_to_server`, and what it takes."""

    register: Callable[[Any, Any], None]
    servicer: Any


def services_of(
    *, inventory: Any, partitions: Any, jobs: Any, files: Any, tunnels: Any
) -> list[Service]:
    """The services of the Gate API, each by its servicer; `start` adds IdentityService."""
    return [
        Service(inventory_pb2_grpc.add_InventoryServiceServicer_to_server, inventory),
        Service(partition_pb2_grpc.add_PartitionServiceServicer_to_server, partitions),
        Service(job_pb2_grpc.add_JobServiceServicer_to_server, jobs),
        Service(file_pb2_grpc.add_FileServiceServicer_to_server, files),
        Service(tunnel_pb2_grpc.add_TunnelServiceServicer_to_server, tunnels),
    ]


async def start(
    listen: Listen,
    info: GateInfo,
    services: Sequence[Service],
    *,
    health: Callable[[], Health] = Health,
    on_drain: Sequence[Closer] = (),
    identity: Any = None,
) -> RpcServer:
    """A server that answers calls: the services, IdentityService, health and reflection.

    Args:
        listen: Where, and for whom.
        info: What GetGateInfo tells.
        services: All but IdentityService.
        health: Asked by Probe.
        on_drain: Awaited when the end has been told, to close watches.
        identity: Serve this IdentityService instead of the one made of `info` and `health`.

    Raises:
        ServeError: Nothing can listen there.
    """
    authenticate = None
    if listen.endpoint.path is None:
        if not listen.core_installation:
            raise ServeError(f"{listen.endpoint} needs --core-identity: the only one to serve")
        authenticate = CoreOnly(listen.core_installation)
    # By the contract a gate lacks a call only where it lacks the capability that covers it.
    server = RpcServer(DOMAIN, authenticate=authenticate, unserved="CAPABILITY_MISSING")
    server.add(
        identity_pb2_grpc.add_IdentityServiceServicer_to_server,
        identity or IdentityService(info, health),
    )
    for service in services:
        server.add(service.register, service.servicer)
    for closer in on_drain:
        server.on_drain(closer)

    async def end_endless() -> None:
        server.interceptor.end_streams(shutting_down(), lambda method, who: method in _ENDLESS)

    server.on_drain(end_endless)
    # A gate with a certificate may be reached from the machine that the core runs on.
    await server.start(listen.endpoint, listen.keys, allow_remote=listen.keys is not None)
    return server


async def serve(
    listen: Listen,
    info: GateInfo,
    services: Sequence[Service],
    *,
    health: Callable[[], Health] = Health,
    on_drain: Sequence[Closer] = (),
    grace_s: float = 5.0,
    identity: Any = None,
) -> None:
    """As `start`, and go on until SIGTERM, SIGINT, or the end of a supervising parent.

    The end is told (NOT_SERVING), watches close, running calls get `grace_s` seconds, then it
    returns: close what the services hold afterwards. Call it in the main thread.
    """
    server = await start(
        listen, info, services, health=health, on_drain=on_drain, identity=identity
    )
    await run(server, grace_s=grace_s)


def raise_file_limit() -> None:
    """Let this process hold as many descriptors as it may: each job, link and tunnel takes some.

    The usual limit of 1,024 is soon reached. Runners set it back, so that jobs notice nothing.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
