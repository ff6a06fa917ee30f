"""What the database promises about commits, failures, its file and its end."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from swm_core.store import database as databases
from swm_core.store.database import Database, Transaction
from swm_core.store.errors import SchemaTooNew, StoreClosed, StoreUnavailable, StoreUnusable
from swm_core.store.migrations import known_migrations, migrate, missing_migrations


def set_meta(key: str, value: str) -> Callable[[Transaction], str]:
    def write(transaction: Transaction) -> str:
        transaction.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
        return value

    return write


def read_meta(database: Database) -> dict[str, str]:
    return dict(database.read().execute("SELECT key, value FROM meta").fetchall())


async def test_a_write_returns_what_its_function_returns_and_is_read_at_once(
    store_path: Path,
) -> None:
    database = Database.open(store_path)
    assert await database.write(set_meta("a", "1")) == "1"
    assert read_meta(database) == {"a": "1"}
    await database.close()


async def test_an_exception_undoes_its_own_write_and_no_other_of_the_batch(
    store_path: Path,
) -> None:
    database = Database.open(store_path)

    def fail(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO meta VALUES ('doomed', 'x')")
        raise LookupError("no such thing")

    results = await asyncio.gather(
        database.write(set_meta("a", "1")),
        database.write(fail),
        database.write(set_meta("b", "2")),
        database.write(set_meta("a", "again")),
        return_exceptions=True,
    )
    assert results[0] == "1"
    assert isinstance(results[1], LookupError)
    assert results[2] == "2"
    assert isinstance(results[3], sqlite3.IntegrityError)
    assert read_meta(database) == {"a": "1", "b": "2"}
    await database.close()


async def test_writes_that_wait_together_share_one_commit(store_path: Path) -> None:
    database = Database.open(store_path)
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    await database.write(lambda transaction: transaction.set_trace_callback(count))
    await asyncio.gather(*(database.write(set_meta(str(n), "")) for n in range(100)))
    assert 1 <= commits <= 3
    await database.close()


async def test_a_cancelled_caller_does_not_disturb_the_others(store_path: Path) -> None:
    database = Database.open(store_path)
    doomed = asyncio.create_task(database.write(set_meta("doomed", "")))
    other = asyncio.create_task(database.write(set_meta("other", "")))
    await asyncio.sleep(0)
    doomed.cancel()
    assert await other == ""
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert "other" in read_meta(database)
    await database.close()


async def test_closing_finishes_what_was_queued_and_refuses_what_comes_later(
    store_path: Path,
) -> None:
    database = Database.open(store_path)
    writes = [asyncio.create_task(database.write(set_meta(str(n), ""))) for n in range(1000)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with pytest.raises(StoreClosed):
        await database.write(set_meta("late", ""))
    with pytest.raises(StoreClosed):
        database.read()
    await database.close()

    again = Database.open(store_path)
    assert len(read_meta(again)) == 1000
    await again.close()


async def test_the_files_are_for_their_owner_only(store_path: Path) -> None:
    store_path.touch(mode=0o644)
    database = Database.open(store_path)
    await database.write(set_meta("a", "1"))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in store_path.parent.glob("swm.db*")
    }
    assert modes == {"swm.db": 0o600, "swm.db-wal": 0o600, "swm.db-shm": 0o600}
    await database.close()


async def test_commits_are_synced_and_deleted_content_is_overwritten(store_path: Path) -> None:
    database = Database.open(store_path)

    def settings(transaction: Transaction) -> list[object]:
        names = ("journal_mode", "synchronous", "secure_delete")
        return [transaction.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await database.write(settings) == ["wal", 2, 1]
    await database.close()


async def test_readers_cannot_write(store_path: Path) -> None:
    database = Database.open(store_path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.read().execute("DELETE FROM meta")
    with database.scan() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM meta")
    await database.close()


async def test_a_store_of_a_newer_version_is_refused_and_left_alone(store_path: Path) -> None:
    await Database.open(store_path).close()
    with sqlite3.connect(store_path) as connection:
        connection.execute("INSERT INTO migrations VALUES (9999, '9999_future.sql', 0)")
    connection.close()
    before = store_path.read_bytes()
    with pytest.raises(SchemaTooNew, match="9999"):
        Database.open(store_path)
    assert store_path.read_bytes() == before


async def test_the_database_of_another_program_is_refused_and_left_alone(store_path: Path) -> None:
    with sqlite3.connect(store_path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = store_path.read_bytes()
    with pytest.raises(StoreUnusable, match="another program"):
        Database.open(store_path)
    assert store_path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(store_path: Path) -> None:
    store_path.write_bytes(b"not a database at all\n" * 1000)
    before = store_path.read_bytes()
    with pytest.raises(StoreUnusable, match="not a database"):
        Database.open(store_path)
    assert store_path.read_bytes() == before


def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [number for number, _, _ in known_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_later_migration_is_applied_once_and_recorded(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    known = [*known_migrations(), (9000, "9000_more.sql", "CREATE TABLE more (x);")]
    migrate(connection, missing_migrations(connection, known[:-1]))
    missing = missing_migrations(connection, known)
    assert [number for number, _, _ in missing] == [9000]
    migrate(connection, missing)
    assert missing_migrations(connection, known) == []
    names = [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY number")]
    assert names == [name for _, name, _ in known]
    connection.close()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    migrate(connection, known_migrations())
    broken = (9000, "9000_broken.sql", "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, [broken])
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
    assert "half" not in tables
    assert missing_migrations(connection, known_migrations()) == []
    connection.close()


async def test_a_long_read_that_the_system_refuses_is_told_as_such(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Database.open(store_path)
    with pytest.raises(StoreUnavailable, match="no such table"), opened.scan() as connection:
        connection.execute("SELECT * FROM no_such")

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(databases, "_connect", refuse)
    with pytest.raises(StoreUnavailable, match="unable to open"), opened.scan():
        pass
    await opened.close()
