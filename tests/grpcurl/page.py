"""Reads docs/grpcurl.md: its commands, in order, and what it says of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

_BLOCK = re.compile(
    r"""
    (?:^<!--\ (?P<each>each\ )?exit\ status:\ (?P<status>\d+)\ -->\n)?
    ^```sh\n
    (?P<script>.*?)
    ^```\n
    (?:\n→\ (?P<expected>.*?)(?:\n\n|\Z))?
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SENTENCE_END = re.compile(r"[.?!]\s")
_CODE = re.compile(r"`([^`]+)`")
_METHOD = re.compile(r"\b(skyport\.(?:gate|terminal)\.v1\.\w+)/(\w+)\b")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Commands that are copied at once.

    Attributes:
        line: Where they stand in the page.
        script: For bash.
        status: The exit status of the last of them; those before it succeed.
        shown: What the page says that they print.
    """

    line: int
    script: str
    status: int
    shown: tuple[str, ...]

    @property
    def methods(self) -> set[tuple[str, str]]:
        """The calls that it makes: service and method."""
        return {(service, method) for service, method in _METHOD.findall(self.script)}


class Page:
    """The page, read from a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = path.read_text()
        self.steps = tuple(self._read())

    @property
    def gate_configuration(self) -> str:
        """The configuration of the site `demo`, as TOML."""
        (found,) = _TOML.findall(self._text)
        return str(found)

    def _read(self) -> Iterator[Step]:
        for block in _BLOCK.finditer(self._text):
            line = self._text.count("\n", 0, block.start("script")) + 1
            status = int(block["status"] or 0)
            # What comes after the first sentence explains; it need not be in this very output.
            told = _SENTENCE_END.split(block["expected"] or "", maxsplit=1)[0]
            shown = tuple(_CODE.findall(told))
            if not block["each"]:
                yield Step(line, block["script"], status, shown)
                continue
            for number, command in enumerate(block["script"].splitlines()):
                yield Step(line + number, f"{command}\n", status, shown)
