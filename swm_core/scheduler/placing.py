"""The decision for the whole queue.

Jobs are served by priority, then by time of submit. Each goes to the best place that can take it
now: static nodes, then a site's own queue, then an idle partition of its owner, then a new
partition, cheapest first. A job that finds no place waits, and the nodes of static partitions on
which it lacks the least are set aside for it: later jobs pass only where that takes nothing from it
(packing.py). So a job that asks for much is not starved by many that ask for little.

Jobs with the same signature are decided together: once one of them has found no place, none of the
others can.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterable, Sequence
from decimal import Decimal
from operator import attrgetter

from swm_core.domain.failures import FailureReason
from swm_core.domain.states import PartitionState
from swm_core.scheduler import waiting
from swm_core.scheduler.catalog import PriceKey, price_key
from swm_core.scheduler.demand import Demand, setup_of
from swm_core.scheduler.explain import Problem, site_missing
from swm_core.scheduler.funds import Policy, Price, Purse, caps_of, most_cost, too_dear
from swm_core.scheduler.packing import MAX_SET_ASIDE, Node, Room, allocate, seed_of
from swm_core.scheduler.survey import FREE, Survey, problems_of, relevant, survey
from swm_core.scheduler.values import (
    Create,
    Decision,
    Enqueue,
    Exclusion,
    FlavorView,
    PartitionKind,
    PartitionView,
    Place,
    QueuedJob,
    Reject,
    SiteView,
)

_FAILURES = {
    "IMAGE_NOT_FOUND": FailureReason.IMAGE_UNAVAILABLE,
    "RESOURCES_UNSATISFIABLE": FailureReason.NO_CAPACITY,
    "BUDGET": FailureReason.BUDGET,
}

_MOST_WAIT_S = 3_600.0
"""Neither a job nor a place for it is put off for so long."""

_BUDGET_AGAIN_S = 600.0
"""A month ends without anybody's doing: so often it is looked for."""

_STEP = 20
"""So many jobs are decided at a time."""

_rank = attrgetter("rank")


class _Board:
    """What is left of all sites during one call."""

    def __init__(self, sites: Sequence[SiteView], policy: Policy) -> None:
        self.sites = sites
        self.policy = policy
        self.purse = Purse(policy)
        self.slots = {
            site.name: max(0, site.max_partitions - site.partitions_in_use)
            for site in sites
            if site.max_partitions
        }
        self._rooms: dict[tuple[str, str], Room] = {}
        self.made_for: dict[str, tuple[SiteView, PartitionView]] = {}
        self.idle: dict[str, list[tuple[SiteView, PartitionView]]] = {}
        for site in sites:
            for part in site.partitions:
                if part.kind is not PartitionKind.DYNAMIC:
                    continue
                if part.job_id:
                    if part.state in (PartitionState.CREATING, PartitionState.READY):
                        self.made_for[part.job_id] = site, part
                elif part.state is PartitionState.READY and _takes_jobs(site):
                    self.idle.setdefault(part.owner, []).append((site, part))

    def room(self, site: SiteView, part: PartitionView) -> Room:
        """What is left of a partition, as all decisions of this call share it."""
        key = site.name, part.partition_id
        room = self._rooms.get(key)
        if room is None:
            statics = sum(other.kind is PartitionKind.STATIC for other in site.partitions)
            room = self._rooms[key] = Room(site.name, part, alone=statics == 1)
        return room

    def may_create(self, site: str) -> bool:
        return self.slots.get(site, 1) > 0

    def create(self, site: str) -> None:
        if site in self.slots:
            self.slots[site] -= 1


