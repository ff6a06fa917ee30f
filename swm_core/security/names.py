"""Names that go into certificates, addresses and paths, so that few characters are left."""

from __future__ import annotations

import re
import secrets

_INSTALLATION = re.compile(r"[a-z0-9]{12}", re.ASCII)
_GATE = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
# At least one letter or digit: "." and ".." are folders.
_USER = re.compile(r"(?=[._-]*[a-z0-9])[a-z0-9._-]{1,32}", re.ASCII)

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_installation() -> str:
    """A random installation id: 12 characters, 62 bits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(12))


def is_installation(text: str) -> bool:
    """Whether `text` has the form of an installation id."""
    return _INSTALLATION.fullmatch(text) is not None


def is_gate_name(text: str) -> bool:
    """Whether a site or gate may be called `text`: it becomes a part of a DNS name."""
    return _GATE.fullmatch(text) is not None


def is_user_name(text: str) -> bool:
    """Whether a user may be called `text`: it becomes a part of a URI and of paths."""
    return _USER.fullmatch(text) is not None
