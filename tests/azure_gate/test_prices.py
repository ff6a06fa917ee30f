"""Prices are those of the size and the place, exact or unknown; the list is asked patiently."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
import yarl
from aiohttp import web

from gates.azure_gate import prices
from gates.azure_gate.prices import Price, PricesError

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
Handler = Callable[[web.Request], Awaitable[web.Response]]


def item(**told: Any) -> dict[str, Any]:
    """An item of the list, of a Linux machine on demand."""
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": Decimal("0.0"),
        "retailPrice": Decimal("0.192"),
        "unitPrice": Decimal("0.192"),
        "armRegionName": "westeurope",
        "location": "EU West",
        "effectiveStartDate": "2021-09-01T00:00:00Z",
        "meterName": "D4s v5",
        "productName": "Virtual Machines Dsv5 Series",
        "skuName": "D4s v5",
        "serviceName": "Virtual Machines",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": "Standard_D4s_v5",
        **told,
    }


def read(*items: dict[str, Any]) -> dict[str, Price]:
    return prices.read(items, "westeurope", NOW)


def test_sizes_are_joined_by_name_without_case_and_spot_by_its_sku() -> None:
    spot = item(
        armSkuName="standard_d4S_v5",
        skuName="D4s v5 Spot",
        meterName="D4s v5 Spot",
        retailPrice=Decimal("0.0312"),
    )
    assert read(item(), spot) == {"standard_d4s_v5": Price(Decimal("0.192"), Decimal("0.0312"))}


@pytest.mark.parametrize(
    "told",
    [
        {"productName": "Virtual Machines Dsv5 Series Windows"},
        {"productName": "Virtual Machines Dsv5 Series Cloud Services"},
        {"productName": "Dsv5 Series CloudServices"},
        {"productName": "Virtual Machines Dsv5 Series Dedicated Host"},
        {"meterName": "D4s v5 Low Priority", "skuName": "D4s v5 Low Priority"},
        {"retailPrice": Decimal(0)},
        {"retailPrice": Decimal("-0.2")},
        {"retailPrice": Decimal("1E-20")},
        {"retailPrice": Decimal(10_000_000)},
        {"retailPrice": None},
        {"retailPrice": "free"},
        {"type": "DevTestConsumption"},
        {"type": "Reservation", "unitOfMeasure": "1 Hour"},
        {"unitOfMeasure": "1 GB"},
        {"armRegionName": "eastus"},
        {"armSkuName": ""},
        {"currencyCode": "EUR"},
        {"tierMinimumUnits": Decimal(100)},
        {"effectiveStartDate": "2026-02-01T00:00:00Z"},
    ],
)
def test_what_is_no_price_of_ours_is_left_out(told: dict[str, Any]) -> None:
    assert read(item(**told)) == {}


def test_the_price_that_counts_now_wins() -> None:
    old = item(retailPrice=Decimal("0.5"), effectiveStartDate="2019-01-01T00:00:00Z")
    other = item(
        retailPrice=Decimal("0.9"),
        isPrimaryMeterRegion=False,
        effectiveStartDate="2025-01-01T00:00:00Z",
    )
    for order in ((old, other, item()), (item(), other, old)):
        assert read(*order)["standard_d4s_v5"].on_demand == Decimal("0.192")


def test_of_two_prices_that_both_count_the_higher_is_told() -> None:
    """A cap is kept then, and not found out afterwards."""
    assert read(item(), item(retailPrice=Decimal("0.2")))["standard_d4s_v5"].on_demand == Decimal(
        "0.2"
    )


@pytest.mark.parametrize(
    ("amount", "units", "nanos"),
    [("0.192", 0, 192_000_000), ("27.197", 27, 197_000_000), ("3", 3, 0), ("1E-9", 0, 1)],
)
def test_money_is_exact(amount: str, units: int, nanos: int) -> None:
    told = prices.hourly(Decimal(amount), NOW)
    assert told is not None
    assert (told.amount.currency_code, told.amount.units, told.amount.nanos) == (
        "USD",
        units,
        nanos,
    )
    assert told.as_of.ToDatetime(datetime.UTC) == NOW
    assert prices.hourly(None, NOW) is None


# Asking for it.


class Lister:
    """A price list that is served here; `answers` are taken one after the other."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[web.Response | Exception] = []
        self.asked: list[web.Request] = []

    def page(self, *items: dict[str, Any], following: str | None = None) -> web.Response:
        told = {"BillingCurrency": "USD", "Items": items, "NextPageLink": following}
        text = json.dumps(told, default=lambda value: float(value))
        return web.Response(text=text, content_type="application/json")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return answer

    async def fetch(self, within_s: float = 30.0) -> dict[str, Price]:
        return await prices.fetch(self.url, "westeurope", ca_file="", within_s=within_s)


