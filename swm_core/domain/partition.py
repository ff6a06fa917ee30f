"""A partition as the core knows it: what was asked for, and where it is on its way."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

from swm_core.domain.failures import Failure
from swm_core.domain.states import PartitionState


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionSpec:
    """What a site is asked for. Never changes under one partition id."""

    location: str = ""
    flavor: str = ""
    node_count: int = 1
    image: str = ""
    """What its nodes boot; empty: the site's default."""
    spot: bool = False


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
    not_before: float = 0.0
    """The gate is not asked again before this time (backoff)."""
    revision: int = 0
    """Grows with every change that is stored."""
