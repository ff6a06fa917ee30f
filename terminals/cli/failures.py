"""What a person sees of an error: one line that says what, and what to do."""

from __future__ import annotations

import click

from terminals.cli.words import plain
from terminals.client.errors import ClientError, InputsInvalid, RequestInvalid

_SHOWN = 20


class Refused(click.ClickException):
    """A command can't go on; the message is one line. Several lines are shown as they are."""


class ScriptRefused(Exception):
    """The core refused a script.

    Attributes:
        name: The script's file name, as the user gave it.
        error: What the core said.
    """

    def __init__(self, name: str, error: RequestInvalid) -> None:
        super().__init__(str(error))
        self.name = name
        self.error = error


def report(error: Exception) -> int:
    """Tell on standard error why a command failed; returns the exit code."""
    for line in lines_of(error):
        click.echo(line, err=True)
    return error.exit_code if isinstance(error, click.ClickException) else 1


def lines_of(error: Exception) -> list[str]:
    """The lines that tell of an error."""
    match error:
        case ScriptRefused(error=refused) if refused.violations:
            return script_lines(error.name, refused)
        case ScriptRefused(error=refused):
            return [f"swm: {error.name}: {plain(str(refused))}"]
        case InputsInvalid(problems=problems):
            shown = [f"swm: input {plain(problem)}" for problem in problems[:_SHOWN]]
            more = len(problems) - len(shown)
            return shown + ([f"swm: and {more} more"] if more else [])
        case RequestInvalid(violations=violations) if len(violations) > 1:
            return [f"swm: {plain(each.field)}: {plain(each.description)}" for each in violations]
        case click.ClickException():
            return [f"swm: {error.format_message()}"]
        case ClientError():
            return [f"swm: {plain(str(error))}"]
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return [f"swm: {plain(where)}{error.strerror or error}"]
        case UnicodeEncodeError():
            # Not quoted: nobody knows here what it is.
            return ["swm: what was typed is not UTF-8, and can't be sent; type or rename it so"]
    text = plain(f"{type(error).__name__}: {error}")
    return [f"swm: this should not have happened ({text}); run it again with SWM_DEBUG=1"]


def script_lines(name: str, error: RequestInvalid) -> list[str]:
    """The mistakes of a script, as `FILE:LINE: message`."""
    lines = []
    for violation in error.violations:
        place, _, line = violation.field.partition(":")
        text = plain(violation.description)
        if place == "script" and line not in ("", "0"):
            lines.append(f"{name}:{line}: {text}")
        elif place == "script" or not place:
            lines.append(f"{name}: {text}")
        else:
            # The core begins its text with the directive that the option stands for.
            lines.append(f"swm: {text}")
    return lines
