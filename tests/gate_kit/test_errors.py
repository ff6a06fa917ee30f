"""The errors that gates raise are those of the specification, code by code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from gate_kit import Refusal, errors, job_status, validation
from skyport.gate.v1 import types_pb2

_README = Path(__file__).parents[2] / "protos" / "README.md"
_ROW = re.compile(r"^\| [^|]+ \| ([A-Z_]+) \| `([A-Z_]+)`(?:, `([A-Z_]+)`)? \|", re.MULTILINE)
_VALUES: dict[str, Any] = {
    "ref": types_pb2.JobRef(job_id="j", attempt=1),
    "capability": types_pb2.CAPABILITY_SPOT,
    "port": 80,
    "expected": 7,
    "sha256": b"\0" * 32,
    "roots": ["/tmp"],
}
# Made by the server itself, or only written out as FIELD_* and lists.
_ELSEWHERE = {"INTERNAL", "PAGE_TOKEN_INVALID"}


def _specified() -> dict[str, str]:
    """The code of each reason of the Gate API."""
    text = _README.read_text()
    table = text[text.index("## Reasons of the Gate API") : text.index("## Idempotency")]
    return {reason: code for code, *reasons in _ROW.findall(table) for reason in reasons if reason}


def _makers() -> list[Any]:
    return [
        getattr(errors, name) for name in errors.__all__ if name.islower() and name != "invalid"
    ]


def _made(maker: Any) -> Refusal:
    needed = [
        name
        for name, parameter in inspect.signature(maker).parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    made = maker(**{name: _VALUES.get(name, "x") for name in needed})
    assert isinstance(made, Refusal)
    return made


@pytest.mark.parametrize("maker", _makers(), ids=lambda maker: maker.__name__)
def test_each_error_has_the_code_of_the_specification(maker: Any) -> None:
    made = _made(maker)
    assert _specified()[made.reason] == made.code.name


def test_every_reason_of_the_specification_can_be_raised() -> None:
    makes = {_made(maker).reason for maker in _makers()}
    fields = {reason for reason in _specified() if reason.startswith("FIELD_")}
    assert fields == {"FIELD_REQUIRED", "FIELD_MALFORMED", "FIELD_OUT_OF_RANGE"}
    source = inspect.getsource(validation)
    assert all(reason in source for reason in fields)
    assert _specified().keys() - makes - fields == _ELSEWHERE


def test_attempts_are_tried_again_for_the_reasons_of_the_specification() -> None:
    _, _, rest = _README.read_text().partition("**Failure reasons of attempts**")
    table, _, _ = rest.partition("\n\nA script")
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|.*\| (true|false)[^|]* \|$", table, re.MULTILINE)
    said = {name.strip("` "): told == "true" for row, told in rows for name in row.split(",")}
    assert len(said) == 11
    assert said == {reason: job_status.failure(reason).retryable for reason in said}
