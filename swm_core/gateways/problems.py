"""What a failed call to a gate means: gone, refused, no room, or not known.

The classes follow the tables of protos/README.md. Whatever is not listed is *not known*: the core
asks again and changes nothing.
"""

from __future__ import annotations

import enum

import grpc

from rpc_kit.errors import Problem
from swm_core.domain.words import words

DOMAIN = "skyport.gate.v1"

_GONE = frozenset({"PARTITION_NOT_FOUND", "JOB_NOT_FOUND"})
_NO_ROOM = frozenset({"CAPACITY", "QUOTA", "FLAVOR_NOT_FOUND", "IMAGE_NOT_FOUND"})
_LATER = frozenset(
    {"SITE_QUEUE_FULL", "PARTITION_NOT_READY", "BUSY", "SHUTTING_DOWN", "OFFSET", "DIGEST_MISMATCH"}
)
_REFUSED_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.DATA_LOSS,
    }
)
SITE_BROKEN = frozenset({"CREDENTIALS_INVALID", "PERMISSION_MISSING"})
SITE_CHANGED = "SITE_CHANGED"
HOST_KEY_MISMATCH = "HOST_KEY_MISMATCH"
_BROKEN = SITE_BROKEN | {HOST_KEY_MISMATCH, SITE_CHANGED}


class Meaning(enum.Enum):
    """What the core may conclude from a failed call."""

    GONE = enum.auto()
    """The object does not exist at the site: the only proof of absence.

    Of an attempt, PARTITION_NOT_FOUND is one only where its partition is dynamic: see
    `attempt_is_gone`.
    """
    REFUSED = enum.auto()
    """The same call will fail again: the attempt fails."""
    NO_ROOM = enum.auto()
    """The next flavor, location or site may do."""
    BROKEN = enum.auto()
    """An administrator has to do something; the object's state is not known."""
    UNKNOWN = enum.auto()
    """Ask again, with backoff; change nothing."""


class GateError(Exception):
    """A call to a gate that did not succeed."""

    def __init__(self, site: str, problem: Problem) -> None:
        super().__init__(f"site {site}: {problem.message}")
        self.site = site
        self.problem = problem

    @property
    def reason(self) -> str:
        """The gate's reason; empty when the transport made the status."""
        return (self.problem.reason or "") if self.problem.domain == DOMAIN else ""

    @property
    def expected_root(self) -> str:
        """Of SITE_CHANGED: the root that was asked for, if the gate tells it."""
        return self.problem.metadata.get("expected", "")

    @property
    def node(self) -> str:
        """The node that the gate names; empty: none."""
        return self.problem.metadata.get("node", "")

    @property
    def message(self) -> str:
        """For people."""
        return words(self.problem.message) or self.problem.code.name.lower()

    @property
    def meaning(self) -> Meaning:
        """What the core may conclude."""
        reason = self.reason
        if not reason:
            return Meaning.UNKNOWN
        if self.problem.code is grpc.StatusCode.NOT_FOUND and reason in _GONE:
            return Meaning.GONE
        if reason in _BROKEN:
            return Meaning.BROKEN
        if reason in _NO_ROOM:
            return Meaning.NO_ROOM
        if reason in _LATER:
            return Meaning.UNKNOWN
        if reason == "DISK_FULL" or self.problem.code in _REFUSED_CODES:
            return Meaning.REFUSED
        return Meaning.UNKNOWN

    def attempt_is_gone(self, *, dynamic: bool) -> bool:
        """Whether nothing is left of the attempt that was asked for.

        Args:
            dynamic: Whether its partition was created by the core. A static one that its gate does
                not name any more is a change of configuration, and no proof of anything.
        """
        return self.meaning is Meaning.GONE and (dynamic or self.reason == "JOB_NOT_FOUND")
