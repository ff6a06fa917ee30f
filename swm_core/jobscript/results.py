"""What comes out of reading a script: a specification with warnings, or all of its mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from swm_core.domain.job import JobSpec


@dataclasses.dataclass(frozen=True, slots=True)
class ScriptWarning:
    """A remark that does not stop the job. `line` counts from 1; 0 means the script as a whole."""

    line: int
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class ScriptError:
    """One mistake: where, in which directive, which kind (contract) and in words for people.

    `line` counts from 1; 0 means the script as a whole, or the request beside it. `directive` is as
    the user wrote it, empty where the mistake is in no directive.
    """

    line: int
    directive: str
    reason: str
    message: str

    @property
    def text(self) -> str:
        """What is wrong, for a place where the line is told already."""
        return f"{self.directive}: {self.message}" if self.directive else self.message

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class ScriptErrors(Exception):
    """A script is refused. `errors` holds every mistake that was found, by line; at least one."""

    def __init__(self, errors: Iterable[ScriptError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda error: error.line))
        super().__init__("\n".join(map(str, self.errors)))


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedScript:
    """A script's meaning. `lines` maps a directive's proper name to the line that first has it."""

    spec: JobSpec
    warnings: tuple[ScriptWarning, ...] = ()
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
