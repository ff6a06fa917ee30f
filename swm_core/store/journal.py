"""The event journal: everything that happened to jobs, in the order in which it was committed.

A watcher reads by sequence, so it needs no queue of its own: it is woken when an event that it
wants is committed, and then reads on from where it was, out of a ring of recent events in memory
or, when it is far behind, out of the table.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import functools
import itertools
import json
import operator
from collections.abc import Collection, Sequence
from types import TracebackType

from swm_core.domain.states import JobState
from swm_core.store.database import Database, Transaction
from swm_core.store.errors import SequenceExpired
from swm_core.store.events import Event, EventKind

_RING = 8192
"""Recent events in memory, at least; at most twice as many."""
_SCAN = 5000
"""Events looked at in one read that filters: under a millisecond or two of the loop's time."""
_GAP = 1_000_000
"""Events that another store may have had since this one was copied or backed up."""
_CHUNK = 1000
"""Rows looked at by one write of a compaction."""
_AT_ONCE = 8
"""So many watchers are told of an event at once; to tell one takes almost a millisecond."""
_STAGGER_S = 0.001
"""How much later than the one before each further watcher is told."""

_COLUMNS = "sequence, time, job_id, owner, attempt, from_state, to_state, kind, reason, message"
_FLOOR = "journal_floor"


