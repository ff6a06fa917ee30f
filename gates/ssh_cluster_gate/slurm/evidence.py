"""What lies in the folder of an attempt at a Slurm site. Pure.

Beside what `gate_kit.ssh.evidence` tells of there are

    slurm       the id that sbatch answered, and a dot
    private.N   variables that only the job may see, until rank N has claimed
    given       what the queue gave (nodes, ports): the attempt's claim, by one of its submissions
    slurm.log   what Slurm itself writes of the job
    final       the end, where no runner has told it, or Slurm knows better

A rank is what a node is to runners: claim.0, end.0, stdout.0.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from gate_kit import job_status
from gate_kit.job_status import End
from gate_kit.ssh import evidence as on_hosts
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.shell import Reply
from skyport.gate.v1 import job_pb2, types_pb2


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What the queue gave."""

    slurm_id: str
    nodes: tuple[str, ...]
    addresses: Mapping[str, str]
    gpus: tuple[str, ...]
    ports: tuple[tuple[int, str], ...]
    """Number and name; the name may be empty."""
    time_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """What lies of an attempt, as it was looked at."""

    root_uid: str
    exists: bool = False
    is_buried: bool = False
    lasting: Lasting = dataclasses.field(default_factory=Lasting)
    slurm_id: str = ""
    given: Given | None = None
    has_claim: bool = False
    """Whether rank 0 has claimed, or a cancel in its place."""
    ends: Mapping[int, End] = dataclasses.field(default_factory=dict)
    """By rank."""
    final: End | None = None
    image_digest: str = ""
    """Of the image that it runs in; empty while that is not known."""
    is_logged: bool = False
    """Whether Slurm has written anything about the job."""
    is_gone: bool = False
    """Whether its folder has been deleted since; all else is what lay there before."""
    refused: str = ""
    """Why it was not looked at: "REASON text"."""

    @property
    def slurm_ids(self) -> frozenset[str]:
        """Under which it was submitted, as far as that is known."""
        given = self.given.slurm_id if self.given else ""
        return frozenset({self.slurm_id, given} - {""})


def read_look(reply: Reply, known: Mapping[str, Lasting] | None = None) -> dict[str, Evidence]:
    """What the agent answered to `look` or `list`, by the paths of keys.

    Args:
        reply: Its answer.
        known: What never changes, of those that were asked for what changes alone.
    """
    told: dict[str, list[str]] = {}
    lines: list[str] = []
    times: dict[str, int] = {}
    for line in reply.lines:
        name, _, value = line.partition(" ")
        if name == "of":
            lines = told.setdefault(value, [])
        elif name == "at":
            file, _, stamp = value.rpartition(" ")
            times[file] = on_hosts.nanoseconds(stamp)
        else:
            lines.append(line)
    blobs = iter(reply.blobs)
    found = {}
    for key, of_key in told.items():
        blob = next(blobs, b"") if "workdir " in of_key or "workdir" in of_key else b""
        found[key] = _one(key, of_key, blob, times, (known or {}).get(key))
    return found


def _one(
    key: str, lines: Sequence[str], workdir: bytes, times: Mapping[str, int], known: Lasting | None
) -> Evidence:
    facts: dict[str, str] = {}
    files: dict[str, list[str]] = {}
    for line in lines:
        text = line.encode(errors="replace").decode()  # messages take no half letters
        name, _, value = text.partition(" ")
        if name in {"given", "final"} or name.startswith("end."):
            files.setdefault(name, []).append(value)
        else:
            facts[name] = value
    ends = {}
    for name, of_file in files.items():
        rank = name.removeprefix("end.")
        if _is_number(rank, 4):
            end = job_status.parse_end(of_file, times.get(f"{key}/{name}", 0))
            if end is not None:
                ends[int(rank)] = end
    final = files.get("final")
    return Evidence(
        root_uid=facts.get("root_uid", ""),
        exists="folder" in facts,
        is_buried="buried" in facts,
        lasting=(known or _lasting(key, facts, workdir)) if "folder" in facts else Lasting(),
        slurm_id=facts.get("slurm", "") if _is_number(facts.get("slurm", ""), 20) else "",
        given=_given(files.get("given", ()), times.get(f"{key}/given", 0)),
        has_claim=facts.get("has") == "claim.0",
        ends=ends,
        final=job_status.parse_end(final, times.get(f"{key}/final", 0)) if final else None,
        image_digest=on_hosts.digest(facts.get("image", "")),
        is_logged="logged" in facts,
        refused=facts.get("refused", ""),
    )


def _given(lines: Sequence[str], time_ns: int) -> Given | None:
    if not lines or lines[-1] != ".":
        return None
    slurm_id, gpus = "", ""
    addresses: dict[str, str] = {}
    ports = []
    for line in lines:
        name, _, value = line.partition(" ")
        first, _, rest = value.partition(" ")
        if name == "slurm":
            slurm_id = value
        elif name == "node" and first:
            addresses[first] = rest or first
        elif name == "gpus":
            gpus = value
        elif name == "port" and _is_number(first, 5) and 0 < int(first) < 1 << 16:
            ports.append((int(first), rest))
    ids = tuple(part for part in gpus.split(",") if part)
    return Given(slurm_id, tuple(addresses), addresses, ids, tuple(ports), time_ns)


def _is_number(text: str, digits: int) -> bool:
    """Whether it is one, of so many digits at most: a job can write anything there."""
    return text.isascii() and text.isdigit() and len(text) <= digits


def _lasting(key: str, facts: Mapping[str, str], workdir: bytes) -> Lasting:
    folder = workdir.decode(errors="surrogateescape")
    labels = spec = None
    try:
        if "labels" in facts:
            labels = job_pb2.JobStatus.FromString(base64.b64decode(facts["labels"]))
        if "spec" in facts:
            spec = on_hosts.decode_spec(facts["spec"])
    except (ValueError, DecodeError):
        # The account's own processes have written there: it is as if there was nothing.
        return Lasting(workdir=folder)
    found = Lasting(labels, spec, folder)
    told = on_hosts.told_ref(found)
    # What lies under another path than its own was not put there by us.
    return found if told is None or AttemptKey.of(told).path == key else Lasting(workdir=folder)


def allocations(given: Given, spec: job_pb2.JobSpec) -> list[types_pb2.Allocation]:
    """What each node gives. Ports and GPUs were looked for on the first."""
    told = [
        types_pb2.Allocation(
            node=node, cpus=spec.resources.cpus, memory_bytes=spec.resources.memory_bytes
        )
        for node in given.nodes
    ]
    for number, name in given.ports if told else ():
        told[0].ports.add(name=name, port=number)
    for allocation in told:
        allocation.gpu_ids.extend(given.gpus)
    return told
