"""What the queue says of jobs: rows of squeue and sacct, and what its words mean. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

from gate_kit import job_status

SQUEUE_FORMAT = "%A|%T|%j|%k|%r"
"""Job, state, name, comment; the reason last: it may hold anything."""
SACCT_FORMAT = "JobIDRaw,State,JobName"

_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
                      "SPECIAL_EXIT", "RESV_DEL_HOLD", "RESIZING", "POWER_UP_NODE"})  # fmt: skip
_ENDS = {
    "BOOT_FAIL": job_status.NODE_FAIL,
    "CANCELLED": job_status.CANCELLED,
    "COMPLETED": "",
    "DEADLINE": "TIME_LIMIT",
    "FAILED": "",
    "NODE_FAIL": job_status.NODE_FAIL,
    "OUT_OF_MEMORY": "OUT_OF_MEMORY",
    "PREEMPTED": "PREEMPTED",
    "REVOKED": job_status.CANCELLED,
    "TIMEOUT": "TIME_LIMIT",
}
"""States in which nothing of a job runs any more, each with what it says of why."""

_REASONS = {
    "None": "waits to be looked at",
    "Priority": "jobs with a higher priority are before it",
    "Resources": "waits for nodes to become free",
    "Dependency": "waits for another job",
    "BeginTime": "its begin time has not come",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "it is held",
    "Licenses": "waits for a licence",
    "ReqNodeNotAvail": "a node that it asks for is not there",
    "Reservation": "waits for its reservation",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes jobs, and starts none",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives",
    "PartitionTimeLimit": "it asks for more time than the partition gives",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "nothing fits its constraints",
}


class Stage(enum.Enum):
    """How far a job is in the queue."""

    WAITING = enum.auto()
    ON_NODES = enum.auto()
    OVER = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One job, as the queue has it."""

    slurm_id: str
    state: str
    """As Slurm has it, long."""
    name: str
    comment: str = ""
    reason: str = ""

    @property
    def stage(self) -> Stage:
        """How far it is. A state that nobody knows is not the end of it."""
        if self.state in _ENDS:
            return Stage.OVER
        return Stage.WAITING if self.state in _WAITING else Stage.ON_NODES

    @property
    def why(self) -> str:
        """The reason of an end, by the wire; empty if the state gives none."""
        return _ENDS.get(self.state, "")

    @property
    def text(self) -> str:
        """For people: why it waits, or what goes on."""
        if self.stage is Stage.WAITING:
            return waiting_text(self.state, self.reason)
        return "" if self.state == "RUNNING" else self.state.lower().replace("_", " ")


def waiting_text(state: str, reason: str) -> str:
    """Why a job waits: Slurm's own word for it, and what that means where it is known."""
    if state != "PENDING":
        return f"queued: {state.lower().replace('_', ' ')}"
    word = reason.strip("()").partition(",")[0].strip()
    if not word or word == "None":
        return "queued"
    meaning = _REASONS.get(word, "")
    return f"queued: {word}{f' ({meaning})' if meaning else ''}"


def read_squeue(lines: Iterable[str]) -> dict[str, Row]:
    """The rows of squeue in `SQUEUE_FORMAT`, by their ids; others are left out."""
    rows = {}
    for line in lines:
        parts = line.split("|", 4)
        if len(parts) == 5 and parts[0].isascii() and parts[0].isdigit():
            comment = "" if parts[3] == "(null)" else parts[3]
            rows[parts[0]] = Row(parts[0], parts[1].strip(), parts[2], comment, parts[4].strip())
    return rows


def read_sacct(lines: Iterable[str]) -> dict[str, Row]:
    """The rows of sacct in `SACCT_FORMAT`, by their ids. Of steps nothing is told."""
    rows = {}
    for line in lines:
        parts = line.split("|", 2)
        if len(parts) == 3 and parts[0].isascii() and parts[0].isdigit():
            # "CANCELLED by 1000"
            state = parts[1].partition(" ")[0].rstrip("+")
            rows[parts[0]] = Row(parts[0], state, parts[2])
    return rows


def has_accounts(storage_type: str) -> bool:
    """Whether Slurm keeps accounts, by its AccountingStorageType: newer ones say "(null)"."""
    return storage_type not in {"", "(null)"} and "none" not in storage_type


_SIGNS = (
    ("oom-kill", "OUT_OF_MEMORY"),
    ("oom_kill", "OUT_OF_MEMORY"),
    ("exceeded memory limit", "OUT_OF_MEMORY"),
    ("exceeded job memory limit", "OUT_OF_MEMORY"),
    ("due to time limit", "TIME_LIMIT"),
    ("due to node failure", job_status.NODE_FAIL),
    ("due to preemption", "PREEMPTED"),
)


def why_of_log(text: str) -> str:
    """What Slurm wrote into a job's log of why it ended it; empty if nothing.

    It stays when the record of the job has aged out, and where there is no accounting.
    """
    lowered = text.lower()
    for sign, reason in _SIGNS:
        if sign in lowered:
            return reason
    return job_status.CANCELLED if "cancelled at" in lowered else ""
