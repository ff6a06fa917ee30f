"""What can go wrong in the store.

StoreError
├── StoreUnavailable     disk full or broken: nothing of the write was kept; a later try may succeed
├── StoreClosed          the store is closing or closed
├── StoreUnusable        the file is no store of ours, or damaged
│   └── SchemaTooNew     a newer version of the core wrote it
├── NotFound             no such object
├── AlreadyExists        the id is taken
├── RequestIdReused      the request id was used for something else
├── StaleObject          the value that was to be changed is not the latest
│   ├── StaleJob
│   └── StalePartition
├── NotTerminal          only what has ended can be deleted
└── SequenceExpired      the journal no longer has all events after that sequence
"""

from __future__ import annotations


class StoreError(Exception):
    """Anything that the store refuses or fails to do."""


class StoreUnavailable(StoreError):
    """The disk is full or broken. Nothing of the write was kept; a later try may succeed."""


class StoreClosed(StoreError):
    """The store takes no more writes."""


class StoreUnusable(StoreError):
    """The file is not a store, or is damaged; trying again does not help."""


class SchemaTooNew(StoreUnusable):
    """A newer version of the core has written this store; this one would not understand it."""


class NotFound(StoreError):
    """There is no such object."""


class AlreadyExists(StoreError):
    """The id is taken."""


class RequestIdReused(StoreError):
    """The owner has used this request id for another request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used for a different request")
        self.request_id = request_id


class StaleObject(StoreError):
    """The caller's value of an object is not the latest: a race that it lost, or a defect."""


class StaleJob(StaleObject):
    """The job has changed since the caller's value of it."""


class StalePartition(StaleObject):
    """The partition has changed since the caller's value of it."""


class NotTerminal(StoreError):
    """Only an object that has ended can be deleted."""


class SequenceExpired(StoreError):
    """Events after that sequence have been compacted away: list again, then watch from the latest.

    `oldest`: the lowest sequence from which on every event is kept.
    """

    def __init__(self, sequence: int, oldest: int) -> None:
        super().__init__(f"events after {sequence} are no longer all kept; the oldest is {oldest}")
        self.sequence = sequence
        self.oldest = oldest
