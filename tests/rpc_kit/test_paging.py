from __future__ import annotations

import base64

import grpc
import pytest

from rpc_kit.errors import Refusal
from rpc_kit.paging import page, page_of
from skyport.terminal.v1 import admin_pb2, job_pb2


def refusal_of(*arguments: object, size: int = 0, token: str = "") -> Refusal:
    with pytest.raises(Refusal) as raised:
        page(size, token, *arguments)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return raised.value


def test_zero_means_the_default_and_too_much_is_lowered() -> None:
    assert [page(size, "").size for size in (0, 1, 1_000, 1_001, 2**31 - 1)] == [
        100,
        1,
        1_000,
        1_000,
        1_000,
    ]
    assert page(0, "", default_size=7, max_size=9).size == 7
    assert page(10, "", default_size=7, max_size=9).size == 9


def test_a_negative_size_is_refused_by_name() -> None:
    refusal = refusal_of(size=-1)
    assert refusal.reason == "FIELD_OUT_OF_RANGE"
    assert refusal.violations[0].field == "page_size"


@pytest.mark.parametrize("position", ["j1", "0", "with \0 and ß", "x" * 5_000])
def test_a_token_continues_after_its_position(position: str) -> None:
    first = page(10, "", "ann", 3)
    assert first.after == ""
    assert page(20, first.token(position), "ann", 3).after == position


@pytest.mark.parametrize("other", [("bob", 3), ("ann", 4), ("ann",), (), ("ann", "3")])
def test_a_token_of_another_question_is_refused(other: tuple[object, ...]) -> None:
    token = page(10, "", "ann", 3).token("j1")
    refusal = refusal_of(*other, token=token)
    assert refusal.reason == "PAGE_TOKEN_INVALID"
    assert refusal.violations[0].field == "page_token"


@pytest.mark.parametrize("token", ["x", "####", "ÄÖ", "AAAA", "A" * 12, "A" * 10_000, "\0", "="])
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    assert refusal_of("ann", token=token).reason == "PAGE_TOKEN_INVALID"


def test_a_token_that_was_changed_is_refused() -> None:
    token = page(10, "", "ann").token("j1")
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    for index in range(len(raw)):
        changed = raw.copy()
        changed[index] ^= 1
        refusal_of("ann", token=base64.urlsafe_b64encode(changed).decode().rstrip("="))


def test_a_request_is_bound_by_all_its_other_fields() -> None:
    request = job_pb2.ListJobsRequest(page_size=3)
    token = page_of(request, "ann").token("j1")
    again = job_pb2.ListJobsRequest(page_size=50, page_token=token)
    assert page_of(again, "ann").after == "j1"
    assert page_of(again, "ann").size == 50
    assert again.page_token == token  # the request itself is left as it was
    for_others = admin_pb2.ListUsersRequest(page_token=token)
    for question, caller in ((again, "bob"), (for_others, "ann")):
        with pytest.raises(Refusal):
            page_of(question, caller)
