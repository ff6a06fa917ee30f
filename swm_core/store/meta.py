"""What the store knows of itself: whose it is, and how often a core has started on it."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping

from swm_core.store.database import Database, Transaction
from swm_core.store.errors import StoreUnusable

_INSTALLATION = "installation"
_SPOOL = "spool"
_SPENT = "deadlines_spent_s"


class Meta:
    """The installation that the store belongs to, and the generations of cores that used it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def installation(self) -> str | None:
        """The installation id; None before it was set."""
        row = (
            self._database.read()
            .execute("SELECT value FROM meta WHERE key = ?", (_INSTALLATION,))
            .fetchone()
        )
        return None if row is None else str(row[0])

    async def set_installation(self, installation: str) -> None:
        """Bind the store to an installation; the same again does nothing.

        Raises:
            StoreUnusable: It belongs to another installation.
        """

        def bind(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
                (_INSTALLATION, installation),
            )
            (bound,) = transaction.execute(
                "SELECT value FROM meta WHERE key = ?", (_INSTALLATION,)
            ).fetchone()
            if bound != installation:
                raise StoreUnusable(
                    f"the store belongs to installation {bound}, not to {installation};"
                    " put back the store or the certificates that belong together"
                )

        await self._database.write(bind)

    async def begin_generation(self, *, time: float, trust_earlier: bool = True) -> str:
        """Record a start of the core, and return the random id of this generation.

        All are kept: what an early one made may be met at a site years later, and a row is small.

        Args:
            time: Of the start; seconds since the epoch.
            trust_earlier: False: the store was copied or put back from a backup since, so it does
                not know all that its earlier generations have made.
        """
        generation = secrets.token_hex(8)

        def record(transaction: Transaction) -> None:
            if not trust_earlier:
                transaction.execute("UPDATE generations SET trusted = 0")
            transaction.execute(
                "INSERT INTO generations (generation, time) VALUES (?, ?)", (generation, time)
            )

        await self._database.write(record)
        return generation

    def trusted_generations(self) -> frozenset[str]:
        """The generations that have made nothing but what this store knows."""
        rows = self._database.read().execute("SELECT generation FROM generations WHERE trusted = 1")
        return frozenset(generation for (generation,) in rows.fetchall())

    def generations(self) -> list[tuple[str, float]]:
        """The latest generations with the time of their start, latest first."""
        rows = self._database.read().execute(
            "SELECT generation, time FROM generations ORDER BY number DESC"
        )
        return rows.fetchall()

    async def set_spool(self, uid: str) -> None:
        """Bind the store to a spool; the same again does nothing.

        Args:
            uid: What tells that spool from any other.

        Raises:
            StoreUnusable: It belongs to another spool.
        """

        def bind(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (_SPOOL, uid)
            )
            (bound,) = transaction.execute(
                "SELECT value FROM meta WHERE key = ?", (_SPOOL,)
            ).fetchone()
            if bound != uid:
                raise StoreUnusable(
                    "the spool is not the one that belongs to the store; mount its disk, or put"
                    " both back from one backup"
                )

        await self._database.write(bind)

    def spent_s(self) -> dict[str, float]:
        """What jobs had spent of their deadlines when that was kept last, by names of its user."""
        row = (
            self._database.read()
            .execute("SELECT value FROM meta WHERE key = ?", (_SPENT,))
            .fetchone()
        )
        found: dict[str, float] = json.loads(row[0]) if row else {}
        return found

    async def keep_spent_s(self, spent_s: Mapping[str, float]) -> None:
        """Keep what jobs have spent of their deadlines, in place of what was kept before."""
        text = json.dumps(dict(spent_s))

        def keep(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO meta VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (_SPENT, text),
            )

        await self._database.write(keep)


def forget_spool(connection: sqlite3.Connection) -> None:
    """Have a store belong to no spool: it is bound to the next one that it is used with."""
    connection.execute("DELETE FROM meta WHERE key = ?", (_SPOOL,))
