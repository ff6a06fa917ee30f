"""What the gate is told to do wrong: which call, of which job, how often, and how.

Faults come from the configuration, and from a control file that is read again whenever it changes,
so that a test can switch them. How often each has struck is kept at the site: a gate that was told
to die once does so once, not once in each life.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import fnmatch
import hashlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from gate_kit import Refusal
from rpc_kit import config_file

log = logging.getLogger(__name__)

Wrong = Iterator[tuple[tuple[str, ...], str]]


class FaultKind(enum.StrEnum):
    """What happens. The last four do not befall a call, but a job or a partition."""

    DELAY = "delay"
    """Wait for `seconds`."""
    NEVER = "never"
    """Never answer."""
    FAIL = "fail"
    """Answer with `code` and `reason`."""
    DIE = "die"
    """The gate is killed."""
    LOSE = "lose"
    """The answer is lost: UNAVAILABLE without a reason, as when a connection breaks."""
    END_JOB = "end_job"
    """The site ends the job with `reason`, `seconds` after it has begun to run."""
    BOOT_FAILS = "boot_fails"
    """A partition ends its boot as FAILED with `reason`."""
    BOOT_NEVER = "boot_never"
    """A partition stays CREATING."""
    BOOT_SLOW = "boot_slow"
    """A partition takes `seconds` more to boot."""


class When(enum.StrEnum):
    """At which point of a call."""

    BEFORE = "before"
    """Before anything was done."""
    INSIDE = "inside"
    """When half of it was done: the spec is written and no runner started; the cancel is noted and
    nothing signalled; the object is tagged and does not boot."""
    AFTER = "after"
    """When all was done, before the answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do wrong."""

    kind: FaultKind
    method: str = "*"
    """Name of the RPC, as `StartJob`; wildcards are allowed."""
    job: str = "*"
    """Id or name of the job, with wildcards. Calls about no job match only `*`."""
    partition: str = "*"
    """Id of the partition, with wildcards."""
    node: str = "*"
    """Name of a node: only calls about attempts on it, and `fail` names it. No wildcards."""
    when: When | None = None
    """Unless told: `after` for `lose` and `die`, `before` for the others."""
    skip: int = 0
    """Let so many matching calls pass first."""
    times: int = 0
    """Strike so often, then no more; zero: for ever."""
    seconds: float = 0.0
    code: str = ""
    reason: str = ""
    message: str = ""
    retryable: bool = False
    """Of a failure of a partition."""
    retry_after_s: float = 0.0
    after_requests: int = 0
    """In a stream: strike when so many messages have come."""
    after_responses: int = 0
    """In a stream: strike when so many messages were sent."""
    name: str = ""
    """Tells faults apart that are alike, so that each is counted by itself."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        kind = table.get("kind")
        if kind == "fail":
            if table.get("code") not in {code.name for code in grpc.StatusCode}:
                yield ("code",), 'is not a status; write it as "UNAVAILABLE"'
            if not table.get("reason"):
                yield ("reason",), 'is missing; write one of the contract, as "CAPACITY"'
        if kind in {"end_job", "boot_fails"} and not table.get("reason"):
            yield ("reason",), 'is missing; write one of the contract, as "NODE_FAIL"'

    @property
    def point(self) -> When:
        """At which point of a call it strikes."""
        late = self.kind in {FaultKind.LOSE, FaultKind.DIE}
        return self.when or (When.AFTER if late else When.BEFORE)

    @property
    def key(self) -> str:
        """Names the file in which its strikes are counted."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


CALL_KINDS = frozenset(
    {FaultKind.DELAY, FaultKind.NEVER, FaultKind.FAIL, FaultKind.DIE, FaultKind.LOSE}
)
BOOT_KINDS = frozenset({FaultKind.BOOT_FAILS, FaultKind.BOOT_NEVER, FaultKind.BOOT_SLOW})


@dataclasses.dataclass(frozen=True, slots=True)
class Control:
    """The control file."""

    faults: tuple[Fault, ...] = ()
    unreachable: tuple[str, ...] = ()
    """Names of nodes that do not answer."""
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names of nodes of dynamic partitions that are gone for good: NODE_FAIL or PREEMPTED."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """What a call, a job or a boot is about."""

    method: str = ""
    partition_id: str = ""
    job_id: str = ""
    job_name: str = ""
    nodes: tuple[str, ...] = ()


class LostAnswer(Exception):
    """The answer is to be lost on its way."""


class FaultScript:
    """The faults that are in force.

    Args:
        configured: Those of the configuration.
        control: The control file, if there is one; it need not exist.
        counts: The folder where strikes are counted.
    """

    def __init__(self, configured: Sequence[Fault], control: Path | None, counts: Path) -> None:
        self._configured = tuple(configured)
        self._path = control
        self._counts = counts
        self._seen: tuple[int, int, int] | None = None
        self._control = Control()

    @property
    def is_idle(self) -> bool:
        """Whether nothing can ever go wrong on purpose."""
        return not self._configured and self._path is None

    @property
    def unreachable(self) -> tuple[str, ...]:
        """The nodes that do not answer now."""
        self.refresh()
        return self._control.unreachable

    @property
    def lost(self) -> Mapping[str, str]:
        """The nodes that are gone for good, and why."""
        self.refresh()
        return self._control.lost

    def refresh(self) -> bool:
        """Read the control file if it has changed; returns whether it has.

        A file that can't be used is told in the log, and what was in force stays.
        """
        if self._path is None:
            return False
        try:
            told = self._path.stat()
        except FileNotFoundError:
            seen = None
        else:
            seen = (told.st_ino, told.st_mtime_ns, told.st_size)
        if seen == self._seen:
            return False
        self._seen = seen
        if seen is None:
            self._control = Control()
            return True
        try:
            self._control = config_file.load(self._path, Control)
        except config_file.ConfigError as error:
            log.error("control file: %s", error)  # noqa: TRY400 - the text says all
            return False
        return True

    def strikes(
        self, kinds: frozenset[FaultKind], subject: Subject, *, inside: bool = False
    ) -> list[Fault]:
        """The faults that strike now. Each call of this is one match of each fault that fits.

        Args:
            kinds: Which kinds may.
            subject: Whom it befalls.
            inside: Those at the point `inside`; otherwise all others.
        """
        self.refresh()
        return [
            fault
            for fault in (*self._configured, *self._control.faults)
            if fault.kind in kinds
            and (fault.point is When.INSIDE) == inside
            and _fits(fault, subject)
            and self._is_due(fault)
        ]

    async def inside(self, subject: Subject) -> None:
        """Strike a call that is half done.

        Raises:
            Refusal: For `fail`, and without a reason of the contract for `lose`.
        """
        if not self.is_idle:
            for fault in self.strikes(CALL_KINDS, subject, inside=True):
                await strike(fault)

    def _is_due(self, fault: Fault) -> bool:
        if not fault.skip and not fault.times:
            return True
        self._counts.mkdir(exist_ok=True)
        descriptor = os.open(
            self._counts / fault.key, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(b".")
            matches = os.fstat(file.fileno()).st_size
        return fault.skip < matches and (not fault.times or matches <= fault.skip + fault.times)


def _fits(fault: Fault, subject: Subject) -> bool:
    if fault.method != "*" and not fnmatch.fnmatchcase(subject.method, fault.method):
        return False
    if fault.partition != "*" and not fnmatch.fnmatchcase(subject.partition_id, fault.partition):
        return False
    if fault.node != "*" and fault.node not in subject.nodes:
        return False
    names = (subject.job_id, subject.job_name)
    return fault.job == "*" or any(fnmatch.fnmatchcase(name, fault.job) for name in names if name)


async def strike(fault: Fault) -> None:
    """Do to a call what the fault says.

    Raises:
        Refusal: For `fail`.
        LostAnswer: For `lose`.
    """
    log.info("fault: %s %s", fault.kind, fault.method)
    if fault.kind is FaultKind.DELAY:
        await asyncio.sleep(fault.seconds)
    elif fault.kind is FaultKind.NEVER:
        await asyncio.Event().wait()
    elif fault.kind is FaultKind.DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind is FaultKind.LOSE:
        raise LostAnswer
    elif fault.kind is FaultKind.FAIL:
        raise Refusal(
            grpc.StatusCode[fault.code],
            fault.reason,
            fault.message or f"the configuration has this call fail with {fault.reason}",
            retry_after_s=fault.retry_after_s or None,
            metadata={} if fault.node == "*" else {"node": fault.node},
        )
