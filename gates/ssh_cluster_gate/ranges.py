"""Host names in ranges: `node[1-8]`, `gpu[01-04,07]`, `rack[1-2]-[a,b]`. Pure."""

from __future__ import annotations

import itertools
import re

MOST_NAMES = 4096
"""Of one pattern: more is a typing mistake, as [1-99999]."""

_PARTS = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)|(.)", re.ASCII | re.DOTALL)
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._]+", re.ASCII)


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, in its order; a name without brackets is itself.

    In brackets stand numbers, ranges of numbers and words, with commas between them. `01-10` keeps
    the zeros: all of its numbers have as many digits as the first.

    Raises:
        ValueError: It is none, or stands for too many; the text continues a sentence that begins
            with the pattern.
    """
    choices: list[list[str]] = []
    total = 1
    for found in _PARTS.finditer(pattern):
        if found[3]:
            raise ValueError("has a bracket without its other half")
        choice = [found[2]] if found[2] else _bracket(found[1])
        total *= len(choice)
        if total > MOST_NAMES:
            raise ValueError(f"stands for more than {MOST_NAMES} hosts")
        choices.append(choice)
    if not choices:
        raise ValueError("is empty")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _bracket(inside: str) -> list[str]:
    names: list[str] = []
    for part in inside.split(","):
        numbers = _RANGE.fullmatch(part.strip())
        if numbers is None:
            if not _WORD.fullmatch(part.strip()):
                raise ValueError(f'has "{part}" in its brackets, which is no number, range or word')
            names.append(part.strip())
            continue
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise ValueError(f"has the range {part.strip()}, which runs backwards")
        if last - first >= MOST_NAMES:
            raise ValueError(f"stands for more than {MOST_NAMES} hosts")
        names += [f"{number:0{len(numbers[1])}}" for number in range(first, last + 1)]
    return names
