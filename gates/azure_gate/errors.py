"""What an error of Azure means for the Gate API.

The word that counts is `error.code` in the body, never the HTTP status: an operation that failed is
told with status 200, and every conflict, a used-up quota too, with 409. Codes are nested, and a
message can hold another error as JSON. This knows no package of Azure: it reads what was received.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gate_kit import Refusal, errors
from rpc_kit.errors import not_found, precondition
from skyport.gate.v1 import types_pb2

PROVISIONING_FAILED = "PROVISIONING_FAILED"
THROTTLED_S = 5.0
"""How long to wait where Azure wants us to and does not say how long."""

_TEXT_CHARS = 600
_DEPTH = 6


class Kind(enum.Enum):
    """What an error means."""

    CAPACITY = enum.auto()
    """The region has no room for it now."""
    QUOTA = enum.auto()
    """The subscription may not have more."""
    RETRY = enum.auto()
    """The same call may succeed in a while."""
    GONE = enum.auto()
    """The object, or its group, does not exist."""
    CREDENTIALS = enum.auto()
    """Azure does not know who we are."""
    PERMISSION = enum.auto()
    """Azure knows us, and does not let us."""
    FLAVOR = enum.auto()
    """No such size there."""
    IMAGE = enum.auto()
    INVALID = enum.auto()
    """What was asked for makes no sense there."""
    REFUSED = enum.auto()
    """It can't be done as things are."""


