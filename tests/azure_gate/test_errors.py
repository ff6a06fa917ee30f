"""What Azure says is told with the reason and the code of the contract."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from gates.azure_gate import errors

_CODE = grpc.StatusCode


def _body(code: str, message: str = "", **more: Any) -> str:
    return json.dumps({"error": {"code": code, "message": message, **more}})


def _wrapped(code: str, inner: dict[str, Any], status: int = 200) -> errors.Problem:
    return errors.parse(status, _body(code, "it failed", details=[inner]))


@pytest.mark.parametrize(
    ("code", "message", "grpc_code", "reason"),
    [
        ("SkuNotAvailable", "", _CODE.RESOURCE_EXHAUSTED, "CAPACITY"),
        ("AllocationFailed", "", _CODE.RESOURCE_EXHAUSTED, "CAPACITY"),
        ("ZonalAllocationFailed", "", _CODE.RESOURCE_EXHAUSTED, "CAPACITY"),
        ("OverconstrainedAllocationRequest", "", _CODE.RESOURCE_EXHAUSTED, "CAPACITY"),
        ("OverconstrainedZonalAllocationRequest", "", _CODE.RESOURCE_EXHAUSTED, "CAPACITY"),
        ("CapacityReservationCapacityExceeded", "", _CODE.RESOURCE_EXHAUSTED, "CAPACITY"),
        ("QuotaExceeded", "", _CODE.RESOURCE_EXHAUSTED, "QUOTA"),
        (
            "OperationNotAllowed",
            "exceeding approved Total Regional Cores quota",
            _CODE.RESOURCE_EXHAUSTED,
            "QUOTA",
        ),
        (
            "OperationNotAllowed",
            "exceeding approved standardDSv5 Family Cores quota",
            _CODE.RESOURCE_EXHAUSTED,
            "QUOTA",
        ),
        ("OperationNotAllowed", "LowPriorityCores", _CODE.RESOURCE_EXHAUSTED, "QUOTA"),
        (
            "OperationNotAllowed",
            "Submit a request for Quota increase at https://aka.ms/x",
            _CODE.RESOURCE_EXHAUSTED,
            "QUOTA",
        ),
        (
            "OperationNotAllowed",
            "the VM is marked for deletion",
            _CODE.FAILED_PRECONDITION,
            "PROVISIONING_FAILED",
        ),
        ("NicInUse", "", _CODE.FAILED_PRECONDITION, "PROVISIONING_FAILED"),
        (
            "InUseSubnetCannotBeDeleted",
            "",
            _CODE.FAILED_PRECONDITION,
            "PROVISIONING_FAILED",
        ),
        ("NicReservedForAnotherVm", "", _CODE.FAILED_PRECONDITION, "PROVISIONING_FAILED"),
        (
            "SpotPriceGreaterThanProvidedMaxPrice",
            "",
            _CODE.FAILED_PRECONDITION,
            "PROVISIONING_FAILED",
        ),
        ("MissingSubscriptionRegistration", "", _CODE.FAILED_PRECONDITION, "PERMISSION_MISSING"),
        ("ReadOnlyDisabledSubscription", "", _CODE.FAILED_PRECONDITION, "PERMISSION_MISSING"),
        ("RetryableError", "", _CODE.UNAVAILABLE, "SITE_UNREACHABLE"),
        # What is written twice, or used, while it is being written.
        (
            "CanceledAndSupersededDueToAnotherOperation",
            "",
            _CODE.UNAVAILABLE,
            "SITE_UNREACHABLE",
        ),
        ("ReferencedResourceNotProvisioned", "", _CODE.UNAVAILABLE, "SITE_UNREACHABLE"),
        ("ResourceGroupBeingDeleted", "", _CODE.UNAVAILABLE, "SITE_UNREACHABLE"),
        ("ResourceGroupNotFound", "", _CODE.NOT_FOUND, "PARTITION_NOT_FOUND"),
        # Of a partition something may be gone that is not all of it.
        ("ResourceNotFound", "", _CODE.UNAVAILABLE, "SITE_UNREACHABLE"),
        ("NotFound", "", _CODE.UNAVAILABLE, "SITE_UNREACHABLE"),
        ("InvalidParameter", "", _CODE.INVALID_ARGUMENT, "FIELD_MALFORMED"),
        (
            "AzureSpotIsNotSupportedForThisVMSize",
            "",
            _CODE.INVALID_ARGUMENT,
            "FIELD_MALFORMED",
        ),
        ("MaxPriceValueInvalid", "", _CODE.INVALID_ARGUMENT, "FIELD_MALFORMED"),
        ("InvalidAuthenticationToken", "", _CODE.FAILED_PRECONDITION, "CREDENTIALS_INVALID"),
        ("AuthorizationFailed", "", _CODE.FAILED_PRECONDITION, "PERMISSION_MISSING"),
        ("PlatformImageNotFound", "", _CODE.NOT_FOUND, "IMAGE_NOT_FOUND"),
        (
            "NotFound",
            "The Image '/subscriptions/x/providers/Microsoft.Compute/images/z' cannot be found.",
            _CODE.NOT_FOUND,
            "IMAGE_NOT_FOUND",
        ),
    ],
)
# 409 is what a used-up quota and a busy name share, and 200 what a failed operation is told with.
@pytest.mark.parametrize("status", [200, 400, 409])
def test_the_code_in_the_body_counts_whatever_the_status(
    status: int, code: str, message: str, grpc_code: grpc.StatusCode, reason: str
) -> None:
    told = errors.refusal(errors.parse(status, _body(code, message)), "making n0")
    assert (told.code, told.reason) == (grpc_code, reason)
    assert code in told.message
    assert told.message.startswith("making n0: ")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_that_asks_to_come_back_says_when(status: int) -> None:
    told = errors.refusal(errors.parse(status, "", retry_after="17"), "listing")
    assert (told.code, told.reason, told.retry_after_s) == (
        _CODE.UNAVAILABLE,
        "SITE_UNREACHABLE",
        17.0,
    )
    assert errors.refusal(errors.parse(status, "<html>"), "listing").retry_after_s is not None


@pytest.mark.parametrize("wrapper", ["DeploymentFailed", "Conflict", "ResourceDeploymentFailure"])
def test_a_wrapper_is_told_as_what_it_holds(wrapper: str) -> None:
    inner = {"code": "AllocationFailed", "message": "try another size"}
    assert _wrapped(wrapper, inner).kind is errors.Kind.CAPACITY
    as_text = {"code": "Conflict", "message": json.dumps({"status": "Failed", "error": inner})}
    problem = _wrapped(wrapper, as_text)
    assert problem.kind is errors.Kind.CAPACITY
    assert "try another size" in problem.text


def test_nesting_without_end_is_read_to_some_depth_only() -> None:
    error: dict[str, Any] = {"code": "AllocationFailed", "message": "deep"}
    for _ in range(50):
        error = {"code": "Conflict", "message": "", "details": [error]}
    assert errors.parse(409, json.dumps({"error": error})).code == "Conflict"


@pytest.mark.parametrize("body", ["", "[]", "null", '"text"', "{", '{"error": 3}', "[" * 5000])
def test_a_body_that_tells_nothing_leaves_the_status(body: str) -> None:
    assert errors.parse(403, body).kind is errors.Kind.PERMISSION
    assert errors.parse(401, body).kind is errors.Kind.CREDENTIALS
    assert errors.parse(502, body).kind is errors.Kind.RETRY
    assert errors.parse(409, body).kind is errors.Kind.REFUSED


def test_what_is_wrong_with_size_or_image_is_told_as_that() -> None:
    size = _body("InvalidParameter", "The value X is not valid", target="vmSize")
    image = _body("InvalidParameter", "no such image", target="imageReference")
    assert errors.refusal(errors.parse(400, size), "n0").reason == "FLAVOR_NOT_FOUND"
    assert errors.refusal(errors.parse(404, image), "n0").reason == "IMAGE_NOT_FOUND"


def test_a_login_that_is_refused_is_no_outage() -> None:
    said = {
        "error": "invalid_client",
        "error_description": "AADSTS700027: the certificate is not known.\r\nTrace ID: 1",
    }
    problem = errors.parse(401, json.dumps(said))
    assert problem.kind is errors.Kind.CREDENTIALS
    assert "AADSTS700027" in problem.text
    assert "Trace" not in problem.text
    later = json.dumps({"error": "temporarily_unavailable"})
    assert errors.parse(400, later).kind is errors.Kind.RETRY


def test_a_missing_role_is_named_with_what_gives_it() -> None:
    problem = errors.parse(403, _body("AuthorizationFailed", "client does not have"))
    assert "Contributor" in problem.text
    assert "az role assignment create" in problem.text


def test_failures_of_partitions_say_whether_elsewhere_may_do() -> None:
    def told(code: str, message: str = "") -> tuple[str, bool]:
        failure = errors.failure(errors.parse(409, _body(code, message)), "making n0")
        return failure.reason, failure.retryable

    assert told("AllocationFailed") == ("CAPACITY", True)
    assert told("OperationNotAllowed", "LowPriorityCores") == ("QUOTA", True)
    assert told("SpotPriceGreaterThanProvidedMaxPrice") == ("PROVISIONING_FAILED", True)
    assert told("CanceledAndSupersededDueToAnotherOperation") == ("PROVISIONING_FAILED", True)
    assert told("InvalidParameter") == ("PROVISIONING_FAILED", False)
    assert told("OperationNotAllowed") == ("PROVISIONING_FAILED", False)
