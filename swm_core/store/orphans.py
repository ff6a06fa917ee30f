"""What sites have that the core does not know: remembered, so that a restart forgives no delay."""

from __future__ import annotations

from swm_core.domain.orphans import Orphan
from swm_core.store import codec
from swm_core.store.database import Database, Transaction


class Orphans:
    """Writes and reads orphans. Reads are for the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, site: str) -> list[Orphan]:
        """All orphans of a site, by kind and id."""
        rows = self._database.read().execute(
            "SELECT record FROM orphans WHERE site = ? ORDER BY kind, orphan_id", (site,)
        )
        return [codec.decode_orphan(record) for (record,) in rows.fetchall()]

    async def put(self, orphan: Orphan) -> None:
        """Store an orphan as it is now."""
        key = (orphan.site, orphan.found.kind, orphan.found.orphan_id)
        record = codec.encode_orphan(orphan)

        def put(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO orphans (site, kind, orphan_id, record) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (site, kind, orphan_id) DO UPDATE SET record = excluded.record",
                (*key, record),
            )

        await self._database.write(put)

    async def forget(self, orphan: Orphan) -> None:
        """It is gone, or no orphan any more. The same again does nothing."""

        def delete(transaction: Transaction) -> None:
            transaction.execute(
                "DELETE FROM orphans WHERE site = ? AND kind = ? AND orphan_id = ?",
                (orphan.site, orphan.found.kind, orphan.found.orphan_id),
            )

        await self._database.write(delete)