class _Group:
    """Jobs that can go to the same places."""

    __slots__ = (
        "blocked",
        "creates",
        "demand",
        "excluded",
        "obstacles",
        "owner",
        "queues",
        "rejection",
        "rooms",
        "until",
        "waiting",
    )

    def __init__(self, job: QueuedJob, board: _Board, now: float) -> None:
        self.demand = demand = job.demand
        self.owner = job.owner
        """Of one of them; of all where the owner has a budget."""
        self.rooms: list[Room] = []
        self.queues: list[tuple[str, str]] = []
        self.creates: list[tuple[PriceKey, str, FlavorView]] = []
        self.obstacles: list[str] = []
        self.rejection: tuple[FailureReason, str] | None = None
        self.blocked = False
        self.waiting: list[str] | None = None
        """Those behind a blocked one, once no place can be set aside for them."""

        excluded = [exclusion for exclusion in job.excluded if _is_ahead(exclusion.until, now)]
        self.excluded = excluded
        """Places that are left out for now."""
        ends = [exclusion.until for exclusion in excluded if exclusion.until != math.inf]
        self.until = min(ends, default=0.0)
        surveys = [
            survey(demand, site, board.policy, job.owner) for site in relevant(demand, board.sites)
        ]
        missing = site_missing(demand, board.sites) if board.sites else None
        if missing or (surveys and not any(each.possible for each in surveys)):
            self._reject(
                [missing] if missing else problems_of(demand, surveys, board.policy, job.owner)
            )
            return
        hits: list[Exclusion] = []
        for each in surveys:
            self._add_site(each, board, excluded, hits)
        self.creates.sort(key=lambda entry: entry[:2])
        self._weigh_exclusions(hits)
        rooms = {(room.site, room.view.partition_id) for room in self.rooms}
        self.obstacles += [
            waiting.excluded_text(exclusion)
            for exclusion in excluded
            if exclusion.node and (exclusion.site, exclusion.partition_id) in rooms
        ]

    def _add_site(
        self, found: Survey, board: _Board, excluded: Sequence[Exclusion], hits: list[Exclusion]
    ) -> None:
        """Add what the site has for these jobs, or what stands in the way of it."""
        site = found.site
        here: list[Exclusion] = []
        parts = _allowed((*found.statics, *found.queues), site.name, excluded, here)
        flavor = _first_allowed(found.creatable, site.name, excluded, here)
        if not site.inventory_known:
            self.obstacles.append(f"site {site.name} to tell what it has")
        elif not parts and flavor is None:
            hits += here
        elif not site.ready:
            self.obstacles.append(f"site {site.name}, which does not answer")
        elif site.drained:
            self.obstacles.append(f"site {site.name}, which is drained and takes no new jobs")
        else:
            for part in parts:
                if part.state is not PartitionState.READY:
                    self.obstacles.append(
                        f"partition {part.partition_id} of site {site.name} to be ready"
                    )
                elif part.kind is PartitionKind.QUEUE:
                    self.queues.append((site.name, part.partition_id))
                else:
                    self.rooms.append(board.room(site, part))
            if flavor is not None:
                self.creates.append((price_key(flavor), site.name, flavor))

    def _reject(self, problems: Sequence[Problem]) -> None:
        reason = _FAILURES.get(problems[0].reason, FailureReason.INVALID)
        self.rejection = reason, "; ".join(problem.message for problem in problems)

    def _weigh_exclusions(self, hits: Sequence[Exclusion]) -> None:
        places = self.rooms or self.queues or self.creates or self.obstacles
        if hits and not places and all(hit.until == math.inf for hit in hits):
            messages = dict.fromkeys(hit.message for hit in hits if hit.message)
            text = "; ".join(messages) or "every place that could take it has failed"
            self.rejection = hits[-1].reason, text
        self.obstacles += map(waiting.excluded_text, hits)

    def obstacles_now(self, board: _Board) -> list[str]:
        """What stands in the way beside what static partitions lack."""
        full = [
            waiting.slots_text(site) for _, site, _ in self.creates if not board.may_create(site)
        ]
        poor = [
            text
            for _, site, flavor in self.creates
            if (text := board.purse.lacks(self.owner, site, _cost(self.demand, flavor, board)))
        ]
        return [*self.obstacles, *full, *poor]


def _is_ahead(time: float, now: float) -> bool:
    """Whether a time is to be waited for. One that is far ahead was set by another clock."""
    return now < time <= now + _MOST_WAIT_S or time == math.inf


