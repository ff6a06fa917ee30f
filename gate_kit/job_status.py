"""How an attempt is told: JobStatus and JobEnd out of what lies at a site. Pure.

The end of an attempt on a node is a file that the runner writes:

    exit 0                  or "signal 15", "failure TIME_LIMIT", "unstarted CANCELLED"
    0m0.01s 0m0.02s         what `times` says: of the runner, and of what it waited for
    0m1.23s 0m0.10s
    .                       it is whole
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from skyport.gate.v1 import job_pb2, types_pb2

CANCELLED = "CANCELLED"
END_UNKNOWN = "END_UNKNOWN"
NODE_FAIL = "NODE_FAIL"
START_FAILED = "START_FAILED"

_WITH_TEXT = frozenset({"failure", "unstarted"})
_KINDS = frozenset({"exit", "signal"}) | _WITH_TEXT
_RETRYABLE = frozenset({NODE_FAIL, "PREEMPTED", START_FAILED, "REGISTRY_UNREACHABLE", "DISK_FULL"})
_TEXTS = {
    CANCELLED: "it was cancelled",
    "TIME_LIMIT": "it reached its time limit",
    "OUT_OF_MEMORY": "it used more memory than it may",
    NODE_FAIL: "its node failed: the runner is gone and told no end",
    "PREEMPTED": "its node was taken away",
    START_FAILED: "its runner could not start the script",
    END_UNKNOWN: "no evidence is left of how it ended",
}
_TIMES = re.compile(r"([0-9]{1,9})m([0-9]{1,3}(?:\.[0-9]{1,9})?)s")
_REASON = re.compile(r"[A-Z_]{1,40}")
_CODE_DIGITS = 5
_TEXT_CHARS = 500
_MOST_CPU_S = 1e9
_LATEST_NS = 253_402_300_799 * 1_000_000_000
"""The end of the year 9999, where Timestamp ends: files can be given any time."""


class Phase(enum.Enum):
    """How far an attempt is on one node."""

    UNCLAIMED = enum.auto()
    RUNNING = enum.auto()
    LOST = enum.auto()
    """Its runner is gone and wrote no end; whether anything of it is alive is not looked at yet."""
    ENDED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended on a node."""

    kind: str
    """`exit`, `signal` or `failure`; `unstarted` is a failure before anything ran."""
    value: str
    """The code, the number, or the reason."""
    cpu_s: float
    time_ns: int
    text: str = ""
    """What goes with a reason, for people; empty: what is always said of it."""


def parse_end(lines: Sequence[str], time_ns: int) -> End | None:
    """The end that a file tells; None if it is not whole: the power failed while it was written.

    Args:
        lines: Of the file, without newlines.
        time_ns: When it was written, since the epoch.
    """
    if not lines or lines[-1] != ".":
        return None
    kind, _, value = lines[0].partition(" ")
    text = ""
    if kind in _WITH_TEXT:
        value, _, text = value.partition(" ")
        text = "".join(c if c.isprintable() else " " for c in text)[:_TEXT_CHARS]
    # The account's own processes may have written to it.
    cpu_s = sum(int(m) * 60 + float(s) for line in lines[1:3] for m, s in _TIMES.findall(line))
    if not _makes_sense(kind, value):
        kind, value, text = "failure", END_UNKNOWN, ""
    return End(kind, value, min(cpu_s, _MOST_CPU_S), time_ns, text)


def _makes_sense(kind: str, value: str) -> bool:
    if kind in {"exit", "signal"}:
        return value.isascii() and value.isdigit() and len(value) <= _CODE_DIGITS
    return kind in _KINDS and bool(_REASON.fullmatch(value))


def beginning(
    spec: job_pb2.StartJobRequest, roots: Sequence[types_pb2.SiteRoot]
) -> job_pb2.JobStatus:
    """What is known of an attempt from what it was started with alone."""
    status = job_pb2.JobStatus(
        ref=spec.ref, spec_fingerprint=spec.spec_fingerprint, origin=spec.origin, roots=roots
    )
    refused = sorted(name for name in spec.spec.env if name.startswith("SWM_"))
    if refused:
        status.warnings.append(f"{', '.join(refused)}: names with SWM_ can't be set by a job")
    return status


def add_start(status: job_pb2.JobStatus, time_ns: int) -> None:
    """Tell when the script began, in nanoseconds since the epoch."""
    status.start_time.CopyFrom(timestamp(time_ns))
    if status.HasField("end"):
        status.end.start_time.CopyFrom(status.start_time)


def end_unstarted(status: job_pb2.JobStatus, time_ns: int) -> None:
    """Tell that it was cancelled before there was anything to claim."""
    status.state = job_pb2.JOB_STATE_ENDED
    status.text = ""
    status.end.failure.CopyFrom(failure(CANCELLED))
    status.end.end_time.CopyFrom(timestamp(time_ns))


def end(status: job_pb2.JobStatus, ends: Sequence[tuple[str, End]]) -> None:
    """Tell that it has ended.

    Args:
        status: Gets state and end.
        ends: Each node with its end, rank 0 first; at least one.
    """
    told = job_pb2.JobEnd()
    for node, on_node in ends:
        _set_outcome(told.nodes.add(node=node), on_node)
    worst = next((node for node in told.nodes if not _went_well(node)), told.nodes[0])
    _copy_outcome(told, worst)
    told.end_time.CopyFrom(timestamp(max(on_node.time_ns for _, on_node in ends)))
    if cpu_s := sum(on_node.cpu_s for _, on_node in ends):
        told.usage.cpu_time.FromNanoseconds(round(cpu_s * 1e9))
    status.state = job_pb2.JOB_STATE_ENDED
    status.end.CopyFrom(told)


def why_lost(*, is_readable: bool, is_buried: bool) -> str:
    """The reason of the end on a node whose runner is gone without one.

    Args:
        is_readable: Whether its claim makes sense.
        is_buried: Whether the attempt was cancelled.
    """
    if not is_readable:
        return END_UNKNOWN
    return CANCELLED if is_buried else NODE_FAIL


def failure(reason: str, text: str = "") -> types_pb2.Failure:
    """The failure for one of the reasons of an end.

    Args:
        reason: Which.
        text: What is told to people; empty: what is always said of it.
    """
    text = text or _TEXTS.get(reason, f"it ended with {reason}")
    return types_pb2.Failure(reason=reason, message=text, retryable=reason in _RETRYABLE)


def timestamp(time_ns: int) -> Timestamp:
    """Nanoseconds since the epoch as the contracts have them."""
    stamp = Timestamp()
    stamp.FromNanoseconds(min(max(time_ns, 0), _LATEST_NS))
    return stamp


def _went_well(node: job_pb2.NodeEnd) -> bool:
    return node.WhichOneof("outcome") == "exit_code" and node.exit_code == 0


def _copy_outcome(end: job_pb2.JobEnd, node: job_pb2.NodeEnd) -> None:
    kind = node.WhichOneof("outcome")
    if kind == "exit_code":
        end.exit_code = node.exit_code
    elif kind == "signal":
        end.signal = node.signal
    else:
        end.failure.CopyFrom(node.failure)


def _set_outcome(told: job_pb2.NodeEnd, end: End) -> None:
    if end.kind == "exit":
        told.exit_code = int(end.value)
    elif end.kind == "signal":
        told.signal = int(end.value)
    else:
        told.failure.CopyFrom(failure(end.value, end.text))
