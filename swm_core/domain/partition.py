"""A partition as the core knows it: what was asked for, and where it is on its way."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

from swm_core.domain.failures import Failure
from swm_core.domain.states import PartitionState


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What nodes are set up with beside their flavor: jobs that need another can't have them."""

    image: str = ""
    """What they boot; empty: the site's default."""
    containers: bool = False
    """Whether they are for jobs in containers, and for no others."""
    storage: tuple[str, ...] = ()
    """Names of storage of the site, in order."""
    site_options: tuple[tuple[str, str], ...] = ()
    """Options of the site without its prefix, in order."""
    spot: bool = False
    """Whether they may be taken away."""


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionSpec:
    """What a site is asked for. Never changes under one partition id."""

    location: str = ""
    flavor: str = ""
    node_count: int = 1
    image: str = ""
    """What its nodes boot; empty: the site's default."""
    spot: bool = False
    containers: bool = False
    storage: tuple[str, ...] = ()
    site_options: tuple[tuple[str, str], ...] = ()
    disk_bytes: int = 0
    """For work folders, on each node; 0: what the flavor has."""
    spot_price_limit: Decimal | None = None
    """The most that an hour of a spot node may cost; None: as much as one that is not spot."""
    spot_currency: str = ""

    @property
    def setup(self) -> Setup:
        """What its nodes are set up with."""
        return Setup(self.image, self.containers, self.storage, self.site_options, self.spot)


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """A partition as it is now.

    A new value replaces it with every change; the store keeps the latest. Times are seconds since
    the epoch.
    """

    partition_id: str
    site: str
    owner: str
    """Whose jobs may run on it."""
    spec: PartitionSpec
    spec_fingerprint: str
    """Of the request as it was first sent, so that every repetition of it is the same request."""
    state: PartitionState
    create_time: float
    job_id: str = ""
    """The job that it was created for."""
    price_per_hour: Decimal | None = None
    """Of one node; None: not known."""
    currency: str = ""
    """ISO 4217 code; empty when there is no price."""
    ready_time: float | None = None
    delete_time: float | None = None
    """When the gate said that it is gone."""
    failure: Failure | None = None
    """Why it could not be created, or was lost."""
    text: str = ""
    """For people: what it is doing or waiting for."""
    delete_tries: int = 0
    """How often the site was asked in vain to delete it."""
    time_limit_s: int = 0
    """How long the jobs on it may run, for what it may still cost; 0: not known."""
    pauses: tuple[tuple[float, float | None], ...] = ()
    """When its nodes ceased to be billed, and when they were started again, if they were."""
    expired: bool = False
    """Whether its time has passed: what ran on it has ended."""
    served: tuple[str, ...] = ()
    """The jobs that came after the one that it was created for."""
    pooled: bool = False
    """Whether that one has left it to other jobs of its owner."""
    idle_since: float | None = None
    """Since when it waits for another job; None: it does not."""
    not_before: float = 0.0
    """The gate is not asked again before this time (backoff)."""
    revision: int = 0
    """Grows with every change that is stored."""

    @property
    def what(self) -> str:
        """What it is made of and where, for people: `small at site azure (westeurope)`."""
        place = f" ({self.spec.location})" if self.spec.location else ""
        return f"{self.spec.flavor} at site {self.site}{place}"

    @property
    def jobs(self) -> tuple[str, ...]:
        """All jobs that have, had, or are about to have a place on it."""
        return (self.job_id, *self.served) if self.job_id else self.served
