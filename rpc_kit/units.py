"""Sizes and durations as people write them, and back. Pure; shared by scripts and configuration."""

from __future__ import annotations

import re
from typing import NewType

Bytes = NewType("Bytes", int)
"""A size in bytes, written with a binary suffix as `100G`."""
Seconds = NewType("Seconds", int)
"""A duration in whole seconds, written as `90`, `MM:SS`, `HH:MM:SS` or `1d2h30m`."""

MAX_BYTES = 2**63 - 1
MAX_SECONDS = 100 * 366 * 86_400
"""A hundred years: what is longer is a typing mistake, and overflows calendars."""

_SUFFIXES = "KMGTP"
_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?([KMGTP]?)", re.ASCII | re.IGNORECASE)
_CLOCK = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]{2})", re.ASCII)
_PARTS = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", re.ASCII)
_PART_SECONDS = (86_400, 3_600, 60, 1)


def parse_size(text: str) -> Bytes:
    """The bytes that `512`, `100G` or `1.5t` stand for (K M G T P are powers of 1024).

    Raises:
        ValueError: It is not a size; the message says what one looks like.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found or len(text) > 40 or (found[2] and not found[3]):
        raise ValueError(
            f'{_quoted(text)} is not a size; write bytes, or a number with K M G T, as "100G"'
        )
    unit = 1024 ** (_SUFFIXES.index(found[3].upper()) + 1) if found[3] else 1
    fraction = found[2] or ""
    size = int(found[1] + fraction) * unit // 10 ** len(fraction)
    if size > MAX_BYTES:
        raise ValueError(f"{_quoted(text)} is more than any disk holds")
    return Bytes(size)


def format_size(size_bytes: int) -> str:
    """A size for people, in the form that `parse_size` reads, as `100G` or `1.5T`.

    It is exact where one decimal or less says it all, otherwise rounded to one decimal.
    """
    value, suffix = float(size_bytes), ""
    for larger in _SUFFIXES:
        # 1023.95 would be shown as 1024.0 of the smaller unit.
        if abs(value) < 1023.95 or (not suffix and abs(value) < 1024):
            break
        value, suffix = value / 1024, larger
    shown = f"{value:.1f}".removesuffix(".0")
    return shown + suffix


def parse_duration(text: str) -> Seconds:
    """The seconds that `90`, `1:30`, `2:00:00` or `1d2h30m` stand for.

    Raises:
        ValueError: It is not a duration; the message says what one looks like.
    """
    trimmed = text.strip()
    seconds = _seconds(trimmed) if len(trimmed) <= 40 else None
    if seconds is None:
        raise ValueError(
            f'{_quoted(text)} is not a duration; write seconds, MM:SS, HH:MM:SS, or as "1d2h30m"'
        )
    if seconds > MAX_SECONDS:
        raise ValueError(f"{_quoted(text)} is more than a hundred years")
    return Seconds(seconds)


def _seconds(text: str) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        if seconds > 59 or (clock[1] and (minutes > 59 or len(clock[2]) != 2)):
            return None
        return hours * 3_600 + minutes * 60 + seconds
    if text and (parts := _PARTS.fullmatch(text.lower())):
        return sum(
            int(part or 0) * unit for part, unit in zip(parts.groups(), _PART_SECONDS, strict=True)
        )
    return None


def format_duration(seconds: int) -> str:
    """Whole seconds in the form that `parse_duration` reads, as `1d2h30m`; zero is `0s`."""
    shown = ""
    rest = abs(seconds)
    for unit, letter in zip(_PART_SECONDS, "dhms", strict=True):
        count, rest = divmod(rest, unit)
        if count:
            shown += f"{count}{letter}"
    return ("-" if seconds < 0 else "") + (shown or "0s")


def _quoted(text: str) -> str:
    shown = text if len(text) <= 40 else text[:40] + "…"
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)
    return f'"{shown}"'
