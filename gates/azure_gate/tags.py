"""What the tags of a resource group say of the partition that it holds.

All that a gate has to find again lies there. Azure takes 256 characters in a value and, at the
least, 15 tags; so longer texts are cut into numbered tags.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from skyport.common.v1 import money_pb2
from skyport.gate.v1 import partition_pb2, types_pb2

INSTALLATION = "swm-installation"
"""The one by which our groups are found."""

_PREFIX = "swm-"
_VALUE_CHARS = 256
_SPEC_TAGS = 3
_FAILURE_TAGS = 2
_DISK_UNIT = 1 << 30
_READY, _EMPTY = "ready", "empty"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """A partition, as its group tells it."""

    installation: str
    partition_id: str
    owner: str
    fingerprint: str
    generation: str
    spec: partition_pb2.PartitionSpec
    host_key: str
    """The nodes' public host key, as OpenSSH writes it."""
    created_s: int
    """Since 1970, by the gate's clock."""
    expires_s: int = 0
    """When Azure is to deallocate the nodes; 0: never."""
    is_ready: bool = False
    """Whether it has ever been."""
    is_empty: bool = False
    """With `failure`: whether nothing of it costs money any more."""
    failure: types_pb2.Failure | None = None
    """Why it could not be made, or broke for good."""
    lost: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Nodes that are gone for good, and why."""

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        return [f"n{index}" for index in range(self.spec.node_count)]

    def encode(self) -> dict[str, str]:
        """As Azure keeps them.

        Raises:
            ValueError: They don't fit.
        """
        tags = {
            "installation": self.installation,
            "partition": self.partition_id,
            "owner": self.owner,
            "fingerprint": self.fingerprint,
            "generation": self.generation,
            "times": f"{self.created_s} {self.expires_s}",
            "flavor": self.spec.flavor,
            "nodes": str(self.spec.node_count),
            "host-key": self.host_key,
            "state": _encode_state(self),
        }
        tags |= _cut("spec", _encode_spec(self.spec), _SPEC_TAGS)
        if self.failure is not None:
            tags |= _cut("failure", _encode_failure(self.failure), _FAILURE_TAGS)
        return {_PREFIX + name: value for name, value in tags.items()}

    @classmethod
    def decode(cls, tags: Mapping[str, str]) -> Tags | None:
        """What the tags of a group say; None where they are none of ours, or damaged."""
        told = {
            # Azure keeps the case of names, and says that it does not matter.
            name.lower().removeprefix(_PREFIX): value
            for name, value in tags.items()
            if name.lower().startswith(_PREFIX)
        }
        try:
            created, _, expires = told["times"].partition(" ")
            words, lost = _decode_state(told.get("state", ""))
            failure = _joined(told, "failure")
            return cls(
                installation=told["installation"],
                partition_id=told["partition"],
                owner=told["owner"],
                fingerprint=told["fingerprint"],
                generation=told["generation"],
                spec=_decode_spec(_joined(told, "spec"), told["flavor"], int(told["nodes"])),
                host_key=told["host-key"],
                created_s=int(created),
                expires_s=int(expires or 0),
                is_ready=_READY in words,
                is_empty=_EMPTY in words,
                failure=_decode_failure(failure) if failure else None,
                lost=lost,
            )
        except (KeyError, ValueError, TypeError, ArithmeticError):
            return None


def _cut(name: str, text: str, most: int) -> dict[str, str]:
    parts = [text[at : at + _VALUE_CHARS] for at in range(0, len(text), _VALUE_CHARS)]
    if len(parts) > most:
        raise ValueError(f"{name} has {len(text)} characters; {most * _VALUE_CHARS} fit into tags")
    return {f"{name}-{index}": part for index, part in enumerate(parts)}


def _joined(tags: Mapping[str, str], name: str) -> str:
    parts: list[str] = []
    while (part := tags.get(f"{name}-{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)


def _encode_spec(spec: partition_pb2.PartitionSpec) -> str:
    told: dict[str, Any] = {
        "location": spec.location,
        "image": spec.image,
        "spot": spec.spot,
        "disk": -(-spec.disk_bytes // _DISK_UNIT),
        "storage": list(spec.storage),
        "containers": spec.containers,
    }
    if spec.HasField("spot_price_limit"):
        limit = spec.spot_price_limit
        told["limit"] = f"{limit.units}.{limit.nanos:09d} {limit.currency_code}"
    short = {key: value for key, value in told.items() if value}
    # Not as ASCII: names may be written in any script, and characters count, not bytes.
    return json.dumps(short, separators=(",", ":"), ensure_ascii=False)


def _decode_spec(text: str, flavor: str, nodes: int) -> partition_pb2.PartitionSpec:
    told = json.loads(text or "{}")
    spec = partition_pb2.PartitionSpec(
        flavor=flavor,
        location=told.get("location", ""),
        node_count=nodes,
        image=told.get("image", ""),
        spot=told.get("spot", False),
        disk_bytes=told.get("disk", 0) * _DISK_UNIT,
        storage=told.get("storage", ()),
        containers=told.get("containers", False),
    )
    if limit := told.get("limit"):
        amount, _, currency = limit.partition(" ")
        units, nanos = divmod(Decimal(amount), 1)
        money = money_pb2.Money(currency_code=currency, units=int(units), nanos=int(nanos * 10**9))
        spec.spot_price_limit.CopyFrom(money)
    return spec


def _encode_failure(failure: types_pb2.Failure) -> str:
    head = f"{failure.reason} {int(failure.retryable)} "
    room = _FAILURE_TAGS * _VALUE_CHARS - len(head)
    message = " ".join(failure.message.split())
    return head + (message if len(message) <= room else message[: room - 1] + "…")


def _decode_failure(text: str) -> types_pb2.Failure:
    reason, retryable, *message = text.split(" ", 2)
    return types_pb2.Failure(
        reason=reason, retryable=retryable == "1", message=message[0] if message else reason
    )


def _encode_state(tags: Tags) -> str:
    words = [_READY] if tags.is_ready else []
    words += [_EMPTY] if tags.is_empty else []
    by_reason: dict[str, list[str]] = {}
    for node, reason in tags.lost.items():
        by_reason.setdefault(reason, []).append(node.removeprefix("n"))
    room = _VALUE_CHARS - len(" ".join(words))
    for reason, nodes in by_reason.items():
        if ranges := _ranges(nodes, room - len(f" {reason}=")):
            words.append(f"{reason}={ranges}")
            room -= len(f" {words[-1]}")
    return " ".join(words)


def _ranges(numbers: list[str], most: int) -> str:
    """As "0-2,5": many may be lost at once. What does not fit is found to be lost once more."""
    parts: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    told = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return told if len(told) <= most else told[: max(most + 1, 0)].rpartition(",")[0]


def _decode_state(text: str) -> tuple[set[str], dict[str, str]]:
    words = text.split()
    lost: dict[str, str] = {}
    for word in words:
        reason, is_lost, ranges = word.partition("=")
        for part in ranges.split(",") if is_lost else ():
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                lost[f"n{number}"] = reason
    return set(words), lost
