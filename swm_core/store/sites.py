"""What is decided of sites: whether one is drained, and which account scope is its own."""

from __future__ import annotations

from swm_core.store.database import Database, Transaction


class Sites:
    """Writes and reads what is kept of sites. Reads are for the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def drained(self) -> set[str]:
        """The sites that take no new jobs."""
        rows = self._database.read().execute("SELECT site FROM sites WHERE drained = 1")
        return {site for (site,) in rows.fetchall()}

    def scope_uid(self, site: str) -> str:
        """The account scope of a site; empty: its gate has told none yet."""
        row = (
            self._database.read()
            .execute("SELECT scope_uid FROM sites WHERE site = ?", (site,))
            .fetchone()
        )
        return "" if row is None else str(row[0])

    async def set_drained(self, site: str, *, drained: bool) -> None:
        """Have a site take no new jobs, or take them again."""

        def put(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO sites (site, drained, scope_uid) VALUES (?, ?, '')"
                " ON CONFLICT (site) DO UPDATE SET drained = excluded.drained",
                (site, drained),
            )

        await self._database.write(put)

    async def set_scope_uid(self, site: str, scope_uid: str) -> None:
        """Remember the account scope of a site."""

        def put(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO sites (site, drained, scope_uid) VALUES (?, 0, ?)"
                " ON CONFLICT (site) DO UPDATE SET scope_uid = excluded.scope_uid",
                (site, scope_uid),
            )

        await self._database.write(put)
