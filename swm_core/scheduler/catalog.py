"""The flavors of a site, in order of preference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swm_core.scheduler.demand import Demand
    from swm_core.scheduler.values import FlavorView

PriceKey = tuple[bool, str, Decimal, int, int, int, str, str]

_MEMO_SIZE = 512

USUAL_ARCHITECTURES = frozenset({"", "x86_64", "amd64"})
"""What a job can run on that says nothing of it."""


class FlavorCatalog:
    """What a site offers, cheapest first. Make one when the site's list changes, and keep it.

    Known prices come before unknown ones. Amounts in different currencies cannot be compared: those
    of one currency stay together. At the same price, fewer GPUs, then fewer cpus, then less memory
    come first.
    """

    __slots__ = ("_by_partition", "_creatable", "_found", "_spot", "flavors")

    def __init__(self, flavors: Iterable[FlavorView] = ()) -> None:
        self.flavors = tuple(flavors)
        self._creatable = sorted(
            (flavor for flavor in self.flavors if not flavor.partition_ids), key=price_key
        )
        # As spot each costs its spot price. Where any has one, those without are not offered so.
        spot = sorted(map(_as_spot, self._creatable), key=price_key)
        self._spot = {
            True: spot,
            False: [each for each in spot if each.price_per_hour is not None] or spot,
        }
        self._by_partition: dict[str, list[FlavorView]] = {}
        for flavor in self.flavors:
            for partition_id in flavor.partition_ids:
                self._by_partition.setdefault(partition_id, []).append(flavor)
        self._found: dict[tuple[str, int, int, int, bool], tuple[FlavorView, ...]] = {}

    def creatable(self, demand: Demand) -> tuple[FlavorView, ...]:
        """Flavors that new nodes for this demand can have, best first.

        One of another architecture than x86_64 has to be named. The price of spot nodes is their
        spot price.
        """
        key = (demand.flavor, demand.cpus, demand.mem_bytes, demand.gpus, demand.spot)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _MEMO_SIZE:
                self._found.clear()
            is_named = bool(demand.flavor)
            found = self._found[key] = tuple(
                flavor
                for flavor in (self._spot[is_named] if demand.spot else self._creatable)
                if satisfies(flavor, demand)
                and (is_named or flavor.architecture in USUAL_ARCHITECTURES)
            )
        return found

    def all_creatable(self) -> tuple[FlavorView, ...]:
        """Flavors that new nodes can have."""
        return tuple(self._creatable)

    def of_partition(self, partition_id: str) -> tuple[FlavorView, ...]:
        """Flavors of the nodes of a static or queue partition."""
        return tuple(self._by_partition.get(partition_id, ()))

    def names(self) -> frozenset[str]:
        """The names of all flavors."""
        return frozenset(flavor.name for flavor in self.flavors)


def _as_spot(flavor: FlavorView) -> FlavorView:
    return dataclasses.replace(
        flavor, price_per_hour=flavor.spot_price_per_hour, currency=flavor.spot_currency
    )


def price_key(flavor: FlavorView) -> PriceKey:
    """Sorts flavors by preference; comparable over sites."""
    price = flavor.price_per_hour
    return (
        price is None,
        flavor.currency if price is not None else "",
        price if price is not None else Decimal(0),
        flavor.gpus,
        flavor.cpus,
        flavor.mem_bytes,
        flavor.location,
        flavor.name,
    )


def satisfies(flavor: FlavorView, demand: Demand) -> bool:
    """Whether a new node of this flavor can give what is asked. Disk is asked for apart."""
    return (
        flavor.cpus >= demand.cpus
        and flavor.mem_bytes >= demand.mem_bytes
        and flavor.gpus >= demand.gpus
        and (not demand.flavor or flavor.name == demand.flavor)
    )
