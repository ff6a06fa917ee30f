"""The SQLite file: one writer thread that commits in groups, and readers that it never blocks.

A write is a function that is given the writer's connection. The writer thread gets all that has
queued up meanwhile, runs the functions in one transaction, commits once, and only then answers: one
fsync serves everybody who was waiting, and the more they are, the cheaper each. When one of them
raises, which is rare, the batch is run again with a savepoint around each.

The next batch is closed on the event loop, one turn after the last was answered, not by the thread:
a thread that took what it finds would commit the one write that came meanwhile, then the fifteen
of those that it has just answered, then the one again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rpc_kit import failpoints
from swm_core.store.errors import StoreClosed, StoreUnavailable, StoreUnusable
from swm_core.store.events import Event
from swm_core.store.migrations import known_migrations, migrate, missing_migrations

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MAX_BATCH = 256
"""Writes in one transaction: bounds how long the first of them waits for the last."""
_MAX_WAITING = 4096
"""Writes that are queued; further callers wait before they queue."""
_BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process (somebody's sqlite3 shell) that holds the write lock."""
_CHECKPOINT_PAGES = 4000
_WAL_KEPT_BYTES = 64 * 1024 * 1024
_QUIET_S = 1.0
"""After so long without a write the log is emptied of what was erased."""

# The disk or the file is at fault, not the function that met it.
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class Transaction(sqlite3.Connection):
    """The writer's connection inside a transaction, as a write function gets it."""

    _emitted: list[Event]
    _passed: list[str]
    _log_has_erased = True  # a core that was killed may have left it so

    def emit(self, event: Event) -> None:
        """Have `event` told to the listeners once the transaction is committed."""
        self._emitted.append(event)

    def passes(self, transition: str) -> None:
        """Have a fail point before and after the commit, named after what the transaction does."""
        self._passed.append(transition)

    def erased(self) -> None:
        """Have the log emptied soon: it still holds a page with what was erased just now."""
        self._log_has_erased = True


