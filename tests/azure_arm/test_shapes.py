"""The stand-in has the shapes of Azure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.testbed.azure_arm.shapes import differences, shape_of

ROOT = Path(__file__).parents[2]


def test_nothing_that_was_recorded_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.testbed.azure_arm.shapes", "check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 missing" in done.stdout


def test_what_is_missing_is_noticed() -> None:
    wanted = shape_of({"a": [{"b": 1, "c": "x"}], "tags": {"any": "thing"}, "d": None})
    same = {"a": [{"b": 2.5, "c": ""}, {"b": 1, "c": ""}], "tags": {"other": ""}, "d": None}
    assert list(differences(wanted, shape_of(same))) == []
    for found, text in (
        ({"a": [{"b": 1}], "tags": {}, "d": None}, "a[].c is missing"),
        ({"a": [{"b": "1", "c": ""}], "tags": {}, "d": None}, "a[].b is string, and not number"),
        ({"a": [], "tags": {}, "d": None}, "a is empty"),
        ({"a": {}, "tags": {}, "d": None}, "a is {}, and not a list"),
    ):
        assert (True, text) in list(differences(wanted, shape_of(found)))
    more = list(differences(wanted, shape_of({**same, "e": 1})))
    assert more == [(False, "e is more than was recorded")]
