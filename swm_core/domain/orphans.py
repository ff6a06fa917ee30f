"""What a site has and the core does not know: is it one, and may it be deleted?"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection


class OrphanKind(enum.StrEnum):
    """What is there: a dynamic partition, or an attempt of a job."""

    PARTITION = "PARTITION"
    JOB = "JOB"


class Known(enum.Enum):
    """What the store says of an object."""

    LIVE = enum.auto()
    """It is there, is to be there, or is to be removed: somebody looks after it."""
    GONE = enum.auto()
    """It was there, and the site said that it is gone."""
    NEVER = enum.auto()
    """The store has never heard of it."""


class Verdict(enum.Enum):
    """What is to be done with an object that a site told of."""

    LEAVE = enum.auto()
    """It is no orphan, or none of ours."""
    REPORT = enum.auto()
    """Told, and deleted only when an administrator says so."""
    DELETE = enum.auto()
    """Told, and deleted after the grace time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An object as its gate told it."""

    kind: OrphanKind
    orphan_id: str
    """The partition's id, or JOB/ATTEMPT."""
    installation: str
    generation: str
    """Of the store that had it made; empty: the gate does not say."""
    partition_id: str
    dynamic: bool
    """Whether the partition is one that a core creates. Others are always there."""
    owner: str = ""
    nodes: tuple[str, ...] = ()
    roots: tuple[tuple[str, str], ...] = ()
    """Node (empty: all) and `root_uid` of where it lies."""


@dataclasses.dataclass(frozen=True, slots=True)
class Orphan:
    """An object that a site has and the core does not know. Times are seconds since the epoch."""

    site: str
    found: Found
    seen_time: float
    """When the core first saw it."""
    requested: bool = False
    """Whether an administrator wants it deleted."""
    tries: int = 0
    """How often the site was asked to delete it."""
    text: str = ""
    """Why it is still there; for people."""


def judge(
    found: Found, known: Known, *, installation: str, generations: Collection[str]
) -> Verdict:
    """What is to be done with an object.

    Args:
        found: The object, as its gate told it.
        known: What the store says of it.
        installation: This core's.
        generations: Those of this store's history that it can answer for: what they made, it knows.
    """
    if found.installation != installation:
        return Verdict.LEAVE
    if found.kind is OrphanKind.PARTITION and not found.dynamic:
        return Verdict.LEAVE
    if known is Known.LIVE:
        return Verdict.LEAVE
    # Made by a store that knows more than this one, which was copied or put back from a backup:
    # what this one lacks may be in use.
    if found.generation not in generations:
        return Verdict.REPORT
    return Verdict.DELETE


def delete_time(orphan: Orphan, *, generations: Collection[str], grace_s: float) -> float | None:
    """When the core deletes it, in seconds since the epoch; None: never by itself."""
    if orphan.requested:
        return orphan.seen_time
    if orphan.found.generation not in generations:
        return None
    return orphan.seen_time + grace_s


@dataclasses.dataclass(frozen=True, slots=True)
class Unreachable:
    """What a list could not see. `partition_id` empty: it may be of any partition."""

    name: str
    partition_id: str


def may_be_hidden(
    unreachable: Collection[Unreachable], partition_id: str, nodes: Collection[str] = ()
) -> bool:
    """Whether an object that a list lacks may be there all the same.

    Args:
        unreachable: What the list could not see.
        partition_id: The object's, or that of its partition.
        nodes: Where an attempt lies; empty: not known, or a partition.
    """
    return any(
        not each.partition_id
        or (each.partition_id == partition_id and (not nodes or each.name in nodes))
        for each in unreachable
    )
