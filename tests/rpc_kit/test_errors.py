from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from rpc_kit import errors
from rpc_kit.errors import Problem, Refusal, Violation


@dataclasses.dataclass
class FailedCall(grpc.RpcError):
    """What a client's call raises, made from a status."""

    status: Any

    def code(self) -> Any:
        return self.status.code

    def details(self) -> Any:
        return self.status.details

    def trailing_metadata(self) -> Any:
        return self.status.trailing_metadata


def details_of(refusal: Refusal) -> status_pb2.Status:
    ((key, value),) = refusal.to_status("skyport.test").trailing_metadata
    assert key == "grpc-status-details-bin"
    assert isinstance(value, bytes)
    return status_pb2.Status.FromString(value)


def seen_by_client(refusal: Refusal) -> Problem:
    return Problem.from_error(FailedCall(refusal.to_status("skyport.test")))


def test_a_status_carries_exactly_one_error_info_and_nothing_that_was_not_set() -> None:
    status = details_of(errors.not_found("JOB_NOT_FOUND", "no job j1", job_id="j1"))
    assert len(status.details) == 1
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "JOB_NOT_FOUND",
        "skyport.test",
        {"job_id": "j1"},
    )


def test_a_client_reads_back_what_the_server_refused() -> None:
    refusal = Refusal(
        grpc.StatusCode.UNAVAILABLE,
        "SITE_UNREACHABLE",
        "the site does not answer",
        metadata={"site": "lab"},
        retry_after_s=2.25,
        violations=[("spec.ports[0]", "taken")],
    )
    assert seen_by_client(refusal) == Problem(
        grpc.StatusCode.UNAVAILABLE,
        "SITE_UNREACHABLE",
        "skyport.test",
        "the site does not answer",
        {"site": "lab"},
        2.25,
        (Violation("spec.ports[0]", "taken"),),
    )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (errors.not_found, grpc.StatusCode.NOT_FOUND),
        (errors.exists, grpc.StatusCode.ALREADY_EXISTS),
        (errors.precondition, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.denied, grpc.StatusCode.PERMISSION_DENIED),
        (errors.unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
        (errors.out_of_range, grpc.StatusCode.OUT_OF_RANGE),
        (errors.data_loss, grpc.StatusCode.DATA_LOSS),
        (errors.unimplemented, grpc.StatusCode.UNIMPLEMENTED),
        (errors.aborted, grpc.StatusCode.ABORTED),
        (errors.exhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.unavailable, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_each_short_form_has_its_code(make: Any, code: grpc.StatusCode) -> None:
    problem = seen_by_client(make("A_REASON", "a message", key="value"))
    assert (problem.code, problem.reason, problem.message) == (code, "A_REASON", "a message")
    assert problem.metadata == {"key": "value"}


def test_an_invalid_field_is_named_in_the_violations() -> None:
    problem = seen_by_client(errors.invalid("must not be empty", field="spec.script"))
    assert problem.code is grpc.StatusCode.INVALID_ARGUMENT
    assert problem.violations == (Violation("spec.script", "must not be empty"),)


def test_hundreds_of_violations_fit_into_the_trailers_and_the_rest_is_counted() -> None:
    violations = [(f"line {n}", "ein Übel" * 20) for n in range(500)]
    refusal = errors.invalid("ß" * 100_000, violations=violations)
    status = refusal.to_status("skyport.test")
    ((_, value),) = status.trailing_metadata
    # As they travel: base64, and three characters for each byte that is not ASCII.
    assert len(value) < 4_096
    assert len(value) * 4 / 3 + 3 * len(str(status.details).encode()) < 8_000
    shown = seen_by_client(refusal).violations
    assert shown[0] == violations[0]
    assert shown[-1] == ("", f"and {500 - (len(shown) - 1)} more")


def test_a_status_that_the_transport_made_has_no_reason() -> None:
    status = Refusal(grpc.StatusCode.UNAVAILABLE, "X", "connection refused").to_status("d")
    for trailers in ((), None, (("other-key", "x"),), (("grpc-status-details-bin", b"\xff"),)):
        bare = dataclasses.make_dataclass("Bare", ["code", "details", "trailing_metadata"])(
            status.code, status.details, trailers
        )
        problem = Problem.from_error(FailedCall(bare))
        assert (problem.code, problem.reason, problem.domain) == (status.code, None, None)
        assert problem.message == "connection refused"


def test_the_same_reason_of_another_domain_is_another_reason() -> None:
    problem = seen_by_client(errors.not_found("JOB_NOT_FOUND", "gone"))
    assert problem.is_reason("skyport.test", "PARTITION_NOT_FOUND", "JOB_NOT_FOUND")
    assert not problem.is_reason("example.com", "JOB_NOT_FOUND")


def test_a_status_inside_an_answer_is_read_like_one_of_a_call() -> None:
    refusal = errors.aborted("BUSY", "wait", retry_after_s=1)
    assert Problem.from_status(details_of(refusal)) == seen_by_client(refusal)
    assert Problem.from_status(status_pb2.Status(code=77)).code is grpc.StatusCode.UNKNOWN


def test_a_refusal_can_not_be_ok() -> None:
    with pytest.raises(ValueError, match="OK"):
        Refusal(grpc.StatusCode.OK, "FINE", "all is well")
