"""What sinfo says of partitions and nodes. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from skyport.gate.v1 import inventory_pb2

SINFO_FORMAT = "%R|%N|%T|%c|%m|%l|%a|%d|%G|%f|%E"
"""For each node of each partition. The reason last: it may hold anything."""

_FIELDS = 11
_MIB = 1 << 20
_PARTITION = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_TIME = re.compile(r"(?:([0-9]{1,6})-)?(?:([0-9]{1,6}):)?([0-9]{1,6}):([0-9]{1,6})", re.ASCII)
_GPU = re.compile(r"gpu(?::([A-Za-z0-9_.-]+))?:([0-9]{1,4})(?:\([^)]*\))?", re.ASCII)
_UP = ("idle", "mixed", "allocated", "completing", "planned", "power")
_DRAINED = ("drain", "maint", "reserved", "fail", "block")


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node, as one partition has it."""

    name: str
    state: inventory_pb2.NodeState.ValueType
    message: str
    cpus: int
    memory_bytes: int
    disk_bytes: int
    gpus: int
    gpu_model: str
    features: str

    @property
    def flavor(self) -> str:
        """The class of the node: nodes that have the same are the same."""
        memory = f"-{self.memory_bytes >> 20}m" if self.memory_bytes else ""
        gpus = f"-{self.gpus}{self.gpu_model or 'gpu'}" if self.gpus else ""
        return f"{self.cpus}c{memory}{gpus}".lower()


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """A partition of Slurm."""

    name: str
    is_up: bool
    longest_s: float
    """How long a job may run; 0: without end."""
    nodes: Mapping[str, Node]


def read_sinfo(lines: Iterable[str]) -> dict[str, Partition]:
    """The partitions of sinfo's lines in `SINFO_FORMAT`, by name.

    One whose name no partition of ours can have is left out.
    """
    nodes: dict[str, dict[str, Node]] = {}
    heads: dict[str, tuple[bool, float]] = {}
    for line in lines:
        parts = line.split("|", _FIELDS - 1)
        if len(parts) != _FIELDS or not _PARTITION.fullmatch(parts[0]) or parts[0][0] == ".":
            continue
        name, node, state, cpus, memory, limit, available, disk, gres, features, reason = parts
        heads[name] = (available == "up", time_limit_s(limit))
        gpus, model = _gpus(gres)
        of_partition = nodes.setdefault(name, {})
        if not node:
            continue  # a partition without nodes
        of_partition[node] = Node(
            name=node,
            state=node_state(state),
            message=_message(state, reason),
            cpus=_number(cpus),
            memory_bytes=_number(memory) * _MIB,
            disk_bytes=_number(disk) * _MIB,
            gpus=gpus,
            gpu_model=model,
            features="" if features == "(null)" else features,
        )
    return {name: Partition(name, *heads[name], nodes=found) for name, found in nodes.items()}


def time_limit_s(text: str) -> float:
    """A time limit as sinfo tells it, in seconds; 0 if there is none."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def node_state(text: str) -> inventory_pb2.NodeState.ValueType:
    """A node's state; one that nobody knows is not up."""
    word = text.lower()
    if word.rstrip("~#!%$@^-+").endswith("*") or word.startswith(("down", "unknown", "no_respond")):
        return inventory_pb2.NODE_STATE_DOWN
    if word.startswith(_DRAINED):
        return inventory_pb2.NODE_STATE_DRAINED
    if word.startswith(_UP):
        return inventory_pb2.NODE_STATE_UP
    return inventory_pb2.NODE_STATE_DOWN


def _message(state: str, reason: str) -> str:
    if node_state(state) == inventory_pb2.NODE_STATE_UP:
        return ""
    why = "" if reason in {"none", "(null)", ""} else f": {reason}"
    return f"Slurm says {state}{why}"[:500]


def _number(text: str) -> int:
    digits = text.rstrip("+")  # several kinds of nodes in one line
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 12 else 0


def _gpus(gres: str) -> tuple[int, str]:
    count, model = 0, ""
    # "gpu:a100:4(S:0-1),license:3": what is in brackets may hold commas.
    for found in _GPU.finditer(gres):
        count += int(found[2])
        model = model or (found[1] or "")
    return count, model
