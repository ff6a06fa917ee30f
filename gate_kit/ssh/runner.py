"""The script that supervises one attempt on a node, for all gates that start scripts themselves."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from importlib import resources


@dataclasses.dataclass(frozen=True, slots=True)
class Runner:
    """One version of the script."""

    text: bytes
    name: str
    """What this version is called where it lies.

    Each has a name of its own: shells read as they go, so one that is in use must not change.
    """


@functools.cache
def runner() -> Runner:
    """The version that this gate starts."""
    text = resources.files(__package__).joinpath("scripts", "runner.sh").read_bytes()
    return Runner(text, f"runner-{hashlib.sha256(text).hexdigest()[:12]}.sh")
