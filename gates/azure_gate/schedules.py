"""The ends of nodes: Azure deallocates them by itself when nobody has moved the time on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from gates.azure_gate.cloud import Cloud
from gates.azure_gate.partitions import Known

LONGEST_S = 86_400
"""A schedule is a time of day."""

_MINUTE_S = 60
_SAFETY_S = 300
"""One that is almost a day ahead could be taken for one that is due now."""


class Schedules:
    """Sets the ends of nodes.

    Args:
        cloud: Where.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def set(self, known: Known, nodes: Sequence[str]) -> None:
        """Have Azure deallocate nodes when their partition's time has come.

        Raises:
            AzureProblem: It does not take that.
        """
        expires_s = known.tags.expires_s
        if not expires_s:
            return
        await asyncio.gather(
            *(
                self._cloud.put_schedule(known.group.name, known.location, node, expires_s)
                for node in nodes
            )
        )


def end(wanted_s: float) -> int:
    """The minute at which Azure ends what is to end at `wanted_s`, both since 1970."""
    now = time.time()
    latest = now + LONGEST_S - _SAFETY_S
    # Not before it was wanted, if that can be; and a minute that has almost come is tomorrow's.
    whole = math.ceil(max(wanted_s, now + _MINUTE_S) / _MINUTE_S) * _MINUTE_S
    return whole if whole <= latest else int(latest) // _MINUTE_S * _MINUTE_S
