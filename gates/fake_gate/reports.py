"""What an attempt's folder says, as the contract tells it: JobStatus and JobEnd. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from gates.fake_gate.attempt import Attempt, End, OnNode, Phase
from gates.fake_gate.site import AttemptKey, Site
from skyport.gate.v1 import job_pb2, types_pb2

CANCELLED = "CANCELLED"
NODE_FAIL = "NODE_FAIL"
START_FAILED = "START_FAILED"

_RETRYABLE = frozenset({NODE_FAIL, "PREEMPTED", START_FAILED})
_TEXTS = {
    CANCELLED: "it was cancelled",
    "TIME_LIMIT": "it reached its time limit",
    "OUT_OF_MEMORY": "it used more memory than it may",
    NODE_FAIL: "its node failed: the runner is gone and told no end",
    "PREEMPTED": "its node was taken away",
    START_FAILED: "its runner could not start the script",
    "END_UNKNOWN": "no evidence is left of how it ended",
}


def read_status(
    site: Site, attempt: Attempt, boot_id: str, has_runner: Callable[[AttemptKey, str], bool]
) -> tuple[job_pb2.JobStatus, list[OnNode]] | None:
    """The attempt as it is now, and how far it is on each of its nodes.

    Args:
        site: Where it is.
        attempt: Which.
        boot_id: Of this machine.
        has_runner: Whether a runner is on its way to a node that has no claim.

    Returns:
        None if nothing of it is there. The list is empty while it has no nodes.
    """
    spec = attempt.spec()
    if spec is None:
        labels = attempt.labels()
        if labels is None:
            return None
        labels.state = job_pb2.JOB_STATE_STAGED
        _add_root(site, labels)
        if site.is_buried(attempt.key):
            _end_unstarted(site, attempt, labels)
        return labels, []
    status = _beginning(site, spec)
    on_nodes = [attempt.on_node(node, boot_id) for node in attempt.nodes(spec)]
    claims = [node.claim for node in on_nodes if node.claim]
    if not on_nodes:
        status.state = job_pb2.JOB_STATE_QUEUED_AT_SITE
        status.text = "waits for a free slot"
        if site.is_buried(attempt.key):
            _end_unstarted(site, attempt, status)
    elif all(node.phase is Phase.ENDED for node in on_nodes):
        status.state = job_pb2.JOB_STATE_ENDED
        status.end.CopyFrom(_job_end(on_nodes))
    elif claims:
        status.state = job_pb2.JOB_STATE_RUNNING
    elif any(has_runner(attempt.key, node.name) for node in on_nodes):
        status.state = job_pb2.JOB_STATE_STARTING
    elif site.is_buried(attempt.key):
        _end_unstarted(site, attempt, status)
    else:
        # The start was lost on its way; the core asks again.
        status.state = job_pb2.JOB_STATE_STAGED
    _add_start(status, on_nodes)
    if not spec.ref.nodes and claims:
        status.allocations.extend(attempt.given())
    return status, on_nodes


def starting(site: Site, spec: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
    """An attempt whose runners have just been sent."""
    status = _beginning(site, spec)
    status.state = job_pb2.JOB_STATE_STARTING
    return status


def _beginning(site: Site, spec: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
    """What is known of an attempt from its spec alone."""
    status = job_pb2.JobStatus(
        ref=spec.ref, spec_fingerprint=spec.spec_fingerprint, origin=spec.origin
    )
    _add_root(site, status)
    refused = sorted(name for name in spec.spec.env if name.startswith("SWM_"))
    if refused:
        status.warnings.append(f"{', '.join(refused)}: names with SWM_ can't be set by a job")
    return status


def failure(reason: str) -> types_pb2.Failure:
    """The failure for one of the reasons of an end."""
    text = _TEXTS.get(reason, f"it ended with {reason}")
    return types_pb2.Failure(reason=reason, message=text, retryable=reason in _RETRYABLE)


def timestamp(time_ns: int) -> Timestamp:
    """Nanoseconds since the epoch as the contracts have them."""
    stamp = Timestamp()
    stamp.FromNanoseconds(time_ns)
    return stamp


def _add_root(site: Site, status: job_pb2.JobStatus) -> None:
    status.roots.add(root_uid=site.root_uid())


def _add_start(status: job_pb2.JobStatus, on_nodes: Sequence[OnNode]) -> None:
    """When the script began, if any of it may have run."""
    for node in on_nodes:
        if node.claim and node.claim.pid and not (node.end and node.end.kind == "unstarted"):
            status.start_time.CopyFrom(timestamp(node.claim.time_ns))
            if status.HasField("end"):
                status.end.start_time.CopyFrom(status.start_time)
            return


def _end_unstarted(site: Site, attempt: Attempt, status: job_pb2.JobStatus) -> None:
    """It was cancelled before there was anything to claim."""
    status.state = job_pb2.JOB_STATE_ENDED
    status.text = ""
    status.end.failure.CopyFrom(failure(CANCELLED))
    time_ns = site.tombstone(attempt.key).stat().st_mtime_ns
    status.end.end_time.CopyFrom(timestamp(time_ns))


def _job_end(on_nodes: Sequence[OnNode]) -> job_pb2.JobEnd:
    end = job_pb2.JobEnd()
    cpu_s, last_ns = 0.0, 0
    for on_node in on_nodes:
        if on_node.end is not None:
            told = end.nodes.add(node=on_node.name)
            _set_outcome(told, on_node.end)
            cpu_s += on_node.end.cpu_s
            last_ns = max(last_ns, on_node.end.time_ns)
    _copy_outcome(end, next((node for node in end.nodes if not _went_well(node)), end.nodes[0]))
    end.end_time.CopyFrom(timestamp(last_ns))
    if cpu_s:
        end.usage.cpu_time.FromNanoseconds(round(cpu_s * 1e9))
    return end


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
        told.failure.CopyFrom(failure(end.value))
