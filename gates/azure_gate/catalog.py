"""What sizes of machines there are where, and what they cost: as far as is known now."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from gate_kit import Refusal, errors
from gates.azure_gate import prices, skus
from gates.azure_gate.cache import Cache
from gates.azure_gate.prices import Price
from gates.azure_gate.shelf import Form, Pace, Shelf
from gates.azure_gate.skus import FlavorPrices, Sku
from skyport.gate.v1 import inventory_pb2

_FIRST_S = 8.0
"""How long who asks first waits for sizes. Prices come when they come."""


class Source(Protocol):
    """Where it comes from. Each raises a Refusal that says why it can't be had now."""

    async def skus(self, location: str) -> list[Sku]:
        """The sizes that the subscription may use there."""
        ...

    async def prices(self, location: str) -> dict[str, Price]:
        """What they cost, by their names in lower case."""
        ...


class Catalog:
    """Flavors of some locations. Serves between `open` and `close`."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        locations: Sequence[str],
        sizes: Sequence[str] = (),
        pace: Pace | None = None,
    ) -> None:
        """Nothing is asked for before `open`.

        Args:
            source: Where it comes from.
            cache: Where it is kept.
            locations: Those that partitions may be made in.
            sizes: Names or patterns of the sizes that are offered; none: all are.
            pace: How often the source is asked.
        """
        pace = pace or Pace()
        self._sizes = sizes
        self._skus: dict[str, Shelf[list[Sku]]] = {}
        self._prices: dict[str, Shelf[dict[str, Price]]] = {}
        for location in locations:
            self._skus[location] = Shelf("skus", location, source.skus, _SKUS, cache, pace)
            self._prices[location] = Shelf("prices", location, source.prices, _PRICES, cache, pace)

    def open(self) -> None:
        """Know what the cache has, and ask for the rest."""
        for shelf in self._shelves():
            shelf.open()

    async def close(self) -> None:
        """Ask no more."""
        await asyncio.gather(*(shelf.close() for shelf in self._shelves()))

    async def settled(self, within_s: float) -> None:
        """Wait until all has been asked for once, prices too, or is known anyway."""
        await asyncio.gather(*(shelf.settled(within_s) for shelf in self._shelves()))

    async def flavors(self, location: str = "") -> tuple[list[inventory_pb2.Flavor], list[str]]:
        """What can be had, and the locations of which that is not known.

        Args:
            location: Only of this one; empty: of all.

        Raises:
            Refusal: Nothing is known of any of them.
        """
        wanted = [name for name in self._skus if location in {"", name}]
        await self._sizes_of(wanted)
        unknown = [name for name in wanted if self._skus[name].value is None]
        if wanted and unknown == wanted:
            raise self._why(wanted[0])
        told = [
            skus.flavor(sku, self._priced(sku)) for name in wanted for sku in self._offered(name)
        ]
        return told, unknown

    async def flavor(self, name: str, location: str) -> Sku:
        """A size that a partition may be made of.

        Args:
            name: In any case.
            location: One of the catalog's.

        Raises:
            Refusal: FLAVOR_NOT_FOUND, or why nothing is known of the location.
        """
        if location not in self._skus:
            raise errors.flavor_not_found(name, location)
        await self._sizes_of([location])
        if self._skus[location].value is None:
            raise self._why(location)
        for sku in self._offered(location):
            if sku.name.casefold() == name.casefold():
                return sku
        raise errors.flavor_not_found(name, location)

    def size(self, name: str, location: str) -> Sku | None:
        """A size, as far as is known; nothing is waited for."""
        if location not in self._skus:
            return None
        known = self._skus[location].value or []
        return next((sku for sku in known if sku.name.casefold() == name.casefold()), None)

    def prices_of(self, name: str, location: str) -> FlavorPrices:
        """What a size costs, as far as is known; nothing is waited for."""
        shelf = self._prices.get(location)
        if shelf is None or shelf.value is None or shelf.fetched_at is None:
            return skus.UNKNOWN
        price = shelf.value.get(name.casefold(), Price())
        return FlavorPrices(
            on_demand=prices.hourly(price.on_demand, shelf.fetched_at),
            spot=prices.hourly(price.spot, shelf.fetched_at),
        )

    async def _sizes_of(self, locations: Iterable[str]) -> None:
        await asyncio.gather(*(self._skus[name].settled(_FIRST_S) for name in locations))

    def _offered(self, location: str) -> list[Sku]:
        known = self._skus[location].value or []
        return [sku for sku in known if skus.is_offered(sku.name, self._sizes)]

    def _priced(self, sku: Sku) -> FlavorPrices:
        return self.prices_of(sku.name, sku.location)

    def _why(self, location: str) -> Refusal:
        problem = self._skus[location].problem
        if problem is None:
            text = f"Azure has not told yet what there is in {location}"
            return errors.site_unreachable(text, retry_after_s=_FIRST_S)
        return problem

    def _shelves(self) -> list[Shelf[Any]]:
        return [*self._skus.values(), *self._prices.values()]


def _dump_skus(value: list[Sku]) -> list[Mapping[str, Any]]:
    return [dataclasses.asdict(sku) for sku in value]


def _load_skus(items: list[Mapping[str, Any]]) -> list[Sku]:
    return [
        Sku(**{**item, "zones": tuple(item["zones"]), "generations": tuple(item["generations"])})
        for item in items
    ]


def _dump_prices(value: dict[str, Price]) -> list[Mapping[str, Any]]:
    return [
        {"name": name, "on_demand": _text(price.on_demand), "spot": _text(price.spot)}
        for name, price in value.items()
    ]


def _load_prices(items: list[Mapping[str, Any]]) -> dict[str, Price]:
    return {
        str(item["name"]): Price(_decimal(item["on_demand"]), _decimal(item["spot"]))
        for item in items
    }


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _decimal(text: str | None) -> Decimal | None:
    # What Decimal raises for what is no number is an ArithmeticError.
    try:
        return None if text is None else Decimal(text)
    except ArithmeticError:
        raise ValueError(f"{text!r} is no price") from None


_SKUS: Form[list[Sku]] = Form(_dump_skus, _load_skus)
_PRICES: Form[dict[str, Price]] = Form(_dump_prices, _load_prices)