@dataclasses.dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, and the sequence after which to read on."""

    events: list[Event]
    position: int


def append(
    transaction: Transaction,
    *,
    time: float,
    job_id: str,
    owner: str,
    attempt: int,
    from_state: JobState | None,
    to_state: JobState,
    kind: EventKind,
    reason: str = "",
    message: str = "",
) -> int:
    """Write an event as part of `transaction` and return its sequence."""
    row = (time, job_id, owner, attempt, from_state, to_state, kind, reason, message)
    cursor = transaction.execute(
        "INSERT INTO events"
        " (time, job_id, owner, attempt, from_state, to_state, kind, reason, message)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    sequence = cursor.lastrowid
    assert sequence is not None  # noqa: S101 - for the type only: an INSERT has just given it
    transaction.emit(Event(sequence, *row))
    return sequence


class Journal:
    """Reads the journal and wakes those who watch it; for the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        reader = database.read()
        (latest,) = reader.execute("SELECT max(sequence) FROM events").fetchone()
        self._latest: int = latest or 0
        row = reader.execute("SELECT value FROM meta WHERE key = ?", (_FLOOR,)).fetchone()
        self._floor = int(row[0]) if row else 0
        self._ring: list[Event] = []
        self._everything: set[Subscription] = set()
        self._by_owner: dict[str, set[Subscription]] = {}
        self._by_job: dict[str, set[Subscription]] = {}
        database.listen(self._published)

    def latest(self) -> int:
        """The sequence of the latest committed event; 0: there was none yet."""
        return self._latest

    def oldest(self) -> int:
        """The lowest sequence from which on every event is kept."""
        return self._floor + 1

    def since(
        self,
        sequence: int,
        *,
        owner: str | None = None,
        job_ids: Collection[str] | None = None,
        limit: int = 1000,
    ) -> EventPage:
        """The next events after `sequence`, at most `limit`: all, or of one owner, or some jobs.

        One call looks at a bounded number of events, so a page may be short or empty although more
        follow: read on from its `position` until that is `latest()`.

        Raises:
            SequenceExpired: Some of the events after `sequence` are gone. Those of a named job are
                there back to its submit as long as it is active.
        """
        if sequence < self._floor and not (job_ids and self._complete(job_ids)):
            raise SequenceExpired(sequence, self.oldest())
        if sequence > self._latest:
            # From another store, or from this one before an older copy of it was put back.
            raise SequenceExpired(sequence, self.oldest())
        if sequence == self._latest:
            return EventPage([], sequence)
        if self._ring and sequence >= self._ring[0].sequence - 1:
            return self._from_ring(sequence, owner, job_ids, limit)
        return self._from_table(sequence, owner, job_ids, limit)

    def subscribe(
        self,
        after: int,
        *,
        owner: str | None = None,
        job_ids: Collection[str] | None = None,
    ) -> Subscription:
        """Watch the events after `after`, filtered as in `since`. To be closed, best by `with`."""
        return Subscription(self, after, owner, None if job_ids is None else frozenset(job_ids))

    async def compact(self, *, before_time: float, keep: int) -> int:
        """Delete events older than `before_time` except the `keep` latest; returns their number.

        At least the latest one is always kept: the next sequence is counted from it.
        Events of jobs that are active now are kept, so that an active job can be watched from its
        submit; a later compaction takes them. Deletes in small writes, between which others get
        their turn.
        """
        floor = await asyncio.to_thread(
            self._floor_at, before_time, self._floor, self._latest - max(keep, 1)
        )
        if floor > self._floor:
            # First on disk, then in force, then the deletions: no reader may miss an event without
            # being told.
            await self._database.write(lambda transaction: _store_floor(transaction, floor))
            self._floor = floor
        deleted = 0
        position: int | None = 0
        while position is not None:
            chunk = functools.partial(_delete_chunk, position=position, floor=self._floor)
            count, position = await self._database.write(chunk)
            deleted += count
        return deleted

    async def leave_gap(self, *, time: float) -> None:
        """Go on with sequences that no store has given yet; those of before are expired then."""
        gap = self._latest + _GAP

        def leave(transaction: Transaction) -> None:
            event = Event(gap, time, "", "", 0, None, JobState.QUEUED, EventKind.DELETED)
            transaction.execute(
                f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own text  # nosec B608
                dataclasses.astuple(event),
            )
            _store_floor(transaction, gap - 1)
            transaction.emit(event)

        await self._database.write(leave)
        self._floor = gap - 1

    def _floor_at(self, before_time: float, low: int, high: int) -> int:
        """The highest sequence up to `high` until which all after `low` is old enough to go."""
        with self._database.scan() as connection:
            row = connection.execute(
                "SELECT sequence FROM events WHERE sequence > ? AND sequence <= ? AND time >= ?"
                " ORDER BY sequence LIMIT 1",
                (low, high, before_time),
            ).fetchone()
        return row[0] - 1 if row else high

    def _complete(self, job_ids: Collection[str]) -> bool:
        """Whether all events of these jobs are kept: they go in order, so the first tells."""
        (complete,) = (
            self._database.read()
            .execute(
                "SELECT count(*) FROM jobs JOIN events ON sequence = submit_sequence"
                " WHERE jobs.job_id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(job_ids)),),
            )
            .fetchone()
        )
        return bool(complete == len(job_ids))

    def _from_ring(
        self, sequence: int, owner: str | None, job_ids: Collection[str] | None, limit: int
    ) -> EventPage:
        ring = self._ring
        start = bisect.bisect_right(ring, sequence, key=_sequence)
        if owner is None and job_ids is None:
            events = ring[start : start + limit]
            return EventPage(events, events[-1].sequence)
        end = min(start + _SCAN, len(ring))
        found: list[Event] = []
        for index in range(start, end):
            event = ring[index]
            if (owner is None or event.owner == owner) and (
                job_ids is None or event.job_id in job_ids
            ):
                found.append(event)
                if len(found) == limit:
                    return EventPage(found, event.sequence)
        return EventPage(found, ring[end - 1].sequence)

    def _from_table(
        self, sequence: int, owner: str | None, job_ids: Collection[str] | None, limit: int
    ) -> EventPage:
        reader = self._database.read()
        # Rows that are committed but not yet told to the loop wait for their turn.
        last, count = reader.execute(
            "SELECT max(sequence), count(*) FROM (SELECT sequence FROM events"
            " WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?)",
            (sequence, self._latest, _SCAN),
        ).fetchone()
        condition, values = "", [sequence, last]
        if owner is not None:
            condition += " AND owner = ?"
            values.append(owner)
        if job_ids is not None:
            condition += " AND job_id IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(list(job_ids)))
        rows = reader.execute(
            f"SELECT {_COLUMNS} FROM events WHERE sequence > ? AND sequence <= ?{condition}"  # noqa: S608 - our own text  # nosec B608
            " ORDER BY sequence LIMIT ?",
            [*values, limit],
        ).fetchall()
        events = [_event(row) for row in rows]
        if len(events) == limit:
            return EventPage(events, events[-1].sequence)
        return EventPage(events, last if count == _SCAN else self._latest)

    def _published(self, events: Sequence[Event]) -> None:
        """Called with what has just been committed."""
        ring = self._ring
        ring.extend(events)
        if len(ring) > 2 * _RING:
            del ring[:-_RING]
        self._latest = events[-1].sequence
        if not (self._everything or self._by_owner or self._by_job):
            return
        ranks = itertools.count()
        for subscription in self._everything:
            subscription.wake(events[0].sequence, next(ranks))
        for event in events:
            for subscription in self._by_owner.get(event.owner, ()):
                subscription.wake(event.sequence, next(ranks))
            for subscription in self._by_job.get(event.job_id, ()):
                if subscription.owner is None or subscription.owner == event.owner:
                    subscription.wake(event.sequence, next(ranks))

    def _register(self, subscription: Subscription) -> None:
        if subscription.job_ids is not None:
            for job_id in subscription.job_ids:
                self._by_job.setdefault(job_id, set()).add(subscription)
        elif subscription.owner is not None:
            self._by_owner.setdefault(subscription.owner, set()).add(subscription)
        else:
            self._everything.add(subscription)

    def _forget(self, subscription: Subscription) -> None:
        self._everything.discard(subscription)
        if subscription.job_ids is not None:
            for job_id in subscription.job_ids:
                _discard(self._by_job, job_id, subscription)
        elif subscription.owner is not None:
            _discard(self._by_owner, subscription.owner, subscription)


