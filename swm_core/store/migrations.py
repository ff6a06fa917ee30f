"""Brings the schema up to date: numbered SQL files, each applied in one transaction."""

from __future__ import annotations

import importlib.resources
import re
import sqlite3
from collections.abc import Sequence

from swm_core.store.errors import SchemaTooNew, StoreUnusable

_APPLICATION_ID = 0x53574D31  # "SWM1": tells a store from any other SQLite file

_FILE_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")

Migration = tuple[int, str, str]
"""Number, file name, SQL."""


def known_migrations() -> list[Migration]:
    """All migrations of this version, by number from 1 without a gap."""
    folder = importlib.resources.files("swm_core.store") / "schema"
    return sorted(
        (int(match[1]), file.name, file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if (match := _FILE_NAME.fullmatch(file.name))
    )


def missing_migrations(
    connection: sqlite3.Connection, known: Sequence[Migration]
) -> list[Migration]:
    """What of `known` the store lacks; changes nothing.

    Raises:
        SchemaTooNew: The store has migrations that this version does not know.
        StoreUnusable: It is some other program's file.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        return list(known)
    if application_id != _APPLICATION_ID:
        raise StoreUnusable("the file is an SQLite database of another program")
    (version,) = connection.execute("SELECT max(number) FROM migrations").fetchone()
    newest = known[-1][0]
    if version > newest:
        raise SchemaTooNew(
            f"the store was written by a newer version (its schema is {version}, this one knows"
            f" {newest}); install that version again, or give this one a store of its own"
        )
    return [migration for migration in known if migration[0] > version]


def migrate(connection: sqlite3.Connection, missing: Sequence[Migration]) -> None:
    """Apply migrations in order, each in one transaction. `connection` is in autocommit mode."""
    for number, name, sql in missing:
        _apply(connection, number, name, sql)


def _apply(connection: sqlite3.Connection, number: int, name: str, sql: str) -> None:
    begin = "BEGIN IMMEDIATE;\n"
    if number == 1:
        begin += (
            f"PRAGMA application_id = {_APPLICATION_ID};\n"
            "CREATE TABLE migrations"
            " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, time REAL NOT NULL);\n"
        )
    record = (
        f"\nINSERT INTO migrations VALUES ({number}, '{name}',"  # of our own package  # nosec B608
        " (julianday('now') - 2440587.5) * 86400.0);\nCOMMIT;"
    )
    try:
        # One script, because executescript would commit a transaction that it finds open.
        connection.executescript(begin + sql + record)
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
