"""What is checked at the end of a world: each job once, whole, and nothing left behind."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.crash.leftovers import leftovers
from tests.crash.records import ENDS, JobRecord, Records, Row
from tests.crash.world import AGAIN_S, Submitted, World, insist
from tests.system.harness.files import File, sha256
from tests.system.harness.jobs import STDERR, STDOUT
from tests.system.harness.waiting import eventually

_AT_ONCE = 8
"""Jobs that are looked at together: most of it is waiting for answers."""

Facts = collections.Counter[tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class Violation:
    """Something that must not be, and what shows it."""

    text: str
    evidence: str = ""

    def __str__(self) -> str:
        return f"{self.text}\n{self.evidence}" if self.evidence else self.text


@dataclasses.dataclass
class Verdict:
    """What was found.

    Attributes:
        lost: Jobs, ends, outputs and logs that are not there, or not as they should be.
        doubled: What happened more often than once, or that nobody knows of.
        leaked: What was left at sites and in the core.
    """

    kills: int
    jobs: int
    lost: list[Violation] = dataclasses.field(default_factory=list)
    doubled: list[Violation] = dataclasses.field(default_factory=list)
    leaked: list[Violation] = dataclasses.field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.leaked)

    @property
    def line(self) -> str:
        """All of it in figures."""
        return (
            f"kills {self.kills}, jobs {self.jobs}, lost {len(self.lost)}, "
            f"doubled {len(self.doubled)}, leaked {len(self.leaked)}"
        )

    def __str__(self) -> str:
        parts = {"lost": self.lost, "doubled": self.doubled, "leaked": self.leaked}
        found = [f"{name}: {each}" for name, list_ in parts.items() for each in list_]
        return "\n".join([*found, self.line])


def verdict(world: World, within_s: float = AGAIN_S) -> Verdict:
    """Look at everything, when each job has ended. The core and the gates have to run.

    Args:
        world: What to look at.
        within_s: How long what was left may take to be removed.
    """
    with contextlib.suppress(AssertionError):  # told below
        eventually(lambda: not leftovers(world), "nothing is left", within_s=within_s)
    records = Records.read(world.core.home.database)
    facts = read_facts(world)
    found = Verdict(world.kills, len(world.jobs))
    found.leaked += [Violation(text) for text in leftovers(world)]
    if records.integrity != "ok":
        found.lost.append(Violation(f"the store is damaged: {records.integrity}"))
    found.lost += _damaged(world)
    acknowledged = set(world.jobs)
    for job_id in acknowledged - set(records.jobs):
        found.lost.append(Violation(f"job {job_id} was acknowledged and is not in the store"))
    for job_id in set(records.jobs) - acknowledged:
        text = f"job {job_id} was made and acknowledged to nobody"
        found.doubled.append(Violation(text, records.jobs[job_id].story()))
    for (job_id, number), times in facts.items():
        record = records.jobs.get(job_id)
        if record is None or number not in record.attempts:
            text = f"attempt {job_id}.{number} ran {times} times, and the core does not know it"
            found.doubled.append(Violation(text, record.story() if record else ""))
        elif times > 1:
            text = f"attempt {job_id}.{number} ran {times} times"
            found.doubled.append(Violation(text, record.story()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        looks = [
            pool.submit(_look_at, found, world.jobs[job_id], records.jobs[job_id], facts)
            for job_id in sorted(acknowledged & set(records.jobs))
        ]
        for look in looks:
            look.result()
    return found


def read_facts(world: World) -> Facts:
    """How often each attempt ran."""
    lines = world.facts.read_text().splitlines()
    return collections.Counter(
        (job_id, int(attempt)) for job_id, attempt in (line.split() for line in lines)
    )


def _look_at(found: Verdict, submitted: Submitted, record: JobRecord, facts: Facts) -> None:
    where = f"job {record.job_id} at {submitted.work.site}"
    for text in twice(record, facts, submitted.work.runs):
        found.doubled.append(Violation(f"{where}: {text}", record.story()))
    lost = [*_not_ended(record), *_wrong_ends(submitted, record, facts)]
    if not lost:
        try:
            lost += _not_whole(submitted, record, facts)
        except (grpc.RpcError, AssertionError) as error:
            lost.append(f"what it wrote can't be had: {error}")
    for text in lost:
        found.lost.append(Violation(f"{where}: {text}", record.story()))


def twice(record: JobRecord, facts: Mapping[tuple[str, int], int], runs: int) -> Iterator[str]:
    """A life that ends more than once, or in which more attempts ran than `runs`."""
    for life in record.lives:
        ends = [row for row in life if row.to_state in ENDS and row.from_state not in ENDS]
        if len(ends) > 1:
            yield f"it ended {len(ends)} times: {', '.join(row.to_state for row in ends)}"
        ran = {row.attempt for row in life if facts.get((record.job_id, row.attempt))}
        if life[0].kind != "SUBMITTED":
            ran.discard(life[0].attempt)  # the attempt before, from which it was queued again
        if len(ran) > runs:
            yield f"it ran as attempts {sorted(ran)} in one life"


def _not_ended(record: JobRecord) -> Iterator[str]:
    """Lives that go no way from their beginning to one end."""
    if not record.lives:
        yield "the journal does not tell of its submit"
        return
    for number, life in enumerate(record.lives, 1):
        if life[-1].to_state not in ENDS:
            yield f"life {number} did not end: {life[-1]}"
        for before, after in itertools.pairwise(life):
            if before.to_state != after.from_state:
                yield f"life {number} has a gap between {before} and {after}"
    if record.lives[-1][-1].to_state != record.state:
        yield f"it is {record.state}, and its last event is {record.lives[-1][-1]}"


def _wrong_ends(submitted: Submitted, record: JobRecord, facts: Facts) -> Iterator[str]:
    """Ends that are none of those that its work has, and runs that are missing."""
    work = submitted.work
    if len(record.lives) != 1 + submitted.requeues:
        yield f"it has {len(record.lives)} lives, and was queued again {submitted.requeues} times"
    for life in record.lives:
        end, ran = life[-1], facts[record.job_id, life[-1].attempt]
        if _is_other_end(submitted, end, ran):
            continue
        told = (end.to_state, end.reason if work.end[1] else "")
        attempt = record.attempts.get(end.attempt)
        if told != work.end:
            yield f"it ended as {end.to_state} {end.reason} ({end.message}), not {work.end}"
        elif not ran:
            yield f"attempt {end.attempt} ended as {end.to_state}, and never ran"
        elif attempt is not None and attempt.status != work.status:
            yield f"it ended with code and signal {attempt.status}, not {work.status}"


def _is_other_end(submitted: Submitted, end: Row, ran: int) -> bool:
    """Whether it is right, and none that its script gives itself."""
    if end.to_state == "CANCELLED" and submitted.may_cancel:
        return True
    if end.reason == "TIME_LIMIT" == submitted.work.cut and not ran:
        return True  # the machine was too busy to begin it within that time
    return (end.to_state, end.reason) in submitted.work.ends


def _not_whole(submitted: Submitted, record: JobRecord, facts: Facts) -> Iterator[str]:
    """Logs and outputs that are not what the job wrote."""
    job, work = submitted.job, submitted.work
    for life in record.lives:
        number = life[-1].attempt
        if not number:
            continue  # cancelled before it had a place
        written = work.log(record.job_id, number)
        log = insist(lambda number=number: job.output(STDOUT, attempt=number))  # type: ignore[misc]
        if _is_other_end(submitted, life[-1], facts[record.job_id, number]):
            if not written.startswith(log):
                yield f"the log of attempt {number} has what was never written: {_ends(log)}"
            continue
        if log != written:
            yield (
                f"the log of attempt {number} has {len(log)} bytes of {len(written)}: {_ends(log)}"
            )
        said = insist(lambda number=number: job.output(STDERR, attempt=number))  # type: ignore[misc]
        if said:
            yield f"attempt {number} said on its standard error: {_ends(said)}"
    last = record.lives[-1][-1]
    if not _is_other_end(submitted, last, facts[record.job_id, last.attempt]):
        outputs = insist(job.outputs)
        found = {
            path: sha256(each.data) for path, each in outputs.items() if isinstance(each, File)
        }
        if found != work.outputs or len(found) < len(outputs):
            yield f"its outputs are {sorted(outputs)}, or differ in what they hold"


def _ends(data: bytes) -> str:
    return repr(data if len(data) < 300 else data[:100] + b" ... " + data[-200:])


def _damaged(world: World) -> Iterator[Violation]:
    """Contents of the spool that are not what their names say."""
    for path in world.core.home.spool.glob("u-*/blobs/*/*"):
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield Violation(f"spool: {path.name} holds something else")
