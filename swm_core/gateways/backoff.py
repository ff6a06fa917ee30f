"""How long to wait before asking again: short at first, doubling, with jitter, up to a limit."""

from __future__ import annotations

import random


class Backoff:
    """Waits in seconds. Jitter of a quarter keeps many askers from asking at once."""

    def __init__(self, first_s: float = 0.05, most_s: float = 30.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next(self, at_least_s: float | None = None) -> float:
        """The next wait.

        Args:
            at_least_s: What the other side asked for, as its RetryInfo.
        """
        wait_s = self._next_s * random.uniform(0.75, 1.25)  # noqa: S311  no secret  # nosec B311
        self._next_s = min(self._most_s, self._next_s * 2)
        return max(wait_s, at_least_s or 0.0)

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._next_s = self._first_s