def schedule(
    queued: Iterable[QueuedJob], sites: Sequence[SiteView], now: float, policy: Policy = FREE
) -> list[Decision]:
    """Decide for every queued job: a place, a rejection, or what it waits for.

    `now` is in seconds since the epoch. Waits come last, as few of them as there are texts; every
    other decision is one job's, in the order in which jobs are served. The same arguments give the
    same answer.
    """
    steps = schedule_in_steps(queued, sites, now, policy)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            decisions: list[Decision] = done.value
            return decisions


def schedule_in_steps(
    queued: Iterable[QueuedJob], sites: Sequence[SiteView], now: float, policy: Policy = FREE
) -> Generator[None, None, list[Decision]]:
    """As `schedule`, and yields again and again: a long queue takes longer than others may wait."""
    board = _Board(sites, policy)
    decisions: list[Decision] = []
    waits = waiting.Waits()
    groups: dict[tuple[str, str, bool], _Group] = {}
    for number, job in enumerate(sorted(queued, key=_rank)):
        if number % _STEP == 0:
            yield
        if _is_ahead(job.not_before, now):
            waits.list_for(waiting.BACKOFF, job.not_before).append(job.job_id)
            continue
        if job.job_id in board.made_for:
            decision = _place_on_its_own(job, *board.made_for[job.job_id])
            if isinstance(decision, str):
                waits.list_for(decision, 0.0).append(job.job_id)
            else:
                decisions.append(decision)
            continue
        owner = job.owner if job.owner in policy.users else ""
        key = job.signature, owner, job.owner in policy.guests
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(job, board, now)
        if group.waiting is not None and job.owner not in board.idle:
            group.waiting.append(job.job_id)
        elif group.rejection:
            decisions.append(Reject(job.job_id, *group.rejection))
        elif found := _find_place(job, group, board):
            decisions.append(found)
        else:
            _wait(job, group, board, waits, now)
    return [*decisions, *waits.decisions()]


def _place_on_its_own(job: QueuedJob, site: SiteView, part: PartitionView) -> Place | str:
    """On the partition that was made for the job, or what it waits for there."""
    if part.state is not PartitionState.READY:
        return f"waits for its partition {part.partition_id} on site {site.name}"
    if not site.ready:
        return f"waits for site {site.name}, which does not answer"
    allocations = allocate(job, part)
    if allocations is None:
        return f"waits for the nodes of its partition {part.partition_id} on site {site.name}"
    return Place(job.job_id, site.name, part.partition_id, allocations)


def _find_place(job: QueuedJob, group: _Group, board: _Board) -> Decision | None:
    demand = group.demand
    if not group.blocked:
        rooms = group.rooms
        if len(rooms) > 1:
            rooms = sorted(rooms, key=lambda room: -room.free_cpus)
        for room in rooms:
            if not room.closed and (allocations := room.place(demand, seed_of(job))):
                return Place(job.job_id, room.site, room.view.partition_id, allocations)
        if group.queues:
            return Enqueue(job.job_id, *group.queues[0])
    if job.owner in board.idle and (placed := _reuse(job, group, board)):
        return placed
    if not group.blocked:
        for _, site, flavor in group.creates:
            cost = _cost(demand, flavor, board)
            if board.may_create(site) and not board.purse.lacks(job.owner, site, cost):
                board.create(site)
                board.purse.take(job.owner, site, cost)
                return _create(job, site, flavor, board.policy)
    return None


def _cost(demand: Demand, flavor: FlavorView, board: _Board) -> Decimal | None:
    """The most that new nodes of this flavor can cost the job."""
    return most_cost(demand, Price(flavor.price_per_hour, flavor.currency), board.policy)


def _create(job: QueuedJob, site: str, flavor: FlavorView, policy: Policy) -> Create:
    demand = job.demand
    time_limit_s = policy.time_limit_s(demand, flavor.price_per_hour)
    hours = Decimal(demand.time_limit_s or time_limit_s) / 3_600
    return Create(
        job.job_id,
        site,
        flavor.location,
        flavor.name,
        demand.nodes,
        flavor.price_per_hour,
        flavor.currency,
        time_limit_s,
        # A spot price may rise while the job runs.
        demand.cap.amount / demand.nodes / hours if demand.spot and demand.cap and hours else None,
    )


