"""What a gate says of itself when the core connects."""

from __future__ import annotations

import dataclasses

from skyport.gate.v1 import identity_pb2, types_pb2

API_VERSION = "v1"
_MOST_STORAGE = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class GateInfo:
    """What a gate said of itself."""

    name: str
    version: str
    capabilities: frozenset[str]
    """Names without their prefix, as "CONTAINERS"."""
    summary: str
    scope_uid: str
    option_prefix: str
    """`slurm` where the site's options are written `slurm.NAME`; empty: it takes none."""
    longest_expiry_s: float
    max_partitions: int
    """How many partitions may exist at once; zero: no limit is known."""
    storage: tuple[str, ...] = ()
    """Names of what jobs may ask for."""

    @classmethod
    def of(cls, answer: identity_pb2.GetGateInfoResponse) -> GateInfo:
        """What is in `answer`.

        Raises:
            ValueError: The gate does not serve this version of the Gate API.
        """
        if API_VERSION not in answer.api_versions:
            served = ", ".join(answer.api_versions)
            raise ValueError(f"the gate serves version {served} of the Gate API, not {API_VERSION}")
        known = types_pb2.Capability.values()
        return cls(
            name=answer.name,
            version=answer.vendor_version,
            capabilities=frozenset(
                types_pb2.Capability.Name(number).removeprefix("CAPABILITY_")
                for number in answer.capabilities
                if number in known
            ),
            summary=answer.site.summary,
            scope_uid=answer.scope_uid,
            option_prefix=answer.option_prefix,
            storage=tuple(answer.storage[:_MOST_STORAGE]),
            longest_expiry_s=answer.limits.longest_expiry.ToNanoseconds() / 1e9,
            max_partitions=answer.limits.partitions,
        )
