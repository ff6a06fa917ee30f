"""What an attempt's folder says, as the contract tells it: a JobStatus. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gate_kit import job_status
from gate_kit.job_status import Phase
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate.attempt import Attempt, OnNode
from gates.fake_gate.site import Site
from skyport.gate.v1 import job_pb2, types_pb2


def read_status(
    site: Site, attempt: Attempt, boot_id: str, has_runner: Callable[[AttemptPath, str], bool]
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
        labels.roots.extend(_roots(site))
        if site.is_buried(attempt.key):
            _end_unstarted(site, attempt, labels)
        return labels, []
    status = job_status.beginning(spec, _roots(site))
    on_nodes = [attempt.on_node(node, boot_id) for node in attempt.nodes(spec)]
    claims = [node.claim for node in on_nodes if node.claim]
    if not on_nodes:
        status.state = job_pb2.JOB_STATE_QUEUED_AT_SITE
        status.text = "waits for a free slot"
        if site.is_buried(attempt.key):
            _end_unstarted(site, attempt, status)
    elif all(node.phase is Phase.ENDED for node in on_nodes):
        job_status.end(status, [(node.name, node.end) for node in on_nodes if node.end])
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
    status = job_status.beginning(spec, _roots(site))
    status.state = job_pb2.JOB_STATE_STARTING
    return status


def _roots(site: Site) -> list[types_pb2.SiteRoot]:
    return [types_pb2.SiteRoot(root_uid=site.root_uid())]


def _add_start(status: job_pb2.JobStatus, on_nodes: Sequence[OnNode]) -> None:
    """Tell when the script began, if any of it may have run."""
    for node in on_nodes:
        if node.claim and node.claim.pid and not (node.end and node.end.kind == "unstarted"):
            job_status.add_start(status, node.claim.time_ns)
            return


def _end_unstarted(site: Site, attempt: Attempt, status: job_pb2.JobStatus) -> None:
    """Tell that it was cancelled before there was anything to claim."""
    job_status.end_unstarted(status, site.tombstone(attempt.key).stat().st_mtime_ns)
