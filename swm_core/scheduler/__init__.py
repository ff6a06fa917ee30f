"""Which job goes where, now: a pure function of what is queued, what sites have, and the time.

`schedule` decides for the whole queue, and `schedule_in_steps` does so with pauses; `feasible` and
`candidates` look at one specification before it is queued, `allocate` packs one job onto one
partition. Nothing here does I/O, reads a clock or keeps anything between calls.
"""

from swm_core.scheduler.catalog import FlavorCatalog
from swm_core.scheduler.explain import Problem
from swm_core.scheduler.funds import Budget, Policy
from swm_core.scheduler.packing import allocate
from swm_core.scheduler.placing import schedule, schedule_in_steps
from swm_core.scheduler.survey import Candidate, candidates, feasible
from swm_core.scheduler.values import (
    Create,
    Decision,
    Enqueue,
    Exclusion,
    FlavorView,
    NodeView,
    PartitionKind,
    PartitionLimits,
    PartitionView,
    Place,
    QueuedJob,
    Reject,
    SiteView,
    Wait,
)

__all__ = [
    "Budget",
    "Candidate",
    "Create",
    "Decision",
    "Enqueue",
    "Exclusion",
    "FlavorCatalog",
    "FlavorView",
    "NodeView",
    "PartitionKind",
    "PartitionLimits",
    "PartitionView",
    "Place",
    "Policy",
    "Problem",
    "QueuedJob",
    "Reject",
    "SiteView",
    "Wait",
    "allocate",
    "candidates",
    "feasible",
    "schedule",
    "schedule_in_steps",
]