_Write = tuple[Callable[[Transaction], Any], "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class _Raised(Exception):
    """A write function raised."""


class Database:
    """An open store file. Made by `open`, ended by `close`."""

    def __init__(self, path: Path, writer: Transaction, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._listeners: list[Callable[[Sequence[Event]], None]] = []
        self._waiting: collections.deque[_Write] = collections.deque()
        self._room = asyncio.Event()
        self._committing = False
        self._closed = False
        self._drained = asyncio.Event()
        # Holds one batch at most: the next is put only after the answer to the last.
        self._queue: queue.SimpleQueue[Sequence[_Write] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the store at `path`, creating it (0600) or bringing its schema up to date.

        Raises:
            SchemaTooNew: A newer version of the core has written it.
            StoreUnusable: It is no store of ours, or damaged.
            StoreUnavailable: The disk does not let it be opened or migrated.
        """
        with contextlib.ExitStack() as undo:
            try:
                # SQLite gives its -wal and -shm files the mode of the main file.
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.fchmod(descriptor, 0o600)
                finally:
                    os.close(descriptor)
                writer = _connect(path, Transaction)
                undo.callback(writer.close)
                missing = missing_migrations(writer, known_migrations())
                writer.execute("PRAGMA journal_mode = WAL").fetchone()
                writer.execute("PRAGMA synchronous = FULL")
                writer.execute("PRAGMA secure_delete = ON").fetchone()
                writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchone()
                writer.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}").fetchone()
                migrate(writer, missing)
                reader = _connect(path, sqlite3.Connection)
                undo.callback(reader.close)
                reader.execute("PRAGMA query_only = ON")
            except OSError as error:
                raise StoreUnavailable(f"cannot open the store {path}: {error}") from error
            except sqlite3.Error as error:
                kind = StoreUnavailable if _code(error) not in _DAMAGED else StoreUnusable
                raise kind(f"cannot open the store {path}: {error}") from error
            database = cls(path, writer, reader)
            undo.pop_all()
            return database

    def listen(self, listener: Callable[[Sequence[Event]], None]) -> None:
        """Have `listener` called on the event loop with the events of each commit.

        It is called before the writers of the commit are answered.
        """
        self._listeners.append(listener)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """Run `fn` on the writer thread and return what it returns, once that is on disk.

        It may be run twice, the first time without effect, so it must do nothing but SQL.
        What `fn` raises undoes what it did, and nothing else, and is raised here. A caller that is
        cancelled does not know whether the write took place.

        Raises:
            StoreUnavailable: The commit failed; nothing of `fn` was kept.
            StoreClosed: The store is closing.
        """
        while len(self._waiting) >= _MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise StoreClosed("the store is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((fn, future))
        if len(self._waiting) == 1 and not self._committing:
            loop.call_soon(self._hand_over)
        return await future

    def read(self) -> sqlite3.Connection:
        """The connection for short keyed reads, to be used on the event loop's thread only.

        Every query is to be fetched to its end at once: an unfinished one keeps the log from being
        reset.
        """
        if self._closed:
            raise StoreClosed("the store is closed")
        return self._reader

    @contextlib.contextmanager
    def scan(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection of its own, for a long read in the calling thread.

        Raises:
            StoreUnavailable: It can't be made, or read from: no file more, or a broken disk.
        """
        try:
            with contextlib.closing(_connect(self._path, sqlite3.Connection)) as connection:
                connection.execute("PRAGMA query_only = ON")
                yield connection
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store cannot be read: {error}") from error

    async def close(self) -> None:
        """Finish the writes that are queued and close the file; the same again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._committing or self._waiting:
            self._drained.clear()
            await self._drained.wait()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        try:
            # The last connection to close moves the log into the main file and deletes it.
            self._writer.close()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"closing the store failed: {error}") from error

    def _hand_over(self) -> None:
        """On the loop: give the writer thread what is waiting, if it is free."""
        if self._committing:
            return
        if not self._waiting:
            self._drained.set()
            return
        self._committing = True
        count = min(len(self._waiting), _MAX_BATCH)
        self._queue.put([self._waiting.popleft() for _ in range(count)])
        self._room.set()

    def _run(self) -> None:
        while True:
            try:
                quiet_s = _QUIET_S if self._writer._log_has_erased else None
                batch = self._queue.get(timeout=quiet_s)
            except queue.Empty:
                self._empty_log()
                continue
            if batch is None:
                return
            self._commit(batch)

    def _empty_log(self) -> None:
        """Move the log into the file, and cut it to nothing."""
        writer = self._writer
        try:
            # Whoever reads just then is not waited for: there is a next time.
            writer.execute("PRAGMA busy_timeout = 0").fetchone()
            (busy, *_) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            writer.execute(f"PRAGMA busy_timeout = {round(_BUSY_TIMEOUT_S * 1000)}").fetchone()
            writer._log_has_erased = bool(busy)
        except sqlite3.Error as error:
            _log.warning("the store's log cannot be emptied: %s", error)
            writer._log_has_erased = False

    def _commit(self, batch: Sequence[_Write]) -> None:
        events: list[Event] = []
        self._writer._emitted = events
        try:
            try:
                outcomes = self._transact(batch)
            except _Raised:
                events.clear()
                outcomes = self._transact(batch, isolated=True)
        except sqlite3.Error as error:
            kind = getattr(error, "sqlite_errorname", "")
            _log.error("a commit of %d writes failed: %s %s", len(batch), error, kind)
            events.clear()
            outcomes = [
                (future, None, StoreUnavailable(f"the store cannot write: {error}"))
                for _, future in batch
            ]
        # A loop that is closed already has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            batch[0][1].get_loop().call_soon_threadsafe(self._answer, events, outcomes)

    def _transact(self, batch: Sequence[_Write], *, isolated: bool = False) -> list[_Outcome]:
        """Run a batch in one transaction and commit it; raises after it was rolled back.

        Raises:
            _Raised: A write raised, and they were not isolated from each other.
            sqlite3.Error: The disk or the file is at fault.
        """
        writer = self._writer
        outcomes: list[_Outcome] = []
        writer._passed = []
        try:
            writer.execute("BEGIN IMMEDIATE")
            for fn, future in batch:
                if future.cancelled():
                    continue
                if isolated:
                    outcomes.append((future, *self._isolated(fn)))
                else:
                    outcomes.append((future, self._bare(fn), None))
            _reach(writer._passed, "before")
            writer.execute("COMMIT")
            _reach(writer._passed, "after")
        except BaseException:
            try:
                # SQLite has ended the transaction by itself after some errors.
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            except sqlite3.Error as error:
                _log.error("a roll back failed: %s", error)
            raise
        return outcomes

    def _bare(self, fn: Callable[[Transaction], T]) -> T:
        try:
            return fn(self._writer)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and _code(error) in _UNAVAILABLE:
                raise
            raise _Raised from error

    def _isolated(self, fn: Callable[[Transaction], T]) -> tuple[T | None, Exception | None]:
        writer = self._writer
        before = len(writer._emitted)
        writer.execute("SAVEPOINT one")
        try:
            result = fn(writer)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and _code(error) in _UNAVAILABLE:
                raise
            del writer._emitted[before:]
            writer.execute("ROLLBACK TO one")
            writer.execute("RELEASE one")
            return None, error
        writer.execute("RELEASE one")
        return result, None

    def _answer(self, events: Sequence[Event], outcomes: Sequence[_Outcome]) -> None:
        """On the loop: tell the listeners, then the writers; then close the next batch."""
        self._committing = False
        if events:
            for listener in self._listeners:
                try:
                    listener(events)
                except Exception:  # noqa: BLE001 - one listener must not keep the others from it
                    _log.exception("a listener of the store failed")
        for future, result, error in outcomes:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        # After those who were answered have had their turn, and may have written again.
        asyncio.get_running_loop().call_soon(self._hand_over)


def _reach(transitions: Sequence[str], when: str) -> None:
    """Be at the fail points of a transaction; there are none unless a test asks for them."""
    for transition in transitions:
        failpoints.reach(f"{transition} {when}")


_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

C = TypeVar("C", bound=sqlite3.Connection)


def _connect(path: Path, kind: type[C]) -> C:
    connection = sqlite3.connect(
        path,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        factory=kind,
    )
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16000")
    return connection


def _code(error: sqlite3.Error) -> int:
    """The primary result code; errors that Python's module itself makes have none: SQLITE_OK."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF
