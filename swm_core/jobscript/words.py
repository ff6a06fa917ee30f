"""Shell words: how a directive's list is split. As `shlex.split`, but in linear time."""

from __future__ import annotations

import re

_PIECE = re.compile(
    r"""
      (?P<blank>[ \t]+)
    | (?P<plain>[^ \t'"\\]+)
    | '(?P<single>[^']*)'
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | \\(?P<escaped>.)
    """,
    re.VERBOSE | re.DOTALL,
)
# Within double quotes a backslash stays one, unless it stands before a quote or another backslash.
_DOUBLE_ESCAPE = re.compile(r'\\(["\\])')


def split_words(text: str) -> list[str]:
    """The words of one line, without their quotes. Nothing is expanded, and `#` begins no comment.

    Raises:
        ValueError: A quote is not closed, or the line ends in a backslash; the message says which.
    """
    if "'" not in text and '"' not in text and "\\" not in text:
        # str.split() also splits at blanks that are none to a shell, as U+00A0.
        return (
            text.split() if text.isascii() else [word for word in re.split("[ \t]+", text) if word]
        )
    return _split_quoted(text)


def _split_quoted(text: str) -> list[str]:
    words: list[str] = []
    pieces: list[str] = []
    inside = False  # of a word; not the same as having pieces, for '' is a word too
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:
            raise ValueError(_unfinished(text[position]))
        position = piece.end()
        kind = piece.lastgroup or ""
        if kind == "blank":
            if inside:
                words.append("".join(pieces))
                pieces.clear()
                inside = False
            continue
        part = piece[kind]
        pieces.append(_DOUBLE_ESCAPE.sub(r"\1", part) if kind == "double" else part)
        inside = True
    if inside:
        words.append("".join(pieces))
    return words


def _unfinished(char: str) -> str:
    if char == "\\":
        return (
            "it ends in a backslash, but a directive cannot go on in the next line; repeat the "
            "directive there"
        )
    name = "single" if char == "'" else "double"
    return (
        f"a {name} quote is not closed; close it, or put a backslash before it if it is part of a "
        "name"
    )
