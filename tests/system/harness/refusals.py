"""Calls that are to be refused, and what a refusal must look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from rpc_kit.errors import Problem

DOMAIN = "skyport.terminal.v1"
CALL_S = 20.0


def problem_of(method: Callable[..., Any], request: Any, *, timeout_s: float = CALL_S) -> Problem:
    """How a call of a stub fails; a stream is read to its end.

    Args:
        method: A method of a stub.
        request: Its request, or for a stream of requests, all of them.
        timeout_s: Of the call.

    Raises:
        AssertionError: It succeeds.
    """
    sent = iter(request) if isinstance(request, list | tuple) else request
    try:
        answer = method(sent, timeout=timeout_s)
        if isinstance(answer, grpc.Call):
            answer = list(answer)  # type: ignore[call-overload]  # the streams are calls, too
    except grpc.RpcError as error:
        return Problem.from_error(error)
    raise AssertionError(f"it was not refused: {str(answer)[:300]!r}")


def refused(
    method: Callable[..., Any],
    request: Any,
    code: grpc.StatusCode,
    reason: str,
    *,
    says: str = "",
    timeout_s: float = CALL_S,
) -> Problem:
    """Have a call refused with a code and a reason, in words that a person can use.

    Args:
        method: A method of a stub.
        request: As for `problem_of`.
        code: That it must have.
        reason: That it must have.
        says: What the text must hold, such as the value at fault.
        timeout_s: Of the call.
    """
    problem = problem_of(method, request, timeout_s=timeout_s)
    assert (problem.code, problem.reason) == (code, reason), problem
    assert problem.domain == DOMAIN
    check_words(problem.message)
    assert says in problem.message, problem.message
    for violation in problem.violations:
        check_words(violation.description)
    return problem


def check_words(text: str) -> None:
    """Assert that a text is one short line for people, without our insides."""
    assert text
    assert text.isprintable()
    assert len(text.encode()) <= 1_000
    for inside in ("Traceback", "Error(", "grpc.", "sqlite", "swm_core", "object at 0x", ".py"):
        assert inside not in text, text