@pytest.fixture
async def lister() -> AsyncIterator[Lister]:
    lister = Lister("")
    app = web.Application()
    app.router.add_get("/api/retail/prices", lister.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    lister.url = f"http://{host}:{port}/api/retail/prices"
    yield lister
    await runner.cleanup()


async def test_all_pages_are_read_and_the_question_is_the_narrow_one(lister: Lister) -> None:
    following = f"{lister.url}?$filter=armRegionName%20eq%20'westeurope'&$skip=1000"
    lister.answers = [
        lister.page(item(), item(serviceName="x", type="Reservation"), following=following),
        lister.page(item(armSkuName="Standard_E2_v5", retailPrice=Decimal("0.1"))),
    ]
    assert await lister.fetch() == {
        "standard_d4s_v5": Price(Decimal("0.192")),
        "standard_e2_v5": Price(Decimal("0.1")),
    }
    first, second = lister.asked
    assert first.query["$filter"] == (
        "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
        "and armRegionName eq 'westeurope'"
    )
    assert second.query["$skip"] == "1000"
    assert second.query["$filter"] == "armRegionName eq 'westeurope'"


async def test_a_price_is_never_a_float_on_its_way(lister: Lister) -> None:
    text = json.dumps({"Items": [item()]}, default=str).replace('"0.192"', "0.1000000000000001")
    lister.answers = [web.Response(text=text, content_type="application/json")]
    assert (await lister.fetch())["standard_d4s_v5"].on_demand == Decimal("0.1000000000000001")


async def test_throttling_and_broken_connections_are_waited_out(lister: Lister) -> None:
    lister.answers = [
        web.Response(status=429, headers={"Retry-After": "0"}),
        ConnectionError(),
        web.Response(status=503, headers={"Retry-After": "Fri, 02 Jan 2015 10:00:00 GMT"}),
        lister.page(item()),
    ]
    assert len(await lister.fetch()) == 1
    assert len(lister.asked) == 4


async def test_who_is_told_to_come_back_at_once_does_so_no_faster_than_else(lister: Lister) -> None:
    lister.answers = [web.Response(status=429, headers={"Retry-After": "0"}) for _ in range(1_000)]
    with pytest.raises(PricesError, match="answers 429"):
        await lister.fetch(within_s=2.0)
    assert len(lister.asked) < 6


async def test_what_asks_for_more_time_than_there_is_is_told_at_once(lister: Lister) -> None:
    lister.answers = [web.Response(status=429, headers={"Retry-After": "3600"})]
    began = time.monotonic()
    with pytest.raises(PricesError, match="answers 429 Too Many Requests"):
        await lister.fetch()
    assert time.monotonic() - began < 30


async def test_a_refusal_is_not_repeated(lister: Lister) -> None:
    lister.answers = [web.Response(status=400)]
    with pytest.raises(PricesError, match="answers 400 Bad Request"):
        await lister.fetch()
    assert len(lister.asked) == 1


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"Items": 3}', b'{"Items": [1]}', b"[" * 9999]
)
async def test_what_is_no_list_of_prices_is_told_as_such(lister: Lister, body: bytes) -> None:
    lister.answers = [web.Response(body=body)]
    with pytest.raises(PricesError, match="is no list of prices"):
        await lister.fetch()


async def test_a_list_that_goes_on_elsewhere_or_for_ever_is_not_followed(lister: Lister) -> None:
    lister.answers = [lister.page(item(), following="http://127.0.0.1:1/api/retail/prices?$skip=1")]
    with pytest.raises(PricesError, match="goes on elsewhere"):
        await lister.fetch()
    again = f"{lister.url}?$skip=1000"
    lister.answers = [lister.page(item(), following=again) for _ in range(3)]
    with pytest.raises(PricesError, match="does not end"):
        await lister.fetch()


async def test_where_nobody_listens_the_url_is_told() -> None:
    with pytest.raises(PricesError, match=r"http://127\.0\.0\.1:1/prices can't be reached"):
        await prices.fetch("http://127.0.0.1:1/prices", "x", ca_file="", within_s=0.5)


def test_the_list_may_write_out_its_port_and_no_other() -> None:
    """As the real one does."""
    here = yarl.URL("https://prices.example/x")
    assert prices.is_same_place(yarl.URL("https://prices.example:443/y"), here)
    for other in ("https://prices.example:444", "http://prices.example", "https://b.example"):
        assert not prices.is_same_place(yarl.URL(other), here)
