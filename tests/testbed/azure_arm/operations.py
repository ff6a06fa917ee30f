"""Work that goes on after it was accepted, and is asked after by its id."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.testbed.azure_arm.clock import Clock
from tests.testbed.azure_arm.errors import ArmError, body_of

__all__ = ["Operation", "Operations"]


@dataclass
class Operation:
    """One of them. It lives on when it has ended.

    Attributes:
        id: Its id.
        provider: Whose it is, as "Microsoft.Compute"; "" is ARM itself, for groups.
        location: Where.
        started: When, by the stand-in's clock.
        ended: When it ended.
        error: What it failed with.
        polls: How often it was asked after.
    """

    id: str
    provider: str
    location: str
    started: float
    ended: float | None = None
    error: dict[str, Any] | None = None
    polls: int = 0

    @property
    def status(self) -> str:
        """As ARM tells it."""
        if self.ended is None:
            return "InProgress"
        return "Succeeded" if self.error is None else "Failed"


@dataclass
class Operations:
    """All of them."""

    clock: Clock
    broken: list[str] = field(default_factory=list)
    _all: dict[str, Operation] = field(default_factory=dict)

    def begin(self, provider: str, location: str) -> Operation:
        """A new one."""
        made = Operation(str(uuid.uuid4()), provider, location, self.clock.now())
        self._all[made.id] = made
        return made

    def get(self, operation_id: str) -> Operation:
        """One by its id; an error if there never was one."""
        found = self._all.get(operation_id)
        if found is None:
            raise ArmError(
                404, "NotFound", f"The entity was not found. Operation id: {operation_id}."
            )
        found.polls += 1
        return found

    def succeed(self, operation: Operation) -> None:
        """It has ended well."""
        operation.ended = self.clock.now()

    def fail(self, operation: Operation, error: ArmError) -> None:
        """It has failed."""
        operation.ended = self.clock.now()
        operation.error = body_of(error.code, error.message, error.details)
