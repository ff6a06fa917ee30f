"""docs/job-script.md and the parser know the same directives, and its examples are true."""

import re
from pathlib import Path

import pytest

from swm_core.domain.job import JobSpec
from swm_core.jobscript import KNOWN_NAMES, NOT_SERVED, ScriptErrors, parse

TEXT = (Path(__file__).parents[3] / "docs" / "job-script.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z-]+)`(?: \(`([a-z_-]+)`\))? \|(.*)\|$", re.MULTILINE)
DIRECTIVES, _, NOT_SERVED_TEXT = TEXT.partition("### Not served yet")
ROWS = ROW.findall(DIRECTIVES)
EXAMPLES = [
    (name, value)
    for name, _, cells in ROWS
    for value in re.findall(r"`#SWM ([^`]+)`", cells.rsplit("|", 1)[1])
]
SCRIPTS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_directive_is_in_the_reference_and_no_other() -> None:
    served = {name for row in ROWS for name in row[:2] if name}
    assert served == set(KNOWN_NAMES) - set(NOT_SERVED)
    not_served = {row[0] for row in ROW.findall(NOT_SERVED_TEXT.partition("## Files")[0])}
    assert not_served == set(NOT_SERVED)


def test_every_directive_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == {row[0] for row in ROWS}


@pytest.mark.parametrize(("name", "directive"), EXAMPLES)
def test_an_example_is_taken_and_says_something(name: str, directive: str) -> None:
    got = parse(f"#!/bin/sh\n#SWM {directive}\ntrue\n".encode())
    assert directive.startswith(f"{name} ")
    assert got.spec != JobSpec()


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_script_of_the_reference_is_taken(script: str) -> None:
    got = parse(script.encode())
    if script.startswith("#!"):
        assert got.warnings == ()


def test_what_the_reference_says_is_refused_is_refused() -> None:
    with pytest.raises(ScriptErrors, match="no comment"):
        parse(b"#!/bin/sh\n#SWM nodes 2  # both\n")


@pytest.mark.parametrize("default", ["stdout.log", "stderr.log"])
def test_defaults_are_those_of_the_domain(default: str) -> None:
    assert default in (JobSpec().stdout, JobSpec().stderr)
    assert f"| `{default}` |" in TEXT
