"""The states of a job and of a partition, and the only ways between them.

The tables are data, so that documentation, the store's checks and generated tests have one source.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class IllegalTransition(Exception):
    """A transition that the table does not have: a defect of the core, never of its user."""


class JobState(enum.StrEnum):
    """Where a job is on its way. Terminal states are left by a requeue only."""

    QUEUED = "QUEUED"
    """Waits in the core for a place."""
    PROVISIONING = "PROVISIONING"
    """Has a place that is not ready yet."""
    STAGING_IN = "STAGING_IN"
    """Its input files travel to the site."""
    STARTING = "STARTING"
    """The gate has been, or is about to be, asked to start it."""
    QUEUED_AT_SITE = "QUEUED_AT_SITE"
    """The site's own queue holds it."""
    RUNNING = "RUNNING"
    """Its script runs."""
    STAGING_OUT = "STAGING_OUT"
    """It has ended at the site; outputs and logs travel back."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended for good (unless somebody requeues it)."""
        return self in TERMINAL_STATES

    @property
    def letter(self) -> str:
        """The one-letter code that users of the original system know."""
        return _LETTERS[self]


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
AT_SITE_STATES = frozenset({JobState.STARTING, JobState.QUEUED_AT_SITE, JobState.RUNNING})
"""Of a job in one of these the site has something that runs, or may run."""

_LETTERS = {
    JobState.QUEUED: "Q",
    JobState.PROVISIONING: "W",
    JobState.STAGING_IN: "T",
    JobState.STARTING: "T",
    JobState.QUEUED_AT_SITE: "Q",
    JobState.RUNNING: "R",
    JobState.STAGING_OUT: "T",
    JobState.SUCCEEDED: "F",
    JobState.FAILED: "E",
    JobState.CANCELLED: "C",
}

_END = (JobState.FAILED, JobState.CANCELLED)
_AGAIN = (JobState.QUEUED,)

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.PROVISIONING, *_END}),
        JobState.PROVISIONING: frozenset({JobState.STAGING_IN, *_AGAIN, *_END}),
        JobState.STAGING_IN: frozenset({JobState.STARTING, *_AGAIN, *_END}),
        # A short job may be seen only after it has ended: STARTING to STAGING_OUT is no mistake.
        JobState.STARTING: frozenset(
            {JobState.QUEUED_AT_SITE, JobState.RUNNING, JobState.STAGING_OUT, *_AGAIN, *_END}
        ),
        JobState.QUEUED_AT_SITE: frozenset(
            {JobState.RUNNING, JobState.STAGING_OUT, *_AGAIN, *_END}
        ),
        JobState.RUNNING: frozenset({JobState.STAGING_OUT, *_AGAIN, *_END}),
        JobState.STAGING_OUT: frozenset({JobState.SUCCEEDED, *_AGAIN, *_END}),
        # Only a requeue leaves these.
        JobState.SUCCEEDED: frozenset(_AGAIN),
        JobState.FAILED: frozenset(_AGAIN),
        JobState.CANCELLED: frozenset(_AGAIN),
    }
)


class PartitionState(enum.StrEnum):
    """Where a partition is on its way, as the core sees it."""

    CREATING = "CREATING"
    """The gate has been, or is about to be, asked for it."""
    READY = "READY"
    STOPPED = "STOPPED"
    """Deallocated by its own expiry; nothing runs on it."""
    DELETING = "DELETING"
    """To be deleted; stays so until the gate says that it is gone."""
    DELETED = "DELETED"


PARTITION_TRANSITIONS: Mapping[PartitionState, frozenset[PartitionState]] = MappingProxyType(
    {
        PartitionState.CREATING: frozenset({PartitionState.READY, PartitionState.DELETING}),
        PartitionState.READY: frozenset({PartitionState.STOPPED, PartitionState.DELETING}),
        PartitionState.STOPPED: frozenset({PartitionState.READY, PartitionState.DELETING}),
        PartitionState.DELETING: frozenset({PartitionState.DELETED}),
        PartitionState.DELETED: frozenset(),
    }
)


def check_job_transition(before: JobState, after: JobState) -> None:
    """Raise IllegalTransition unless a job may go from `before` to `after`."""
    if after not in JOB_TRANSITIONS[before]:
        raise IllegalTransition(f"a job cannot go from {before} to {after}")


def check_partition_transition(before: PartitionState, after: PartitionState) -> None:
    """Raise IllegalTransition unless a partition may go from `before` to `after`."""
    if after not in PARTITION_TRANSITIONS[before]:
        raise IllegalTransition(f"a partition cannot go from {before} to {after}")
