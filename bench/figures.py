"""What a measurement gives: a value, the peer's value, and whether their ratio is good enough."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any


class Good(enum.StrEnum):
    """Which side of its limit a ratio has to be on."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """What was promised for one figure.

    Args:
        name: The figure's.
        good: On which side of the limit.
        ratio: The limit.
        promise: In words, for `--list`.
    """

    name: str
    good: Good
    ratio: float
    promise: str

    def figure(self, value: float, peer: float, unit: str) -> Figure:
        """What was measured, in `unit`, and the same of the peer."""
        return Figure(self, value, peer, unit)


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A promise and what was measured."""

    limit: Limit
    value: float
    peer: float
    unit: str

    @property
    def ratio(self) -> float:
        """The value in units of the peer's."""
        return self.value / self.peer

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        if self.limit.good is Good.AT_LEAST:
            return self.ratio >= self.limit.ratio
        return self.ratio <= self.limit.ratio

    def line(self) -> str:
        """One line for people, and for scripts that split at spaces."""
        return (
            f"{self.limit.name} ratio={self.ratio:.2f} limit={self.limit.ratio:g}"
            f" ({self.limit.good}; {_rounded(self.value)} {self.unit},"
            f" peer {_rounded(self.peer)} {self.unit}) {'ok' if self.is_met else 'MISSED'}"
        )

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.limit.name,
            "ratio": self.ratio,
            "limit": self.limit.ratio,
            "good": self.limit.good.value,
            "value": self.value,
            "peer": self.peer,
            "unit": self.unit,
            "ok": self.is_met,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Benchmark:
    """Figures that come out of one measurement.

    Args:
        limits: Of its figures.
        run: Measures them; is told whether it has to be short.
    """

    limits: tuple[Limit, ...]
    run: Callable[[bool], list[Figure]]


def _rounded(number: float) -> str:
    """Three digits, which is more than any of this is good for."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
