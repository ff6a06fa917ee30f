"""What is known outlives the gate and bad days of the site, and is renewed before it is too old."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gate_kit import Refusal, errors
from gates.azure_gate import skus
from gates.azure_gate.cache import Cache, Kept
from gates.azure_gate.catalog import Catalog
from gates.azure_gate.prices import Price
from gates.azure_gate.shelf import Pace
from gates.azure_gate.skus import Sku
from tests.azure_gate.test_skus import listed

NOW = datetime.datetime.now(datetime.UTC)
SCOPE = "subscription s"
QUICK = Pace(first_retry_s=0.01, longest_retry_s=0.02)
WITHIN_S = 20.0


class Site:
    """Tells sizes and prices, or fails, as a test has it."""

    def __init__(self) -> None:
        self.sizes = ["Standard_D2s_v5", "Standard_D4s_v5"]
        self.known = {"standard_d4s_v5": Price(Decimal("0.192"), Decimal("0.03"))}
        self.down: Exception | None = None
        self.no_prices: Exception | None = None
        self.asked: list[tuple[str, str]] = []
        self.held = asyncio.Event()
        self.held.set()

    async def skus(self, location: str) -> list[Sku]:
        self.asked.append(("skus", location))
        await self.held.wait()
        if self.down:
            raise self.down
        return skus.read([listed(name, location=location) for name in self.sizes], location)

    async def prices(self, location: str) -> dict[str, Price]:
        self.asked.append(("prices", location))
        if self.no_prices or self.down:
            raise self.no_prices or self.down or AssertionError
        return self.known


Make = Callable[..., Catalog]


@pytest.fixture
async def site() -> Site:
    return Site()


@pytest.fixture
async def make(site: Site, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Catalog] = []

    def one(pace: Pace = QUICK, locations: tuple[str, ...] = ("eastus",), **more: Any) -> Catalog:
        catalog = Catalog(site, Cache(tmp_path / "cache", SCOPE), locations, pace=pace, **more)
        catalog.open()
        made.append(catalog)
        return catalog

    yield one
    for catalog in made:
        await catalog.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def until_told(catalog: Catalog, count: int) -> None:
    """Wait until so many sizes are told, whatever is answered before."""
    async with asyncio.timeout(WITHIN_S):
        while True:  # until they are, or the time is over
            with contextlib.suppress(Refusal):
                if len(await names(catalog)) == count:
                    return
            await asyncio.sleep(0.005)


async def names(catalog: Catalog, location: str = "") -> list[str]:
    return [each.name for each in (await catalog.flavors(location))[0]]


def priced(catalog: Catalog) -> bool:
    return catalog.prices_of("Standard_D4s_v5", "eastus").on_demand is not None


def refused() -> Refusal:
    return errors.site_unreachable("Azure does not answer")


# Files.


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", SCOPE)
    assert cache.load("skus", "eastus") is None
    cache.keep("skus", "eastus", Kept([{"a": 1}], NOW))
    assert Cache(tmp_path / "cache", SCOPE).load("skus", "eastus") == Kept([{"a": 1}], NOW)
    assert cache.load("prices", "eastus") is None
    assert cache.load("skus", "westus") is None
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_the_cache_of_another_subscription_is_none(tmp_path: Path) -> None:
    Cache(tmp_path / "cache", SCOPE).keep("skus", "eastus", Kept([], NOW))
    assert Cache(tmp_path / "cache", "another").load("skus", "eastus") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace(str(NOW.year), str(NOW.year + 1)),
        lambda text: text.replace("+00:00", ""),
        lambda text: text.replace('"fetched_at"', '"fetched"'),
        lambda text: text.replace('[{"a": 1}]', '["a"]'),
        lambda text: "[" * 100_000,
    ],
)
def test_a_file_that_is_broken_counts_as_none(tmp_path: Path, change: Callable[[str], str]) -> None:
    cache = Cache(tmp_path / "cache", SCOPE)
    cache.keep("skus", "eastus", Kept([{"a": 1}], NOW))
    (file,) = (tmp_path / "cache").iterdir()
    assert change(file.read_text()) != file.read_text()
    file.write_text(change(file.read_text()))
    assert cache.load("skus", "eastus") is None


def test_a_disk_that_takes_nothing_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder goes")
    Cache(tmp_path / "cache", SCOPE).keep("skus", "eastus", Kept([], NOW))
    assert "can't be written" in caplog.text


# Serving.


async def test_who_asks_first_waits_for_sizes_and_not_for_prices(site: Site, make: Make) -> None:
    site.no_prices = refused()
    site.held.clear()
    catalog = make()
    asking = asyncio.create_task(names(catalog))
    await until(lambda: ("skus", "eastus") in site.asked)
    assert not asking.done()
    site.held.set()
    assert await asking == ["Standard_D2s_v5", "Standard_D4s_v5"]
    assert not priced(catalog)
    site.no_prices = None
    await until(lambda: priced(catalog))
    two, four = (await catalog.flavors())[0]
    assert not two.HasField("on_demand_price")
    assert four.on_demand_price.amount.nanos == 192_000_000
    assert four.spot_price.amount.nanos == 30_000_000


async def test_a_gate_that_starts_again_knows_it_without_the_site(
    site: Site, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = make()
    assert len(await names(first)) == 2
    await until(lambda: priced(first))
    await first.close()
    site.down = refused()
    site.asked.clear()
    second = make()
    assert await names(second) == ["Standard_D2s_v5", "Standard_D4s_v5"]
    sku = await second.flavor("STANDARD_d4s_v5", "eastus")
    assert (sku.zones, sku.generations) == (("1", "2", "3"), (1, 2))
    assert second.prices_of(sku.name, "eastus") == first.prices_of(sku.name, "eastus")
    # It is fresh.
    assert site.asked == []
    await second.close()

    # What is old counts while it is asked for, and one line of the log tells of many failures.
    caplog.set_level(logging.INFO)
    old = make(Pace(fresh_s=0.0, first_retry_s=0.01, longest_retry_s=0.01))
    await until(lambda: len(site.asked) > 8)
    assert len(await names(old)) == 2
    assert priced(old)
    lines = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(lines) == 2  # sizes and prices
    assert "Azure does not answer; what was known at" in lines[0].message


async def test_what_changes_at_the_site_is_seen_after_a_while(site: Site, make: Make) -> None:
    catalog = make(Pace(fresh_s=0.05))
    assert len(await names(catalog)) == 2
    site.sizes.append("Standard_E4s_v5")
    site.known = {"standard_d2s_v5": Price(Decimal(1))}
    await until_told(catalog, 3)
    await until(lambda: catalog.prices_of("Standard_D2s_v5", "eastus").on_demand)
    assert not priced(catalog)


async def test_where_nothing_is_known_the_reason_is_told(
    site: Site, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    site.down = errors.credentials_invalid("the certificate has expired")
    catalog = make(Pace(first_retry_s=0.2))
    with pytest.raises(Refusal, match="the certificate has expired") as caught:
        await catalog.flavors()
    assert caught.value.reason == "CREDENTIALS_INVALID"
    with pytest.raises(Refusal, match="the certificate has expired"):
        await catalog.flavor("Standard_D2s_v5", "eastus")
    assert "nothing is known yet" in caplog.text
    site.down = None
    await until_told(catalog, 2)


async def test_a_location_that_is_not_known_is_named_beside_the_others(
    site: Site, tmp_path: Path
) -> None:
    class Half(Site):
        async def skus(self, location: str) -> list[Sku]:
            if location == "westus":
                raise refused()
            return await super().skus(location)

    catalog = Catalog(Half(), Cache(tmp_path / "c", SCOPE), ("eastus", "westus"), pace=QUICK)
    catalog.open()
    try:
        flavors, unknown = await catalog.flavors()
        assert {each.location for each in flavors} == {"eastus"}
        assert unknown == ["westus"]
        assert (await catalog.flavors("eastus"))[1] == []
        with pytest.raises(Refusal, match="Azure does not answer"):
            await catalog.flavors("westus")
        assert await catalog.flavors("mars") == ([], [])
    finally:
        await catalog.close()


async def test_a_mistake_of_ours_ends_nothing(
    site: Site, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    site.down = ZeroDivisionError()
    catalog = make()
    with pytest.raises(Refusal, match="the gate's log says how"):
        await catalog.flavors()
    assert "ZeroDivisionError" in caplog.text
    site.down = None
    await until_told(catalog, 2)


async def test_items_of_a_file_that_are_no_sizes_are_asked_for_anew(
    site: Site, make: Make, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache", SCOPE)
    cache.keep("skus", "eastus", Kept([{"name": "Standard_D2s_v5"}], NOW))
    cache.keep("prices", "eastus", Kept([{"name": "x", "on_demand": "a", "spot": None}], NOW))
    catalog = make()
    assert len(await names(catalog)) == 2
    await until(lambda: priced(catalog))


async def test_only_sizes_that_are_offered_are_told(site: Site, make: Make) -> None:
    catalog = make(sizes=("Standard_D4*",))
    assert await names(catalog) == ["Standard_D4s_v5"]
    for name, location in (("Standard_D2s_v5", "eastus"), ("Standard_D4s_v5", "westus")):
        with pytest.raises(Refusal) as caught:
            await catalog.flavor(name, location)
        assert caught.value.reason == "FLAVOR_NOT_FOUND"


async def test_prices_on_disk_are_decimals(site: Site, make: Make, tmp_path: Path) -> None:
    exact = Decimal("0.1000000000000000055511151231257827021181583404541015625")
    site.known = {"standard_d4s_v5": Price(exact)}
    catalog = make()
    file = tmp_path / "cache/prices-eastus.json"
    await until(file.exists)
    assert priced(catalog)
    (told,) = json.loads(file.read_text())["items"]
    assert Decimal(told["on_demand"]) == exact
