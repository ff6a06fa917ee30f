"""IdentityService out of one value, which is the same for every gate."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration

from gate_kit.validation import Fields
from rpc_kit.interceptor import Context
from skyport.gate.v1 import identity_pb2, identity_pb2_grpc, types_pb2

API_VERSION = "v1"


@dataclasses.dataclass(frozen=True, slots=True)
class Expiry:
    """What CAPABILITY_EXPIRY promises."""

    action: identity_pb2.ExpiryAction.ValueType
    longest_s: float
    """How far ahead an expire_time may lie."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeImages:
    """How images are named that nodes boot."""

    pattern: str
    """Of a whole name, in the syntax of RE2."""
    form: str
    """The same for people."""


@dataclasses.dataclass(frozen=True, slots=True)
class GateInfo:
    """What a gate says of itself. Make one for each run: its incarnation is random."""

    name: str
    """The kind of gate, as `fake`."""
    version: str
    summary: str
    """The site, for people; one line."""
    capabilities: frozenset[types_pb2.Capability.ValueType]
    locations: tuple[str, ...] = ()
    concurrent_starts: int = 0
    partitions: int = 0
    """How many may exist at once; zero: no limit is known."""
    expiry: Expiry | None = None
    scope_uid: str = ""
    """The account scope in which partitions are created; empty if there is none."""
    option_prefix: str = ""
    """Of the options that scripts can give this site; empty: it takes none."""
    options: tuple[str, ...] | None = None
    """Their names; None: they are not told."""
    node_images: NodeImages | None = None
    """How images are named that nodes boot; None: it is not told."""
    storage: tuple[str, ...] = ()
    """Names of storage that a job may ask for."""
    incarnation: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))

    def has(self, capability: types_pb2.Capability.ValueType) -> bool:
        return capability in self.capabilities


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """What Probe answers. A gate that is broken raises a Refusal instead of making one."""

    ready: bool = True
    message: str = ""


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Answers from `info`, and asks `health` whether the gate works.

    Args:
        info: Who the gate is.
        health: Asked by every Probe, so it must be cheap. May raise Refusal: broken.
    """

    def __init__(self, info: GateInfo, health: Callable[[], Health] = Health) -> None:
        self._info = info
        self._health = health

    async def GetGateInfo(
        self, request: identity_pb2.GetGateInfoRequest, context: Context
    ) -> identity_pb2.GetGateInfoResponse:
        fields = Fields()
        fields.present("api_versions", request.api_versions)
        fields.done()
        info = self._info
        limits = identity_pb2.GateLimits(
            concurrent_starts=info.concurrent_starts, partitions=info.partitions
        )
        if info.expiry:
            limits.expiry_action = info.expiry.action
            longest = Duration()
            longest.FromNanoseconds(round(info.expiry.longest_s * 1e9))
            limits.longest_expiry.CopyFrom(longest)
        return identity_pb2.GetGateInfoResponse(
            name=info.name,
            vendor_version=info.version,
            api_versions=[API_VERSION],
            capabilities=sorted(info.capabilities),
            limits=limits,
            site=identity_pb2.SiteDescription(summary=info.summary, locations=info.locations),
            scope_uid=info.scope_uid,
            incarnation=info.incarnation,
            option_prefix=info.option_prefix,
            storage=info.storage,
            options=identity_pb2.SiteOptions(names=info.options)
            if info.options is not None
            else None,
            node_images=identity_pb2.NodeImages(
                pattern=info.node_images.pattern, form=info.node_images.form
            )
            if info.node_images
            else None,
        )

    async def Probe(
        self, request: identity_pb2.ProbeRequest, context: Context
    ) -> identity_pb2.ProbeResponse:
        health = self._health()
        return identity_pb2.ProbeResponse(
            ready=health.ready, incarnation=self._info.incarnation, message=health.message
        )
