"""The partitions: what the core has asked sites for, until the sites have said that it is gone."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from collections.abc import Collection, Iterator

from rpc_kit import failpoints
from swm_core.domain.partition import Partition
from swm_core.domain.states import PartitionState, check_partition_transition
from swm_core.store import codec
from swm_core.store.database import Database, Transaction
from swm_core.store.errors import AlreadyExists, NotFound, StalePartition

_ACTIVE = tuple(state for state in PartitionState if state is not PartitionState.DELETED)
_AFTER_ALL = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionPage:
    """Some partitions, newest first. `after`: what to ask for next; None: there is no more."""

    partitions: list[Partition]
    after: int | None


class Partitions:
    """Writes and reads partitions. Reads are for the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, partition: Partition) -> Partition:
        """Store a new partition before anybody is asked for it; returns it with its revision.

        Raises:
            AlreadyExists: There is or was a partition with this id.
        """
        stored = dataclasses.replace(partition, revision=1)
        record = codec.encode_partition(stored)

        def insert(transaction: Transaction) -> Partition:
            try:
                transaction.execute(
                    "INSERT INTO partitions (partition_id, site, owner, state, revision, record)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (stored.partition_id, stored.site, stored.owner, stored.state, 1, record),
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists(f"there is a partition {stored.partition_id!r}") from error
            if failpoints.ON:
                transaction.passes(f"{stored.site} partition NEW>{stored.state}")
            return stored

        return await self._database.write(insert)

    async def transition(self, before: Partition, after: Partition) -> Partition:
        """Move a partition to another state; returns it with its new revision.

        Raises:
            IllegalTransition: The table does not have it; nothing was written.
            StalePartition: The partition has changed since `before`.
            NotFound: There is none.
        """
        check_partition_transition(before.state, after.state)
        return await self._replace(before, after)

    async def update(self, before: Partition, after: Partition) -> Partition:
        """Change a partition within its state; returns and raises as `transition`."""
        if after.state is not before.state:
            raise ValueError(f"an update of partition {before.partition_id} changes its state")
        return await self._replace(before, after)

    def get(self, partition_id: str) -> Partition | None:
        """The partition as it is now, also when it was deleted at its site."""
        row = (
            self._database.read()
            .execute("SELECT record FROM partitions WHERE partition_id = ?", (partition_id,))
            .fetchone()
        )
        return None if row is None else codec.decode_partition(row[0])

    def active(self, site: str | None = None) -> list[Partition]:
        """All partitions, at one site or all, that are not yet known to be gone; oldest first."""
        marks = ", ".join("?" * len(_ACTIVE))
        rows = self._database.read().execute(
            f"SELECT record FROM partitions WHERE state IN ({marks}) ORDER BY number",  # noqa: S608 - our own text  # nosec B608
            _ACTIVE,
        )
        partitions = [codec.decode_partition(record) for (record,) in rows.fetchall()]
        return [each for each in partitions if site is None or each.site == site]

    def between(
        self, start: float, end: float | None, owner: str | None = None
    ) -> Iterator[Partition]:
        """Those that were there at some time from `start` on and before `end`, oldest first.

        No end: until now. No owner: everybody's.
        """
        rows = self._database.read().execute(
            "SELECT record FROM partitions"
            " WHERE coalesce(json_extract(record, '$.delete_time') >= ?, 1)"
            " AND json_extract(record, '$.create_time') < ? AND (? OR owner = ?) ORDER BY number",
            (start, math.inf if end is None else end, owner is None, owner or ""),
        )
        for (record,) in rows.fetchall():
            yield codec.decode_partition(record)

    def page(
        self,
        *,
        owner: str | None = None,
        states: Collection[PartitionState] = (),
        site: str = "",
        page_size: int = 100,
        after: int | None = None,
    ) -> PartitionPage:
        """At most `page_size` partitions that fit, newest first; `after` as in the page before."""
        condition = "number < ?"
        values: list[object] = [_AFTER_ALL if after is None else after]
        if owner is not None:
            condition += " AND owner = ?"
            values.append(owner)
        if site:
            condition += " AND site = ?"
            values.append(site)
        if states:
            condition += f" AND state IN ({', '.join('?' * len(states))})"
            values.extend(states)
        rows = (
            self._database.read()
            .execute(
                f"SELECT number, record FROM partitions WHERE {condition}"  # noqa: S608 - our own text  # nosec B608
                " ORDER BY number DESC LIMIT ?",
                [*values, page_size + 1],
            )
            .fetchall()
        )
        partitions = [codec.decode_partition(record) for _, record in rows[:page_size]]
        return PartitionPage(partitions, rows[page_size - 1][0] if len(rows) > page_size else None)

    async def _replace(self, before: Partition, after: Partition) -> Partition:
        unchanging = ("partition_id", "site", "owner", "spec", "spec_fingerprint")
        for name in unchanging:
            if getattr(before, name) != getattr(after, name):
                raise ValueError(f"the {name} of partition {before.partition_id} cannot change")
        stored = dataclasses.replace(after, revision=before.revision + 1)
        record = codec.encode_partition(stored)

        def change(transaction: Transaction) -> Partition:
            cursor = transaction.execute(
                "UPDATE partitions SET state = ?, revision = ?, record = ?"
                " WHERE partition_id = ? AND revision = ?",
                (stored.state, stored.revision, record, stored.partition_id, before.revision),
            )
            if cursor.rowcount == 0:
                row = transaction.execute(
                    "SELECT revision FROM partitions WHERE partition_id = ?", (stored.partition_id,)
                ).fetchone()
                if row is None:
                    raise NotFound(f"there is no partition {stored.partition_id!r}")
                raise StalePartition(
                    f"partition {stored.partition_id} has changed:"
                    f" revision {row[0]}, not {before.revision}"
                )
            if failpoints.ON and stored.state is not before.state:
                transaction.passes(f"{stored.site} partition {before.state}>{stored.state}")
            return stored

        return await self._database.write(change)
