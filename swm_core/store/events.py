"""One row of the event journal, as a value."""

from __future__ import annotations

import dataclasses
import enum

from swm_core.domain.states import JobState


class EventKind(enum.StrEnum):
    """`UPDATED` keeps the state: the text or another detail of the job has changed."""

    SUBMITTED = "SUBMITTED"
    TRANSITION = "TRANSITION"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """What happened to a job. `sequence` grows over all jobs, in the order of the commits.

    `from_state` is None for `SUBMITTED` only; `UPDATED` and `DELETED` have it equal to `to_state`.
    `time`: seconds since the epoch. `message` is for people, `reason` for programs; both may be
    empty.
    """

    sequence: int
    time: float
    job_id: str
    owner: str
    attempt: int
    from_state: JobState | None
    to_state: JobState
    kind: EventKind
    reason: str = ""
    message: str = ""