class Subscription:
    """One watcher's place in the journal. Not to be used by two tasks at once."""

    def __init__(
        self, journal: Journal, after: int, owner: str | None, job_ids: frozenset[str] | None
    ) -> None:
        self.owner = owner
        self.job_ids = job_ids
        self._journal = journal
        self._position = after
        self._idle = False
        self._woken = asyncio.Event()
        journal._register(self)

    @property
    def position(self) -> int:
        """All that the watcher wants up to this sequence has been returned: its resume token."""
        return self._journal.latest() if self._idle else self._position

    @property
    def caught_up(self) -> bool:
        """Whether everything that is committed has been returned."""
        return self.position >= self._journal.latest()

    def ready(self, limit: int = 1000) -> list[Event]:
        """The next events, without waiting; empty when a bounded look found none, see `caught_up`.

        Raises:
            SequenceExpired: The watcher was too far behind.
        """
        if self._idle:
            return []
        page = self._journal.since(
            self._position, owner=self.owner, job_ids=self.job_ids, limit=limit
        )
        self._position = page.position
        return page.events

    async def next(self, limit: int = 1000) -> list[Event]:
        """The next events, at least one; waits for it.

        Raises:
            SequenceExpired: The watcher was too far behind.
        """
        while True:
            if events := self.ready(limit):
                return events
            if not self.caught_up:
                await asyncio.sleep(0)
                continue
            self._woken.clear()
            self._idle = True
            await self._woken.wait()

    def wake(self, sequence: int, rank: int) -> None:
        """For the journal: the event `sequence` is one that the watcher wants.

        Args:
            sequence: The event's.
            rank: How many have been woken before, for the same commit.
        """
        if not self._idle:
            return
        # Nothing since it fell idle was for it, so it need not look at that.
        self._idle = False
        self._position = sequence - 1
        if rank < _AT_ONCE:
            self._woken.set()
        else:
            # One after the other, so that calls get their turn between them.
            delay_s = (rank - _AT_ONCE + 1) * _STAGGER_S
            asyncio.get_running_loop().call_later(delay_s, self._woken.set)

    def close(self) -> None:
        """Stop watching. The same again does nothing."""
        self._journal._forget(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _discard(index: dict[str, set[Subscription]], key: str, subscription: Subscription) -> None:
    if subscribers := index.get(key):
        subscribers.discard(subscription)
        if not subscribers:
            del index[key]


_sequence = operator.attrgetter("sequence")


def _event(row: tuple[int, float, str, str, int, str | None, str, str, str, str]) -> Event:
    sequence, time, job_id, owner, attempt, from_state, to_state, kind, reason, message = row
    return Event(
        sequence,
        time,
        job_id,
        owner,
        attempt,
        None if from_state is None else JobState(from_state),
        JobState(to_state),
        EventKind(kind),
        reason,
        message,
    )


def _store_floor(transaction: Transaction, floor: int) -> None:
    transaction.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_FLOOR, str(floor)),
    )


def _delete_chunk(transaction: Transaction, position: int, floor: int) -> tuple[int, int | None]:
    """Delete among the next events; how many, and where to go on (None: that was the last)."""
    rows = transaction.execute(
        "SELECT sequence, EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = events.job_id"
        " AND ended_time IS NULL)"
        " FROM events WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
        (position, floor, _CHUNK),
    ).fetchall()
    doomed = [(sequence,) for sequence, active in rows if not active]
    transaction.executemany("DELETE FROM events WHERE sequence = ?", doomed)
    return len(doomed), rows[-1][0] if len(rows) == _CHUNK else None
