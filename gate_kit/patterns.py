"""Patterns of output files: `*`, `?`, `[…]` within a component, `**` for any number of them. Pure.

As in a shell, a wildcard at the beginning of a component does not match a dot, and what a pattern
matches, if it is a folder, stands for all that is below it, dots included.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from gate_kit.errors import path_invalid
from gate_kit.validation import path_mistake

_ANY_DEPTH = None
_WILD = frozenset("*?[")


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, component by component; None stands for `**`."""

    text: str
    parts: tuple[re.Pattern[str] | None, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it names one path, without wildcards."""
        return not _WILD & set(self.text)


def compile_pattern(text: str) -> Pattern:
    """The pattern that `text` is. A `/` at its end is allowed: it says that a folder is meant.

    Raises:
        Refusal: INVALID_ARGUMENT PATH_INVALID for what can't lie in a work folder.
    """
    trimmed = text.rstrip("/") if text != "/" else text
    while trimmed.startswith("./"):
        trimmed = trimmed[2:]
    if trimmed == ".":
        return Pattern(text, ())
    if mistake := path_mistake(trimmed):
        raise path_invalid(f'pattern "{text[:200]}" {mistake}', field="patterns")
    try:
        parts = tuple(
            _ANY_DEPTH if part == "**" else re.compile(_component(part), re.DOTALL)
            for part in trimmed.split("/")
        )
    except re.error:
        mistake = "has a range in [ ] that runs backwards"
        raise path_invalid(f'pattern "{text[:200]}" {mistake}', field="patterns") from None
    return Pattern(text, parts)


class Matcher:
    """Where several patterns stand at one folder of a tree, while it is walked from the top.

    Its states are (pattern, number of components matched so far).
    """

    def __init__(
        self, patterns: Sequence[Pattern], states: frozenset[tuple[int, int]] | None = None
    ) -> None:
        self._patterns = patterns
        start = frozenset((index, 0) for index in range(len(patterns)))
        self._states = self._closure(start if states is None else states)

    def enter(self, name: str) -> Matcher:
        """The matcher for the entry `name` of this folder."""
        after: set[tuple[int, int]] = set()
        for index, done in self._states:
            parts = self._patterns[index].parts
            if done == len(parts):
                continue
            part = parts[done]
            if part is _ANY_DEPTH:
                if not name.startswith("."):
                    after.add((index, done))
            elif part.fullmatch(name):
                after.add((index, done + 1))
        return Matcher(self._patterns, frozenset(after))

    @property
    def matched(self) -> frozenset[int]:
        """The patterns that match what was entered last."""
        return frozenset(
            index for index, done in self._states if done == len(self._patterns[index].parts)
        )

    @property
    def hopeless(self) -> bool:
        """Whether nothing below can match any more."""
        return all(done == len(self._patterns[index].parts) for index, done in self._states)

    def _closure(self, states: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Also the states behind a `**` that stands for no component at all."""
        found = set(states)
        waiting = list(states)
        while waiting:
            index, done = waiting.pop()
            parts = self._patterns[index].parts
            if done < len(parts) and parts[done] is _ANY_DEPTH and (index, done + 1) not in found:
                found.add((index, done + 1))
                waiting.append((index, done + 1))
        return frozenset(found)


def _component(part: str) -> str:
    """A regular expression for one component."""
    out = [] if part.startswith(".") else [r"(?!\.)"] if part[0] in _WILD else []
    # What stands between stars: each part of it matches one letter.
    between = [out]
    position = 0
    while position < len(part):
        letter = part[position]
        position += 1
        if letter == "*":
            if out or len(between) == 1:  # several in a row say no more than one
                out = []
                between.append(out)
        elif letter == "?":
            out.append("[^/]")
        elif letter == "[" and (end := _class_end(part, position)):
            body = part[position:end]
            position = end + 1
            negated = body[0] == "!"
            inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", body[1:] if negated else body)
            out.append(f"[{'^/' if negated else ''}{inner}]")
        else:
            out.append(re.escape(letter))
    if len(between) == 1:
        return "".join(out)
    first, *middle, last = map("".join, between)
    # What is found first after a star will do, whatever follows: without looking for others, a name
    # made for it can't hold up everybody for hours.
    return first + "".join(f"(?>[^/]*?{each})" for each in middle) + f"[^/]*{last}"


def _class_end(part: str, start: int) -> int:
    """Where the `]` of a class stands that begins at `start`; 0: there is none."""
    search = start
    if part[search : search + 1] == "!":
        search += 1
    # A `]` that comes first belongs to the class.
    return max(part.find("]", search + 1), 0)
