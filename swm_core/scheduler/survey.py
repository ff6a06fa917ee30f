"""What a site could give to a job at all, whatever is in use now; and why nothing, if so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from decimal import Decimal

from swm_core.domain.job import JobSpec
from swm_core.scheduler import funds
from swm_core.scheduler.capacity import can_hold, class_can_hold
from swm_core.scheduler.catalog import PriceKey, price_key
from swm_core.scheduler.demand import Demand, demand_of
from swm_core.scheduler.explain import (
    Problem,
    explain,
    explain_account,
    explain_capabilities,
    site_missing,
    weigh,
)
from swm_core.scheduler.funds import Policy, Price
from swm_core.scheduler.values import (
    FlavorView,
    PartitionKind,
    PartitionView,
    SiteView,
)

_MAX_CANDIDATES = 50

FREE = Policy()
"""Nothing was decided about money."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A place for a job. `price_per_hour` is of one node: None is unknown, zero costs nothing."""

    site: str
    partition_id: str = ""
    location: str = ""
    flavor: str = ""
    price_per_hour: Decimal | None = None
    currency: str = ""
    spot: bool = False
    """Whether its nodes may be taken away; the price is then that of such nodes."""
    time_limit_s: int = 0
    """Where the job names none: what would limit it there; 0: nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """The places of one site that could take a job."""

    site: SiteView
    statics: tuple[PartitionView, ...] = ()
    queues: tuple[PartitionView, ...] = ()
    creatable: tuple[FlavorView, ...] = ()
    """Best first."""
    too_dear: tuple[str, ...] = ()
    """Why others that could be created may not be paid, for people."""

    @property
    def possible(self) -> bool:
        """Whether the site has a place for the job, perhaps not now, as far as is known."""
        return bool(self.statics or self.queues or self.creatable or not self.site.inventory_known)


def feasible(
    spec: JobSpec, sites: Iterable[SiteView], policy: Policy = FREE, owner: str = ""
) -> list[Problem]:
    """Why such a job can never run; empty: it can, or too little is known of a site yet."""
    demand = demand_of(spec)
    sites = list(sites)
    if missing := site_missing(demand, sites):
        return [missing]
    surveys = [survey(demand, site, policy, owner) for site in relevant(demand, sites)]
    return problems_of(demand, surveys, policy, owner)


def candidates(
    spec: JobSpec,
    sites: Iterable[SiteView],
    limit: int = _MAX_CANDIDATES,
    *,
    policy: Policy = FREE,
    owner: str = "",
) -> list[Candidate]:
    """Where a job of this specification could go now, best first, at most `limit` places.

    What costs nothing comes first, the emptiest first; then what a site's own queue takes; then
    what has to be created, by price. Sites that are not ready or drained are left out.
    """
    demand = demand_of(spec)
    surveys = [
        survey(demand, site, policy, owner)
        for site in relevant(demand, list(sites))
        if site.ready and not site.drained
    ]
    statics = sorted(
        ((each.site.name, part) for each in surveys for part in each.statics),
        key=lambda place: -sum(node.free_cpus for node in place[1].nodes if node.available),
    )
    free = [
        Candidate(site, part.partition_id, "", _flavor_of(part, demand), Decimal(0))
        for site, part in statics
    ]
    queued = [
        Candidate(each.site.name, part.partition_id, "", _flavor_of(part, demand), Decimal(0))
        for each in surveys
        for part in each.queues
    ]
    created: list[tuple[PriceKey, Candidate]] = [
        (
            price_key(flavor),
            Candidate(
                site=each.site.name,
                location=flavor.location,
                flavor=flavor.name,
                price_per_hour=flavor.price_per_hour,
                currency=flavor.currency,
                spot=demand.spot,
                time_limit_s=policy.time_limit_s(demand, flavor.price_per_hour),
            ),
        )
        for each in surveys
        for flavor in each.creatable[:limit]
    ]
    created.sort(key=lambda entry: entry[0])
    return [*free, *queued, *(candidate for _, candidate in created)][:limit]


def relevant(demand: Demand, sites: Sequence[SiteView]) -> list[SiteView]:
    """The sites that a job may go to as far as it names one."""
    return [site for site in sites if not demand.site or site.name == demand.site]


def survey(demand: Demand, site: SiteView, policy: Policy = FREE, owner: str = "") -> Survey:
    """What the site could give to a job of `owner`, whatever is in use or was spent by now."""
    if not site.inventory_known:
        return Survey(site)
    if not site.capabilities.issuperset(demand.capabilities):
        return Survey(site)
    if site.unknown_options(demand.options):
        return Survey(site)
    fitting = (
        []
        if demand.cloud_image or is_kept_out(site, owner, policy)
        else [part for part in _partitions(demand, site) if can_hold(part, demand, site)]
    )
    may_create = (
        not demand.partition
        and "DYNAMIC_PARTITIONS" in site.capabilities
        and site.boots(demand.cloud_image)
    )
    affordable: list[FlavorView] = []
    too_dear: list[str] = []
    if may_create:
        creatable = site.flavors.creatable(demand)
        caps = funds.caps_of(demand, owner, site.name, policy)
        if caps:
            for flavor in creatable:
                what = f"{flavor.name} at site {site.name}"
                price = Price(flavor.price_per_hour, flavor.currency)
                if text := funds.too_dear(demand, what, price, policy, caps):
                    too_dear.append(text)
                else:
                    affordable.append(flavor)
        else:
            affordable.extend(creatable)
    return Survey(
        site,
        statics=tuple(part for part in fitting if part.kind is PartitionKind.STATIC),
        queues=tuple(part for part in fitting if part.kind is PartitionKind.QUEUE),
        creatable=tuple(affordable),
        too_dear=tuple(too_dear),
    )


def is_kept_out(site: SiteView, owner: str, policy: Policy) -> bool:
    """Whether nodes that are always there are not for this owner, whose account they lack."""
    return owner in policy.guests and not site.takes_guests


def problems_of(
    demand: Demand, surveys: Sequence[Survey], policy: Policy, owner: str
) -> list[Problem]:
    """Why none of the sites can ever take the owner's job; empty when one can, or may."""
    if any(each.possible for each in surveys):
        return []
    problems: list[Problem] = []
    for each in surveys:
        if each.too_dear:
            # The first is the cheapest: what it lacks, the others lack too.
            problems.append(Problem("BUDGET", each.too_dear[0], "max-cost", each.site.name))
            continue
        lacking = explain_capabilities(demand, each.site)
        if not lacking and _partitions(demand, each.site) and is_kept_out(each.site, owner, policy):
            lacking = [explain_account(each.site)]
        problems += lacking or [explain(demand, each.site, _partitions(demand, each.site))]
    return weigh(demand, problems)


def _partitions(demand: Demand, site: SiteView) -> list[PartitionView]:
    """The partitions that are there for any job, as far as the job may use them."""
    return [
        part
        for part in site.partitions
        if part.kind is not PartitionKind.DYNAMIC
        and (not demand.partition or part.partition_id == demand.partition)
    ]


def _flavor_of(part: PartitionView, demand: Demand) -> str:
    """The flavor that the job would get there, if it can be only one."""
    if demand.flavor:
        return demand.flavor
    flavors = {kind.flavor for kind, _ in part.classes if class_can_hold(kind, demand)}
    return flavors.pop() if len(flavors) == 1 else ""
