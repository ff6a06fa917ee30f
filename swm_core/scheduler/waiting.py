"""What jobs wait for, in words for people, kept together by text.

Numbers that change with every job that ends are told to the first in line only: the texts of all
others stay the same while they wait, so that nothing has to be written for ten thousand jobs
because one has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rpc_kit.units import format_size
from swm_core.scheduler.demand import Demand
from swm_core.scheduler.packing import Room
from swm_core.scheduler.values import Exclusion, Wait

BACKOFF = "waits a while before its next attempt"
NO_SITE = "waits for a site; none is configured"


class Waits:
    """Waiting jobs by what they wait for."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[str]] = {}
        self._until: dict[str, float] = {}

    def list_for(self, text: str, until: float) -> list[str]:
        """The ids of those who wait for this; whoever appends to it waits too."""
        if until and until < self._until.get(text, float("inf")):
            self._until[text] = until
        return self._jobs.setdefault(text, [])

    def decisions(self) -> list[Wait]:
        """One for each text, in the order in which the texts came up."""
        return [
            Wait(tuple(jobs), text, self._until.get(text, 0.0))
            for text, jobs in self._jobs.items()
            if jobs
        ]


def first_text(demand: Demand, room: Room, others: Sequence[str]) -> str:
    """What the first in line for a room waits for, with what is free of it."""
    where = _place(room)
    if demand.nodes > 1:
        free = room.count_fitting(demand)
        return _join([f"{_wants(demand)} on {where} ({free} free)"], others)
    missing = room.missing(demand)
    if missing is None:
        return _join([f"a node of {where} to come up"], others)
    wants, free_parts = [], []
    for what, asked, free in missing:
        if what == "port":
            wants.append(f"port {asked}")
        else:
            wants.append(_amount(what, asked))
            free_parts.append(format_size(free) if what == "mem" else str(free))
    told = f"{' and '.join(free_parts)} free" if free_parts else "another job has it"
    return _join([f"{' and '.join(wants) or _wants(demand)} on {where} ({told})"], others)


def turn_text(rooms: Sequence[Room], others: Sequence[str], demand: Demand | None = None) -> str:
    """What those behind wait for; with what they ask for if places are kept for them."""
    if not rooms:
        return _join([], others)
    wants = f" for {_wants(demand)}" if demand else ""
    if len(rooms) == 1:
        return _join([f"its turn{wants} on {_place(rooms[0])}"], others)
    places = list(dict.fromkeys(map(_place, rooms)))
    shown = " or ".join(places[:3]) + (" or others" if len(places) > 3 else "")
    return _join([f"its turn{wants} on {shown}"], others)


def slots_text(site: str) -> str:
    """For a site that may have no more partitions."""
    return f"one of the partitions that site {site} may have, which are all in use"


def excluded_text(exclusion: Exclusion) -> str:
    """For a place that failed a short while ago."""
    if exclusion.node:
        where = f"node {exclusion.node} of site {exclusion.site}"
        return f"{where}, which takes nothing new: {exclusion.message}"
    what = " in ".join(part for part in (exclusion.flavor, exclusion.location) if part)
    place = f"site {exclusion.site}" + (f" ({what})" if what else "")
    return f"{place}, which has just failed: {exclusion.message or exclusion.reason}"


def _join(first: Iterable[str], others: Sequence[str]) -> str:
    parts = [*first, *dict.fromkeys(others)]
    if not parts:
        return NO_SITE
    shown = "waits for " + ", or for ".join(parts[:3])
    return shown + (", or for others" if len(parts) > 3 else "")


def _place(room: Room) -> str:
    return (
        f"site {room.site}"
        if room.alone
        else f"partition {room.view.partition_id} of site {room.site}"
    )


def _wants(demand: Demand) -> str:
    parts = [_amount("cpus", demand.cpus)]
    if demand.mem_bytes:
        parts.append(_amount("mem", demand.mem_bytes))
    if demand.gpus:
        parts.append(_amount("gpus", demand.gpus))
    parts += [f"port {port}" for port in demand.fixed_ports[:3]]
    if demand.free_ports:
        parts.append(_amount("ports", demand.free_ports))
    text = " and ".join(parts)
    return f"{demand.nodes} nodes with {text} each" if demand.nodes > 1 else text


def _amount(what: str, number: int) -> str:
    if what == "mem":
        return f"{format_size(number)} of memory"
    noun = {"cpus": "cpu", "gpus": "gpu", "ports": "free port"}[what]
    return f"{number} {noun}" + ("" if number == 1 else "s")
