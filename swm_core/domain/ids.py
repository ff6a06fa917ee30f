"""Identifiers: chosen by an object's creator, globally unique, `[a-z0-9-]{1,40}`, never reused."""

from __future__ import annotations

import re
import secrets

ID_PATTERN = re.compile(r"[a-z0-9-]{1,40}")

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to mistake
_LENGTH = 13  # 65 random bits: a billion ids collide with a chance of about 1 in 70


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id."""
    return ID_PATTERN.fullmatch(text) is not None


def new_id() -> str:
    """A fresh random id of 13 characters that starts with a letter."""
    number = secrets.randbits(5 * _LENGTH)
    letters = [_ALPHABET[10 + (number & 31) % 22]]
    for _ in range(_LENGTH - 1):
        number >>= 5
        letters.append(_ALPHABET[number & 31])
    return "".join(letters)
