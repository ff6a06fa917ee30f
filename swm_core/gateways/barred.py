"""Nodes on which nothing new is placed, since their gate said that they are not what they were.

HOST_KEY_MISMATCH is about the machine: it counts for everybody. SITE_CHANGED is about a root, and
roots are an owner's own: it counts for that owner alone, or whoever removes what is theirs would
close the node to all.

Nothing of it is stored. Attempts that are there already ask again, at most a minute and a half
apart, so what is still so is said again before it is forgotten here.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

from skyport.gate.v1 import types_pb2

_FORGOTTEN_AFTER_S = 120.0


class _Place(NamedTuple):
    partition_id: str
    node: str
    owner: str


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One node, or all nodes of a partition that share a root."""

    partition_id: str
    node: str
    """Empty: all of the partition."""
    owner: str
    """To whom the gate said it."""
    everyone: bool
    """Whether nobody's jobs are placed there; otherwise only its owner's are not."""
    why: str
    """For people."""
    until: float
    """When it is forgotten, unless it is said again; seconds since the epoch."""

    def keeps_out(self, owner: str) -> bool:
        """Whether jobs of `owner` are not placed there."""
        return self.everyone or owner == self.owner


class BarredNodes:
    """Those of one site.

    Args:
        clock: Tells the time in seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bars: dict[_Place, Bar] = {}

    def bar(self, ref: types_pb2.JobRef, node: str, why: str, *, everyone: bool) -> None:
        """A call about an attempt was refused.

        Args:
            ref: Which attempt.
            node: The one that the gate named. If it is none that the core has chosen, all of the
                partition is meant: its nodes share a root, or the site's queue chooses them.
            why: What the gate said.
            everyone: Whether it is about the machine, and not about a root of the owner.
        """
        place = _Place(ref.partition_id, node if node in ref.nodes else "", ref.owner)
        self._bars[place] = Bar(*place, everyone, why, self._clock() + _FORGOTTEN_AFTER_S)

    def lift(self, ref: types_pb2.JobRef) -> bool:
        """A call about an attempt went through; returns whether that opens anything.

        With several nodes it is not known which of them was asked.
        """
        nodes = ["", *ref.nodes] if len(ref.nodes) <= 1 else [""]
        lifted = [self._bars.pop(_Place(ref.partition_id, node, ref.owner), None) for node in nodes]
        return any(lifted)

    def clear_node(self, partition_id: str, node: str) -> None:
        """The node is told to be in another state: what was said of it is to be asked anew."""
        for place in [each for each in self._bars if each[:2] == (partition_id, node)]:
            del self._bars[place]

    def clear(self) -> None:
        """What was said does not count any more."""
        self._bars.clear()

    def now(self) -> list[Bar]:
        """Those that count now."""
        if self._bars:
            now = self._clock()
            # What lies so far ahead was set by a clock that was wrong.
            live = {
                place: bar
                for place, bar in self._bars.items()
                if now < bar.until <= now + _FORGOTTEN_AFTER_S
            }
            self._bars = live
        return list(self._bars.values())
