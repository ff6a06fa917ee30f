"""What others say for people, made fit to be stored, logged and shown."""

from __future__ import annotations

_MOST = 1_000


def words(text: str) -> str:
    """`text` as one line of at most 1,000 characters, without control characters."""
    if text.isprintable() and len(text) <= _MOST:
        return text
    line = " ".join(text[: 4 * _MOST].split())
    line = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