def _reuse(job: QueuedJob, group: _Group, board: _Board) -> Place | None:
    """On a partition of the same owner that is idle and paid for."""
    demand = job.demand
    for site, part in board.idle[job.owner]:
        if (
            (not demand.site or demand.site == site.name)
            and not demand.partition
            and setup_of(job.spec, site.option_prefix) == part.setup
            and demand.disk_bytes <= (part.disk_bytes or _least_disk(part))
            and site.capabilities.issuperset(demand.capabilities)
            and _allowed([part], site.name, group.excluded, [])
        ):
            price = Price(part.price_per_hour, part.currency)
            nodes = dataclasses.replace(demand, nodes=len(part.nodes))
            cost = most_cost(nodes, price, board.policy)
            caps = caps_of(demand, job.owner, site.name, board.policy)
            if too_dear(nodes, part.flavor, price, board.policy, caps) or board.purse.lacks(
                job.owner, site.name, cost
            ):
                continue
            room = board.room(site, part)
            if not room.closed and (allocations := room.place(demand, seed_of(job))):
                board.purse.take(job.owner, site.name, cost)
                limit_s = board.policy.time_limit_s(demand, part.price_per_hour)
                return Place(job.job_id, site.name, part.partition_id, allocations, limit_s)
    return None


def _wait(job: QueuedJob, group: _Group, board: _Board, waits: waiting.Waits, now: float) -> None:
    """Tell what the job waits for, and set places aside for it if there are any."""
    demand, rooms = group.demand, group.rooms
    first = not any(room.waited_for for room in rooms)
    nearest: tuple[float, Sequence[Node], Room] | None = None
    for room in rooms:
        room.waited_for = True
        if not room.closed and room.set_aside_count < MAX_SET_ASIDE:
            found = room.nearest(demand)
            if found and (nearest is None or found[0] < nearest[0]):
                nearest = (*found, room)
    obstacles = group.obstacles_now(board)
    if group.creates and (board.policy.users or board.policy.sites):
        group.until = min(group.until or math.inf, now + _BUDGET_AGAIN_S)
    turn = waits.list_for(
        waiting.turn_text(rooms, obstacles, demand if nearest else None), group.until
    )
    if rooms and first:
        text = waiting.first_text(demand, nearest[2] if nearest else rooms[0], obstacles)
        waits.list_for(text, group.until).append(job.job_id)
    else:
        turn.append(job.job_id)
    group.blocked = True
    if nearest is None:
        group.waiting = turn
    else:
        nearest[2].set_aside(demand, nearest[1])


def _least_disk(part: PartitionView) -> int:
    """What every node says that it has."""
    return min((node.disk_bytes for node in part.nodes), default=0)


def _takes_jobs(site: SiteView) -> bool:
    return site.ready and not site.drained


def _allowed(
    parts: Sequence[PartitionView],
    site: str,
    excluded: Sequence[Exclusion],
    hits: list[Exclusion],
) -> Sequence[PartitionView]:
    if not excluded or not parts:
        return parts
    allowed = []
    for part in parts:
        hit = next(
            (
                exclusion
                for exclusion in excluded
                if exclusion.site == site
                and not (exclusion.flavor or exclusion.location or exclusion.node)
                and exclusion.partition_id in ("", part.partition_id)
            ),
            None,
        )
        if hit is None:
            allowed.append(part)
        else:
            hits.append(hit)
    return allowed


def _first_allowed(
    flavors: Sequence[FlavorView],
    site: str,
    excluded: Sequence[Exclusion],
    hits: list[Exclusion],
) -> FlavorView | None:
    for flavor in flavors:
        hit = next(
            (
                exclusion
                for exclusion in excluded
                if exclusion.site == site
                and not exclusion.partition_id
                and exclusion.flavor in ("", flavor.name)
                and exclusion.location in ("", flavor.location)
            ),
            None,
        )
        if hit is None:
            return flavor
        hits.append(hit)
    return None
