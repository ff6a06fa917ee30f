"""Why a job or a partition failed, and whether trying again makes sense."""

from __future__ import annotations

import dataclasses
import enum


class FailureReason(enum.StrEnum):
    """Contract: programs decide by them. First the job's own doing, then what befell it."""

    EXIT_CODE = "EXIT_CODE"
    SIGNAL = "SIGNAL"
    TIME_LIMIT = "TIME_LIMIT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUTPUT_MISSING = "OUTPUT_MISSING"

    INVALID = "INVALID"
    """The gate refused the job's specification."""
    NO_CAPACITY = "NO_CAPACITY"
    PROVISIONING_FAILED = "PROVISIONING_FAILED"
    STAGING_FAILED = "STAGING_FAILED"
    START_FAILED = "START_FAILED"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    SITE_LOST = "SITE_LOST"
    END_UNKNOWN = "END_UNKNOWN"
    USER_NOT_MAPPED = "USER_NOT_MAPPED"
    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"
    DEADLINE = "DEADLINE"
    """A state lasted longer than its configured deadline."""
    BUDGET = "BUDGET"
    SPOOL_FULL = "SPOOL_FULL"


OWN_REASONS = frozenset(
    {
        FailureReason.EXIT_CODE,
        FailureReason.SIGNAL,
        FailureReason.TIME_LIMIT,
        FailureReason.OUT_OF_MEMORY,
        FailureReason.OUTPUT_MISSING,
    }
)

NEVER_RETRIED = frozenset(
    {
        FailureReason.END_UNKNOWN,
        FailureReason.INVALID,
        FailureReason.USER_NOT_MAPPED,
        FailureReason.BUDGET,
        FailureReason.OUTPUT_MISSING,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed. `retryable`: the same request may succeed later or elsewhere."""

    reason: FailureReason
    message: str
    retryable: bool = False


def may_retry(failure: Failure, *, claimed: bool, retries_left: int) -> bool:
    """Whether a job that failed so goes back to the queue by itself.

    Before a claim nothing of the job has run, so what is retryable is tried again freely (the
    state's deadline ends that); after a claim it costs one of the job's own `retries`. An end that
    nobody knows is never tried again.
    """
    if failure.reason in NEVER_RETRIED:
        return False
    if claimed:
        return retries_left > 0
    return failure.retryable
