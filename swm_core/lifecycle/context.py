"""What every driver of the lifecycle works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from swm_core.config import Deadlines, Limits, Ports
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.live import LiveJobs, LivePartitions
from swm_core.spool import Spool
from swm_core.store import Store


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The parts of a running core that jobs and partitions go through."""

    installation: str
    generation: str
    """The store generation of this start of the core."""
    gates: Mapping[str, Gate]
    jobs: LiveJobs
    partitions: LivePartitions
    store: Store
    spool: Spool
    deadlines: Deadlines
    limits: Limits
    ports: Ports
    clock: Callable[[], float]
    """Seconds since the epoch."""
