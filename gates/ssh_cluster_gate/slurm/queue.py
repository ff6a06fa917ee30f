"""What the queue says of jobs: rows of squeue and sacct, and what its words mean. Pure."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Collection, Iterable, Mapping

from gate_kit import job_status
from gate_kit.ssh.layout import AttemptPath
from gates.ssh_cluster_gate.slurm import sbatch

SQUEUE = ("squeue", "-h", "-a", "-t", "all", "-o", "%A|%T|%j|%k|%r")
"""Job, state, name, comment; the reason last: it may hold anything.

All states: what has ended stays a while, and says how.
"""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Sought:
    """A job that should be in the queue."""

    slurm_id: str
    name: str
    comment: str

    @classmethod
    def of(cls, slurm_id: str, key: AttemptPath, root_uid: str) -> Sought:
        """An attempt under the id that Slurm gave it."""
        return cls(slurm_id, sbatch.job_name(key), sbatch.comment(key, root_uid))

    def is_of(self, row: Row) -> bool:
        """Whether a row is of it. Users may rename jobs, and sites have comments of their own."""
        return row.slurm_id == self.slurm_id and (
            row.name == self.name or row.comment == self.comment
        )

    def may_be(self, row: Row) -> bool:
        """Whether a row may be of it, whatever was done to it.

        A controller that has lost its state gives ids a second time: those of other attempts are
        not of it.
        """
        return self.is_of(row) or (
            row.slurm_id == self.slurm_id and not row.name.startswith(sbatch.PREFIX)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """All that the queue has said of an account, at one time."""

    asked_at: float
    """By the monotonic clock: when the question was put."""
    rows: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    """By Slurm's ids."""
    is_whole: bool = False
    """Whether there is a row for each job of the account that the controller knows."""

    def of(self, key: AttemptPath, root_uid: str, known: Collection[str] = ()) -> list[Row]:
        """The rows of one attempt, the latest last.

        Args:
            key: The attempt.
            root_uid: Where it lies.
            known: The ids under which it was submitted, as far as that is known.
        """
        found = [row for row in self.rows.values() if is_of(row, key, root_uid, known)]
        return sorted(found, key=lambda row: int(row.slurm_id))


def is_of(row: Row, key: AttemptPath, root_uid: str, known: Collection[str]) -> bool:
    """Whether a row is one of an attempt; as for `Word.of`.

    A site may take comments away, and a job may change its own, or its name. An id alone says
    nothing: a queue that has begun anew gives it to somebody else.
    """
    if row.comment == sbatch.comment(key, root_uid):
        return True
    is_named = row.name == sbatch.job_name(key)
    return is_named and (not row.comment or row.slurm_id in known)


def waiting_text(state: str, reason: str) -> str:
    """Why a job waits: Slurm's own word for it, and what that means where it is known."""
    if state != "PENDING":
        return f"queued: {state.lower().replace('_', ' ')}"
    word = reason.strip("()").partition(",")[0].strip()
    if not word or word == "None":
        return "queued"
    meaning = _REASONS.get(word, "")
    return f"queued: {word}{f' ({meaning})' if meaning else ''}"


_COUNT = re.compile(r"last_update_time=[0-9]+ records=([0-9]{1,10})")


def read_count(lines: Iterable[str]) -> int | None:
    """How many jobs the controller has told a verbose squeue of; None if it does not say."""
    for line in lines:
        found = _COUNT.fullmatch(line.strip())
        if found:
            return int(found[1])
    return None


def read_squeue(lines: Iterable[str]) -> dict[str, Row]:
    """The rows of `SQUEUE`, by their ids; others are left out."""
    rows = {}
    for line in lines:
        parts = line.split("|", 4)
        if len(parts) == 5 and parts[0].isascii() and parts[0].isdigit():
            comment = "" if parts[3] == "(null)" else parts[3]
            rows[parts[0]] = Row(parts[0], parts[1].strip(), parts[2], comment, parts[4].strip())
    return rows


def read_sacct(lines: Iterable[str]) -> dict[str, Row]:
    """The rows of sacct in `SACCT_FORMAT`, by their ids. Of steps nothing is told.

    Who has cancelled a job is named. Accounts call all those CANCELLED by nobody that a controller
    had lost when it came back: how these have ended is not known.
    """
    rows = {}
    for line in lines:
        parts = line.split("|", 2)
        if len(parts) == 3 and parts[0].isascii() and parts[0].isdigit():
            # "CANCELLED by 1000"
            state, by, _ = parts[1].partition(" ")
            if state == "CANCELLED" and not by:
                continue
            state = state.rstrip("+")
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
