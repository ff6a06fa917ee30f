"""Cores for the tests of a module, and what a test holds scripts with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.latch import Latch


@pytest.fixture
def latch(tmp_path: Path) -> Iterator[Callable[[], Latch]]:
    """Makes latches, as many as a test needs."""
    made: list[Latch] = []
    numbers = itertools.count()

    def make() -> Latch:
        made.append(Latch(tmp_path / f"latch{next(numbers)}"))
        return made[-1]

    yield make
    for each in made:
        each.close()
