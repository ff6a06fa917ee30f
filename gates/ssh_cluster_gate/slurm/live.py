"""Attempts at a Slurm site that are followed, and what is known of each."""

from __future__ import annotations

import dataclasses
import math

from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.layout import AttemptKey
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.evidence import Evidence
from gates.ssh_cluster_gate.slurm.judgement import Missing
from gates.ssh_cluster_gate.slurm.queue import Row, Sought
from skyport.gate.v1 import job_pb2, types_pb2


@dataclasses.dataclass(eq=False, slots=True)
class Live:
    """An attempt that was asked to start and is not known to have ended."""

    ref: types_pb2.JobRef
    """With its roots."""
    lasting: Lasting
    account: Account
    since: float
    """When it was last submitted, or first seen, by the monotonic clock."""
    found: Evidence | None = None
    looked_at: float = 0.0
    over: Row | Missing | None = None
    """The queue's last word: it is over, or unknown. It stays when the row has aged out."""
    over_since: float = 0.0
    said: str = ""
    """What the job itself has told last: "begun" or "ended"."""
    said_at: float = -math.inf
    ended_at: float | None = None
    """When its own end was first seen, by the monotonic clock."""
    log_reason: str | None = None
    is_starting: bool = False
    text: str = ""
    """How far its start is."""
    told: job_pb2.JobStatus | None = None

    @property
    def key(self) -> AttemptKey:
        return AttemptKey.of(self.ref)

    def saw(self, one: Evidence, at: float) -> Evidence:
        """Note what lies of it; what lay there where that has been deleted since. Returns it.

        Args:
            one: What was found.
            at: When it was looked at, by the monotonic clock.
        """
        if not one.exists and self.found is not None:
            one = dataclasses.replace(self.found, is_gone=True, is_buried=one.is_buried)
        self.found, self.looked_at = one, at
        return one

    @property
    def shows_less_than_said(self) -> bool:
        """Whether there must be more in its folder than was seen there."""
        found = self.found
        if not self.said or found is None or found.final is not None or found.ends:
            return False
        return self.said == "ended" or found.given is None


def sought(key: AttemptKey, found: Evidence) -> Sought | None:
    """The job that the queue has for an attempt, or had; None if none is known."""
    slurm_id = found.given.slurm_id if found.given else found.slurm_id
    return Sought.of(slurm_id, key, found.root_uid) if slurm_id else None
