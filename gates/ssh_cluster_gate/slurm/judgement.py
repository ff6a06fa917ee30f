"""What follows from what lies in an attempt's folder and from the queue's word. Pure.

The folder says more than the queue: it stays when the record of a job has aged out, and it knows
the script's own end. The queue is asked where the folder can't know: why a job waits, why it was
ended from outside, and whether anything may still run.
"""

from __future__ import annotations

import dataclasses
import enum

from gate_kit import job_status
from gate_kit.job_status import End
from gates.ssh_cluster_gate.slurm.evidence import Evidence, allocations
from gates.ssh_cluster_gate.slurm.queue import Row, Stage
from skyport.gate.v1 import job_pb2, types_pb2

_SIGNAL_CODES = range(129, 193)


class Missing(enum.Enum):
    """Why the queue tells nothing of a job."""

    UNASKED = enum.auto()
    """It has not answered since the job was there: nothing follows."""
    UNKNOWN = enum.auto()
    """It has said itself that it does not know the job."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What follows."""

    status: job_pb2.JobStatus | None
    """None: nothing of it is there, or that can't be said without the queue's word."""
    needs_word: bool = False
    """Whether the queue's word would say more than this."""
    settle: End | None = None
    """An end to be written down, since it can be seen now and maybe not later."""
    is_forgotten: bool = False
    """Whether the queue has lost a submission that has left no trace."""


def judge(
    found: Evidence,
    word: Row | Missing,
    *,
    is_starting: bool = False,
    text: str = "",
    is_settled: bool = True,
    is_whole: bool = True,
    log_reason: str = "",
    warnings: tuple[str, ...] = (),
    now_ns: int = 0,
) -> Judged:
    """The attempt as it is now.

    Args:
        found: What lies there.
        word: What the queue says of it.
        is_starting: Whether it is being submitted, or what it needs is being fetched.
        text: How far that is, for people.
        is_settled: Whether the folder was looked at long enough after the queue said that the job
            is over, so that what was written before that would have been seen.
        is_whole: Whether all that was written before the end that the job has told can be read.
        log_reason: What Slurm's log of the job says of its end; empty if that is not known.
        warnings: To be told with it.
        now_ns: For ends that have no time of their own.
    """
    spec = found.lasting.spec
    if spec is None:
        return Judged(_staged(found, now_ns))
    status = job_status.beginning(spec, [types_pb2.SiteRoot(root_uid=found.root_uid)])
    status.warnings.extend(warnings)
    status.image_digest = found.image_digest
    status.handle = found.slurm_id or (found.given.slurm_id if found.given else "")
    if found.given is not None and not _is_unstarted(found):
        status.allocations.extend(allocations(found.given, spec.spec))
    if found.final is not None:
        return Judged(_ended(status, found, {0: found.final}))
    # A job may have written there what it likes, or its node knew no names.
    nodes = (found.given.nodes if found.given else ()) or ("",)
    is_every = spec.spec.launch == job_pb2.LAUNCH_EVERY
    ranks = range(len(nodes) if is_every else 1)
    if all(rank in found.ends for rank in ranks):
        if not is_whole:
            return _ends(status, found)
        return _with_ends(status, found, word, is_alone=len(nodes) == 1, log_reason=log_reason)
    if found.given is not None:
        return _claimed(status, found, word, is_settled, log_reason, now_ns)
    if is_starting and not found.is_buried and not isinstance(word, Row):
        status.state = job_pb2.JOB_STATE_STARTING
        status.text = text
        return Judged(status)
    return _unclaimed(status, found, word, is_settled, now_ns)


def _staged(found: Evidence, now_ns: int) -> job_pb2.JobStatus | None:
    labels = found.lasting.labels
    if labels is None:
        return None
    status = job_pb2.JobStatus()
    status.CopyFrom(labels)
    status.state = job_pb2.JOB_STATE_STAGED
    status.roots.append(types_pb2.SiteRoot(root_uid=found.root_uid))
    if found.is_buried:
        job_status.end_unstarted(status, now_ns)
    return status


def _with_ends(
    status: job_pb2.JobStatus,
    found: Evidence,
    word: Row | Missing,
    *,
    is_alone: bool,
    log_reason: str,
) -> Judged:
    """All ranks have told their ends. Some of them Slurm may know better, or others may run on."""
    was_ended = any(_is_from_outside(end) for end in found.ends.values())
    # A script may end well after Slurm has told it to end; then Slurm has noted that.
    may_be = was_ended or (found.is_logged and any(_is_own(end) for end in found.ends.values()))
    if isinstance(word, Row) and word.stage is Stage.OVER:
        reason = word.why if may_be else ""
    elif word is Missing.UNKNOWN or (not may_be and is_alone):
        reason = log_reason if may_be else ""
        if not was_ended and reason == job_status.CANCELLED:
            reason = ""  # somebody has sent it a signal, which it has survived
    else:
        # Nothing is certain yet: other nodes may be busy, or the queue has a reason to tell.
        return _ends(status, found, needs_word=True)
    if reason:
        last_ns = max(end.time_ns for end in found.ends.values())
        cpu_s = sum(end.cpu_s for end in found.ends.values())
        end = End("failure", reason, cpu_s, last_ns)
        return Judged(_ended(status, found, {0: end}), settle=end)
    return Judged(_ended(status, found, dict(found.ends)))


