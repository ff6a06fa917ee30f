"""What a look at a site found: verdicts, and how they are told to people and to programs."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 10_000
"""Nothing is cut where no terminal is."""


class State(enum.StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    """Jobs run, but some will be disappointed."""
    FAILED = "failed"
    """It has to be mended before jobs can run, or run as the configuration promises."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


STYLES = {
    State.OK: "",
    State.WARNING: "yellow",
    State.FAILED: "bold red",
    State.UNKNOWN: "dim",
}
"""How `rich` draws them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that was looked at."""

    check: str
    state: State
    value: str = ""
    """What was found, short."""
    text: str = ""
    """What is wrong."""
    mend: str = ""
    """The command that mends it."""


def json_line(verdict: Verdict, **about: str) -> str:
    """An object for programs.

    Args:
        verdict: What was found.
        about: Of what; stands before it.
    """
    return json.dumps(
        {
            **about,
            "check": verdict.check,
            "state": verdict.state.value,
            "value": verdict.value,
            "text": verdict.text,
            "mend": verdict.mend,
        }
    )


def console() -> Console:
    """Where people read it. What draws is imported late: a gate that serves needs it not."""
    from rich.console import Console

    console = Console(highlight=False)
    if not sys.stdout.isatty():
        console.width = _WIDE
    return console


def show_noted(console: Console, verdict: Verdict, subject: str) -> None:
    """Print one line that says what is not well, and what mends it.

    Args:
        console: Where.
        verdict: What was found.
        subject: What it is about, before the colon.
    """
    from rich.text import Text

    line = Text()
    line.append(verdict.state.value.upper(), STYLES[verdict.state])
    line.append(f"  {subject}: {one_line(verdict.text)}")
    if verdict.mend:
        line.append(f"; mend: {one_line(verdict.mend)}")
    # Not wrapped by us: a command is to be copied whole.
    console.print(line, soft_wrap=True)


def summary(what: str, failed: int, warned: int) -> str:
    """The last line, as `3 hosts looked at, 1 to be mended`."""
    parts = [f"{what} looked at"]
    if failed:
        parts.append(f"{failed} to be mended")
    if warned:
        parts.append(f"{warned} {'warning' if warned == 1 else 'warnings'}")
    if not failed and not warned:
        parts.append("all is well")
    return ", ".join(parts)


def one_line(text: str) -> str:
    """What a site says, without what could move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
