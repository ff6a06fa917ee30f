"""What the core has promised to remember: one SQLite file, written in groups of commits.

`Store.open` gives the parts, each with its own tables. Writes are awaited and durable when they
return; reads are short, keyed, and made on the event loop's thread.
"""

from __future__ import annotations

from pathlib import Path

from swm_core.store.attempts import Attempt, Attempts, Outcome
from swm_core.store.database import Database
from swm_core.store.errors import (
    AlreadyExists,
    NotFound,
    NotTerminal,
    RequestIdReused,
    SchemaTooNew,
    SequenceExpired,
    StaleJob,
    StaleObject,
    StalePartition,
    StoreClosed,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
)
from swm_core.store.events import Event, EventKind
from swm_core.store.held import hold_back, raise_attempts
from swm_core.store.job_lists import JobLists, JobPage
from swm_core.store.jobs import Jobs, Step
from swm_core.store.journal import EventPage, Journal, Subscription
from swm_core.store.meta import Meta
from swm_core.store.orphans import Orphans
from swm_core.store.partitions import PartitionPage, Partitions
from swm_core.store.roots import Root, Roots
from swm_core.store.sites import Sites
from swm_core.store.users import User, UserCertificate, Users

__all__ = [
    "AlreadyExists",
    "Attempt",
    "Attempts",
    "Event",
    "EventKind",
    "EventPage",
    "JobLists",
    "JobPage",
    "Jobs",
    "Journal",
    "Meta",
    "NotFound",
    "NotTerminal",
    "Orphans",
    "Outcome",
    "PartitionPage",
    "Partitions",
    "RequestIdReused",
    "Root",
    "Roots",
    "SchemaTooNew",
    "SequenceExpired",
    "Sites",
    "StaleJob",
    "StaleObject",
    "StalePartition",
    "Step",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "Subscription",
    "User",
    "UserCertificate",
    "Users",
]


class Store:
    """An open store and its parts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.journal = Journal(database)
        self.jobs = Jobs(database)
        self.job_lists = JobLists(database)
        self.attempts = Attempts(database)
        self.partitions = Partitions(database)
        self.roots = Roots(database)
        self.sites = Sites(database)
        self.orphans = Orphans(database)
        self.users = Users(database)
        self.meta = Meta(database)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or create the store file at `path`. Errors are those of `Database.open`."""
        return cls(Database.open(path))

    async def hold_back(self, *, time: float) -> None:
        """Start nothing of what is here: the store was put back from a backup, or copied.

        Tokens of watchers, and numbers of attempts, that were given since the backup are none of
        this store's any more. May be done twice.

        Args:
            time: Now; seconds since the epoch.
        """
        await self._database.write(raise_attempts)
        await self.journal.leave_gap(time=time)
        await hold_back(self.jobs, self.partitions, time=time)

    async def close(self) -> None:
        """Finish the writes that are queued, and close the file."""
        await self._database.close()