def _ends(status: job_pb2.JobStatus, found: Evidence, *, needs_word: bool = False) -> Judged:
    """It is over, and it is not known yet how, or not all that it has left can be seen."""
    status.state = job_pb2.JOB_STATE_RUNNING
    status.text = "ends"
    _add_start(status, found)
    return Judged(status, needs_word=needs_word)


def _claimed(
    status: job_pb2.JobStatus,
    found: Evidence,
    word: Row | Missing,
    is_settled: bool,
    log_reason: str,
    now_ns: int,
) -> Judged:
    if isinstance(word, Row) and word.stage is Stage.OVER:
        # Where the queue names no reason, its runner is gone and has told no end.
        untold = job_status.END_UNKNOWN if found.is_gone else job_status.NODE_FAIL
        reason = word.why or log_reason or untold
        is_certain = is_settled
    elif word is Missing.UNKNOWN:
        reason = log_reason or job_status.END_UNKNOWN
        is_certain = is_settled
    else:
        status.state = job_pb2.JOB_STATE_RUNNING
        is_there = isinstance(word, Row) and word.stage is Stage.ON_NODES
        status.text = word.text if isinstance(word, Row) and is_there else ""
        _add_start(status, found)
        return Judged(status)
    if not is_certain:
        return _ends(status, found, needs_word=True)
    end = End("failure", reason, 0.0, now_ns)
    return Judged(_ended(status, found, {0: end}), settle=end)


def _unclaimed(
    status: job_pb2.JobStatus,
    found: Evidence,
    word: Row | Missing,
    is_settled: bool,
    now_ns: int,
) -> Judged:
    if isinstance(word, Row):
        status.handle = word.slurm_id
        status.state = job_pb2.JOB_STATE_QUEUED_AT_SITE
        if word.stage is not Stage.OVER:
            status.text = word.text if word.stage is Stage.WAITING else "begins on its nodes"
            return Judged(status)
        if not is_settled:
            status.text = "begins on its nodes"
            return Judged(status, needs_word=True)
        is_cancelled = found.is_buried or word.why == job_status.CANCELLED
        if found.is_gone and not is_cancelled:
            return _untold(status, found, now_ns)
        reason = job_status.CANCELLED if is_cancelled else job_status.START_FAILED
        end = End("unstarted", reason, 0.0, now_ns)
        return Judged(_ended(status, found, {0: end}), settle=end)
    if found.is_buried:
        job_status.end_unstarted(status, now_ns)
        return Judged(status)
    if word is Missing.UNKNOWN and found.is_gone:
        return _untold(status, found, now_ns)
    if word is Missing.UNKNOWN:
        # Never started, and nothing of it can come any more but under the same claim.
        status.state = job_pb2.JOB_STATE_STAGED
        status.handle = ""
        return Judged(status, is_forgotten=True)
    if found.slurm_id:
        status.state = job_pb2.JOB_STATE_QUEUED_AT_SITE
        status.text = "queued"
        return Judged(status, needs_word=True)
    return Judged(None, needs_word=True)


def _untold(status: job_pb2.JobStatus, found: Evidence, now_ns: int) -> Judged:
    """It may have begun and ended: what would tell has been deleted."""
    end = End("failure", job_status.END_UNKNOWN, 0.0, now_ns)
    return Judged(_ended(status, found, {0: end}))


def _is_from_outside(end: End) -> bool:
    """Whether Slurm may have had a hand in it: what it ends it ends by signals."""
    if end.kind == "signal":
        return True
    return end.kind == "exit" and int(end.value) in _SIGNAL_CODES


def _is_own(end: End) -> bool:
    """Whether the script has told it, and not who guards it."""
    return end.kind in {"exit", "signal"}


def _is_unstarted(found: Evidence) -> bool:
    first = found.final or found.ends.get(0)
    return first is not None and first.kind == "unstarted"


def _add_start(status: job_pb2.JobStatus, found: Evidence) -> None:
    if found.given is not None and not _is_unstarted(found):
        job_status.add_start(status, found.given.time_ns)


def _ended(status: job_pb2.JobStatus, found: Evidence, ends: dict[int, End]) -> job_pb2.JobStatus:
    nodes = found.given.nodes if found.given else ()
    named = [(nodes[rank] if rank < len(nodes) else "", end) for rank, end in sorted(ends.items())]
    job_status.end(status, named)
    if len(named) == 1:
        del status.end.nodes[:]
    _add_start(status, found)
    return status
