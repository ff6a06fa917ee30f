"""What the store knows of itself: whose it is, and how often a core has started on it."""

from __future__ import annotations

import secrets

from swm_core.store.database import Database, Transaction
from swm_core.store.errors import StoreUnusable

_INSTALLATION = "installation"
_GENERATIONS_KEPT = 100


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

    async def begin_generation(self, *, time: float) -> str:
        """Record a start of the core at `time`, and return the random id of this generation."""
        generation = secrets.token_hex(8)

        def record(transaction: Transaction) -> None:
            cursor = transaction.execute(
                "INSERT INTO generations (generation, time) VALUES (?, ?)", (generation, time)
            )
            number = cursor.lastrowid or 0
            transaction.execute(
                "DELETE FROM generations WHERE number <= ?", (number - _GENERATIONS_KEPT,)
            )

        await self._database.write(record)
        return generation

    def generations(self) -> list[tuple[str, float]]:
        """The latest generations with the time of their start, latest first."""
        rows = self._database.read().execute(
            "SELECT generation, time FROM generations ORDER BY number DESC"
        )
        return rows.fetchall()
