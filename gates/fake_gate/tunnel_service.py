"""Ports of jobs: every node is an address of this machine's loopback."""

from __future__ import annotations

from gate_kit import loopback
from gate_kit.loopback import LoopbackListener, LoopbackStream
from gates.fake_gate.admission import Admission
from gates.fake_gate.evidence import Evidence
from skyport.gate.v1 import job_pb2, types_pb2


class Ports:
    """The site of a `gate_kit.tunnel_service.TunnelService`.

    Args:
        admission: Checks who asks.
        evidence: Tells whether a job runs.
        address: What plays the nodes' own loopback.
    """

    def __init__(self, admission: Admission, evidence: Evidence, address: str) -> None:
        self._admission = admission
        self._evidence = evidence
        self._address = address

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        self._admission.checks.need(capability, what)

    def check(self, ref: types_pb2.JobRef) -> None:
        """Raise unless the attempt may be asked for."""
        self._admission.ref(ref)

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if nothing of it is here."""
        attempt = self._evidence.locate(ref)
        return self._evidence.status(attempt) if attempt.exists else None

    async def never_starts(self, ref: types_pb2.JobRef) -> bool:
        """Whether the attempt has a tombstone."""
        return self._evidence.site.is_buried(self._evidence.locate(ref).key)

    async def connect(self, ref: types_pb2.JobRef, node: str, port: int) -> LoopbackStream:
        """Connect to a port; raises TARGET_REFUSED."""
        return await loopback.connect(node, self._address, port)

    async def listen(self, ref: types_pb2.JobRef, node: str, port: int) -> LoopbackListener:
        """Listen on a port; raises PORT_IN_USE."""
        return loopback.listen(node, self._address, port)
