"""The identity of work roots as gates told it, so that a replaced host or mount is noticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from swm_core.store.database import Database, Transaction


@dataclasses.dataclass(frozen=True, slots=True)
class Root:
    """The work root of an owner on a node (empty: shared by all nodes) of a partition."""

    site: str
    partition_id: str
    node: str
    owner: str
    root_uid: str


class Roots:
    """Keeps the latest `root_uid` of each work root."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, roots: Sequence[Root]) -> None:
        """Remember what a gate has told; a later word replaces an earlier one."""

        def put(transaction: Transaction) -> None:
            transaction.executemany(
                "INSERT INTO roots VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (site, partition_id, node, owner)"
                " DO UPDATE SET root_uid = excluded.root_uid",
                [dataclasses.astuple(root) for root in roots],
            )

        await self._database.write(put)

    def of(self, site: str, partition_id: str, owner: str) -> list[Root]:
        """The roots of an owner at all nodes of a partition, by node."""
        rows = self._database.read().execute(
            "SELECT site, partition_id, node, owner, root_uid FROM roots"
            " WHERE site = ? AND partition_id = ? AND owner = ? ORDER BY node",
            (site, partition_id, owner),
        )
        return [Root(*row) for row in rows.fetchall()]

    def at(self, site: str, partition_id: str = "") -> list[Root]:
        """The roots of all owners at a site, or at one of its partitions."""
        rows = self._database.read().execute(
            "SELECT site, partition_id, node, owner, root_uid FROM roots"
            " WHERE site = ? AND ? IN ('', partition_id) ORDER BY partition_id, node, owner",
            (site, partition_id),
        )
        return [Root(*row) for row in rows.fetchall()]

    def get(self, site: str, partition_id: str, node: str, owner: str) -> str | None:
        """The `root_uid` that was told for one node."""
        row = (
            self._database.read()
            .execute(
                "SELECT root_uid FROM roots"
                " WHERE site = ? AND partition_id = ? AND node = ? AND owner = ?",
                (site, partition_id, node, owner),
            )
            .fetchone()
        )
        return None if row is None else str(row[0])

    async def forget(self, root: Root) -> None:
        """Forget one root, unless another was told in its place since."""

        def delete(transaction: Transaction) -> None:
            transaction.execute(
                "DELETE FROM roots WHERE site = ? AND partition_id = ? AND node = ? AND owner = ?"
                " AND root_uid = ?",
                dataclasses.astuple(root),
            )

        await self._database.write(delete)

    async def forget_partition(self, site: str, partition_id: str) -> None:
        """Forget the roots of a partition that is gone."""

        def delete(transaction: Transaction) -> None:
            transaction.execute(
                "DELETE FROM roots WHERE site = ? AND partition_id = ?", (site, partition_id)
            )

        await self._database.write(delete)