_CODES: Mapping[str, Kind] = {
    # The region.
    "SkuNotAvailable": Kind.CAPACITY,
    "AllocationFailed": Kind.CAPACITY,
    "ZonalAllocationFailed": Kind.CAPACITY,
    "OverconstrainedAllocationRequest": Kind.CAPACITY,
    "OverconstrainedZonalAllocationRequest": Kind.CAPACITY,
    "CapacityReservationCapacityExceeded": Kind.CAPACITY,
    # The subscription.
    "QuotaExceeded": Kind.QUOTA,
    "PublicIPCountLimitReached": Kind.QUOTA,
    "ResourceGroupQuotaExceeded": Kind.QUOTA,
    # Later.
    "TooManyRequests": Kind.RETRY,
    "OperationPreempted": Kind.RETRY,
    "RetryableError": Kind.RETRY,
    "RetryableErrorDueToAnotherOperation": Kind.RETRY,
    "AnotherOperationInProgress": Kind.RETRY,
    "CanceledAndSupersededDueToAnotherOperation": Kind.RETRY,
    "ReferencedResourceNotProvisioned": Kind.RETRY,
    "InternalServerError": Kind.RETRY,
    "InternalExecutionError": Kind.RETRY,
    "ServerTimeout": Kind.RETRY,
    "ServiceUnavailable": Kind.RETRY,
    "GatewayTimeout": Kind.RETRY,
    "ResourceGroupBeingDeleted": Kind.RETRY,
    "SubscriptionRequestsThrottled": Kind.RETRY,
    "OperationNotAllowedThrottled": Kind.RETRY,
    # Gone.
    "ResourceGroupNotFound": Kind.GONE,
    "ResourceNotFound": Kind.GONE,
    "NotFound": Kind.GONE,
    # Who we are, and what we may.
    "InvalidAuthenticationToken": Kind.CREDENTIALS,
    "InvalidAuthenticationTokenTenant": Kind.CREDENTIALS,
    "ExpiredAuthenticationToken": Kind.CREDENTIALS,
    "AuthenticationFailed": Kind.CREDENTIALS,
    "AuthorizationFailed": Kind.PERMISSION,
    "LinkedAuthorizationFailed": Kind.PERMISSION,
    "SubscriptionNotFound": Kind.PERMISSION,
    "InvalidSubscriptionId": Kind.PERMISSION,
    "RequestDisallowedByPolicy": Kind.PERMISSION,
    "MissingSubscriptionRegistration": Kind.PERMISSION,
    "ReadOnlyDisabledSubscription": Kind.PERMISSION,
    "ResourcePurchaseValidationFailed": Kind.PERMISSION,
    "MarketplacePurchaseEligibilityFailed": Kind.PERMISSION,
    # What was asked for.
    "InvalidParameter": Kind.INVALID,
    "InvalidParameterValue": Kind.INVALID,
    "InvalidRequestContent": Kind.INVALID,
    "BadRequest": Kind.INVALID,
    "AzureSpotIsNotSupportedForThisVMSize": Kind.INVALID,
    "AzureSpotFeatureNotEnabledForSubscription": Kind.PERMISSION,
    "MaxPriceValueInvalid": Kind.INVALID,
    "PlatformImageNotFound": Kind.IMAGE,
    "ImageNotFound": Kind.IMAGE,
    "GalleryImageNotFound": Kind.IMAGE,
    "LocationNotAvailableForResourceType": Kind.INVALID,
    # As things are.
    "OperationNotAllowed": Kind.REFUSED,
    "NicInUse": Kind.REFUSED,
    "NicReservedForAnotherVm": Kind.REFUSED,
    "SpotPriceGreaterThanProvidedMaxPrice": Kind.REFUSED,
}
# These say nothing by themselves: the cause is in their details.
_WRAPPERS = frozenset({"DeploymentFailed", "Conflict", "ResourceDeploymentFailure", "BadRequest"})
# OperationNotAllowed with one of these is a quota.
_QUOTA_WORDS = (
    "Family Cores quota",
    "Total Regional Cores quota",
    "LowPriorityCores",
    "Submit a request for Quota increase",
)
# Of OperationNotAllowed, too.
_SMALLER = "smaller than the size of the corresponding disk in the VM image"
_ELSEWHERE = frozenset({"SpotPriceGreaterThanProvidedMaxPrice", "NicReservedForAnotherVm"})
# OAuth's own errors that are no word about our credentials.
_OAUTH_LATER = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_MENDS: Mapping[str, str] = {
    "AuthenticationFailed": "`swm site check` tells what mends it",
    "AuthorizationFailed": "the role Contributor is missing: `az role assignment create --assignee "
    "APP_ID --role Contributor --scope /subscriptions/SUBSCRIPTION_ID`",
    "LinkedAuthorizationFailed": "the role Contributor is missing on what this is linked to",
    "SubscriptionNotFound": "the subscription is not there for this application: give it the role "
    "Contributor on it, and look at subscription_id",
    "MissingSubscriptionRegistration": "register the provider: `az provider register --namespace "
    "NAMESPACE`",
    "ReadOnlyDisabledSubscription": "the subscription is disabled; look at its billing",
    "ResourcePurchaseValidationFailed": "accept the image's terms: `az vm image terms accept --urn "
    "URN`",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """An error as Azure told it."""

    status: int
    """Of HTTP; 0 where there was no answer."""
    code: str
    """The most telling one; empty where the body has none."""
    message: str
    target: str = ""
    retry_after_s: float | None = None

    @property
    def kind(self) -> Kind:
        """What it means."""
        if self.code == "OperationNotAllowed" and any(w in self.message for w in _QUOTA_WORDS):
            return Kind.QUOTA
        if self.code in {"InvalidParameter", "InvalidParameterValue"}:
            if "imageReference" in self.target or "galleryImage" in self.target:
                return Kind.IMAGE
            if "vmSize" in self.target or "for the VM size is not valid" in self.message:
                return Kind.FLAVOR
        known = _CODES.get(self.code)
        if known is Kind.GONE and "/images/" in self.message.casefold():
            return Kind.IMAGE  # of one's own: it has no code of its own
        if known is not None:
            return known
        if self.code.startswith("InUse"):
            return Kind.REFUSED
        if self.status in {0, 408, 429} or self.status >= 500:
            return Kind.RETRY
        if self.status == 401:
            return Kind.CREDENTIALS
        if self.status == 403:
            return Kind.PERMISSION
        return Kind.REFUSED

    @property
    def is_disk_too_small(self) -> bool:
        """Whether a disk was asked for that is smaller than what is to be copied onto it."""
        return _SMALLER in self.message

    @property
    def said(self) -> str:
        """What Azure said, in one line."""
        said = " ".join(self.message.split())[:_TEXT_CHARS]
        return f"{self.code}: {said}" if self.code else said or f"HTTP status {self.status}"

    @property
    def text(self) -> str:
        """One line for people: what Azure said, and what mends it."""
        mend = _MENDS.get(self.code)
        return f"{self.said} ({mend})" if mend else self.said


def parse(status: int, body: str | bytes, *, retry_after: str = "") -> Problem:
    """The error in an answer.

    Args:
        status: Of HTTP.
        body: As it came.
        retry_after: The header of that name.
    """
    after_s = _seconds(retry_after)
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return Problem(status, "", "", retry_after_s=after_s)
    error = told.get("error", told)
    if isinstance(error, str):
        return _oauth(status, error, str(told.get("error_description", "")), after_s)
    found = list(_errors(error, _DEPTH))
    telling = [one for one in found if one[0] in _CODES and one[0] not in _WRAPPERS]
    code, message, target = next(iter(telling or found), ("", "", ""))
    if telling and found and not message:
        message = found[0][1]
    return Problem(status, code, message, target, after_s)


def unanswered(why: str) -> Problem:
    """The problem of a call that got no answer."""
    return Problem(0, "", why or "it does not answer")


def gone(why: str) -> Problem:
    """The problem of something that is not there any more."""
    return Problem(404, "ResourceNotFound", why)


def refusal(problem: Problem, doing: str) -> Refusal:
    """What a caller of the gate is told.

    Args:
        problem: What Azure said.
        doing: What was tried, as "making the network".
    """
    text = f"{doing}: {problem.text}"
    match problem.kind:
        case Kind.CAPACITY:
            return errors.capacity(text)
        case Kind.QUOTA:
            return errors.quota(text)
        case Kind.RETRY:
            # 0 means nothing: we are asked to come back, and not told when.
            after_s = problem.retry_after_s or THROTTLED_S
            return errors.site_unreachable(text, retry_after_s=after_s)
        case Kind.GONE if problem.code == "ResourceGroupNotFound":
            return not_found("PARTITION_NOT_FOUND", text)
        case Kind.GONE:
            # Something of it is gone, which is no word for all of it: the next look tells more.
            return errors.site_unreachable(text, retry_after_s=THROTTLED_S)
        case Kind.CREDENTIALS:
            return errors.credentials_invalid(text)
        case Kind.PERMISSION:
            return errors.permission_missing(text)
        case Kind.FLAVOR:
            return not_found("FLAVOR_NOT_FOUND", text)
        case Kind.IMAGE:
            return not_found("IMAGE_NOT_FOUND", text)
        case Kind.INVALID:
            return errors.invalid(text, field="spec")
        case Kind.REFUSED:
            return precondition(PROVISIONING_FAILED, text)


def failure(problem: Problem, doing: str) -> types_pb2.Failure:
    """Why a partition could not be made, as its `failure` tells it."""
    kinds = {
        Kind.CAPACITY: ("CAPACITY", True),
        Kind.QUOTA: ("QUOTA", True),
        Kind.CREDENTIALS: ("CREDENTIALS_INVALID", True),
        Kind.PERMISSION: ("PERMISSION_MISSING", True),
        Kind.FLAVOR: ("FLAVOR_NOT_FOUND", False),
        Kind.IMAGE: ("IMAGE_NOT_FOUND", False),
    }
    reason, retryable = kinds.get(
        problem.kind,
        (PROVISIONING_FAILED, problem.kind is Kind.RETRY or problem.code in _ELSEWHERE),
    )
    return types_pb2.Failure(reason=reason, message=f"{doing}: {problem.text}", retryable=retryable)


def _oauth(status: int, error: str, description: str, after_s: float | None) -> Problem:
    """Where tokens come from, errors look otherwise."""
    if error in _OAUTH_LATER or status == 429 or status >= 500:
        return Problem(status, "ServiceUnavailable", description, retry_after_s=after_s)
    # What follows the first line are ids and times.
    said = description.splitlines()[0] if description else error
    return Problem(status, "AuthenticationFailed", said, retry_after_s=after_s)


def _errors(error: Any, depth: int) -> Iterator[tuple[str, str, str]]:
    """All errors in `error`, the innermost first: code, message, target."""
    if not isinstance(error, dict) or depth == 0:
        return
    message = error.get("message")
    message = message if isinstance(message, str) else ""
    details = error.get("details")
    for inner in details if isinstance(details, list) else ():
        yield from _errors(inner, depth - 1)
    yield from _errors(error.get("innererror"), depth - 1)
    if message.lstrip().startswith("{"):
        try:
            told = json.loads(message)
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict):
            yield from _errors(told.get("error", told), depth - 1)
    code = error.get("code")
    if isinstance(code, str) and code:
        target = error.get("target")
        yield code, message, target if isinstance(target, str) else ""


def _seconds(text: str) -> float | None:
    # Azure sends whole seconds, never a date.
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None
