"""The retail prices, which anybody may ask for: in pages, and with much that nobody wants."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tests.testbed.azure_arm.errors import ArmError
from tests.testbed.azure_arm.skus import LOCATIONS, SIZES, Size

__all__ = ["answer"]

_TERM = re.compile(r"\s*(\w+)\s+eq\s+'([^']*)'\s*", re.IGNORECASE)
_CONTAINS = re.compile(r"\s*contains\(\s*(\w+)\s*,\s*'([^']*)'\s*\)\s*", re.IGNORECASE)
_FIELDS = {
    it.lower(): it
    for it in (
        "armRegionName",
        "armSkuName",
        "currencyCode",
        "location",
        "meterId",
        "meterName",
        "priceType",
        "productId",
        "productName",
        "serviceFamily",
        "serviceId",
        "serviceName",
        "skuId",
        "skuName",
    )
}
_RATES = {"USD": 1.0, "EUR": 0.92}


def answer(base: str, path: str, query: dict[str, str], page: int) -> dict[str, Any]:
    """A page of the prices that a filter asks for.

    Args:
        base: The scheme, host and port of the stand-in.
        path: The path that was asked.
        query: The query that was asked, by names in small letters.
        page: How many items a page has.
    """
    currency = query.get("currencycode", "'USD'").strip("'").upper()
    if currency not in _RATES:
        raise ArmError(400, "BadRequest", f"Currency {currency} is not supported.")
    is_wanted = _filter(query.get("$filter", ""))
    found = [it for it in _items(currency) if is_wanted(it)]
    skip = int(query.get("$skip", "0"))
    items = found[skip : skip + page]
    link = None
    if skip + page < len(found):
        others = "".join(f"{key}={quote(value)}&" for key, value in query.items() if key != "$skip")
        link = f"{base}{path}?{others}$skip={skip + page}"
    return {
        "BillingCurrency": currency,
        "CustomerEntityId": "Default",
        "CustomerEntityType": "Retail",
        "Items": items,
        "NextPageLink": link,
        "Count": len(items),
    }


def _filter(text: str) -> Any:
    terms = []
    for term in re.split(r"\s+and\s+", text, flags=re.IGNORECASE) if text.strip() else []:
        found = _TERM.fullmatch(term) or _CONTAINS.fullmatch(term)
        if found is None or found[1].lower() not in _FIELDS:
            raise ArmError(400, "BadRequest", f"Invalid OData parameters supplied: '{term}'.")
        field = _FIELDS[found[1].lower()]
        name = "type" if field == "priceType" else field
        terms.append((name, found[2], found.re is _CONTAINS))

    def is_wanted(item: dict[str, Any]) -> bool:
        # Values have a case, as those of the real one.
        return all(
            value in str(item.get(name, "")) if inner else item.get(name) == value
            for name, value, inner in terms
        )

    return is_wanted


def _items(currency: str) -> Iterator[dict[str, Any]]:
    for index, (region, place) in enumerate(LOCATIONS.items()):
        # Each region is a little dearer than the one before.
        factor = (1 + index / 20) * _RATES[currency]
        for size in SIZES:
            yield from _of_size(size, region, place, factor, currency)
        yield _item(
            currency, region, place, 0.0012, "Standard HDD Managed Disks", "S4 LRS", "S4 Disks", "",
            service="Storage",
        )  # fmt: skip


def _of_size(
    size: Size, region: str, place: str, factor: float, currency: str
) -> Iterator[dict[str, Any]]:
    if size.price is None:
        return
    short = size.name.partition("_")[2].replace("_", " ")
    product = f"Virtual Machines {size.series} Series"
    price = round(size.price * factor, 6)

    def item(price: float, product: str, sku: str, meter: str, **more: Any) -> dict[str, Any]:
        return _item(currency, region, place, price, product, sku, meter, size.name, **more)

    yield item(price, product, short, short)
    yield item(round(price * 1.9, 6), f"{product} Windows", short, short)
    yield item(round(price * 0.9, 6), product, short, short, kind="DevTestConsumption")
    yield item(round(price * 5000, 2), product, short, short, kind="Reservation", term="1 Year")
    yield item(round(price * 0.2, 6), product, f"{short} Low Priority", f"{short} Low Priority")
    yield item(price, f"{size.series} Series CloudServices", short, short)
    yield item(0.0, product, short, f"{short} Free")
    if size.cpus >= 24:
        yield item(round(price * 8, 6), f"{product} Dedicated Host", f"{short} Dedicated", short)
    if size.spot_price is not None:
        spot = round(size.spot_price * factor, 6)
        yield item(spot, product, f"{short} Spot", f"{short} Spot")
        yield item(round(spot * 1.9, 6), f"{product} Windows", f"{short} Spot", f"{short} Spot")


def _item(
    currency: str,
    region: str,
    place: str,
    price: float,
    product: str,
    sku: str,
    meter: str,
    size: str,
    *,
    kind: str = "Consumption",
    term: str = "",
    service: str = "Virtual Machines",
) -> dict[str, Any]:
    product_id = f"DZH318{abs(hash_of(product)) % 16**6:06X}"
    item: dict[str, Any] = {
        "currencyCode": currency,
        "tierMinimumUnits": 0.0,
        "retailPrice": price,
        "unitPrice": price,
        "armRegionName": region,
        "location": place,
        "effectiveStartDate": "2022-04-01T00:00:00Z",
        "meterId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{region}{product}{meter}{kind}")),
        "meterName": meter,
        "productId": product_id,
        "skuId": f"{product_id}/{abs(hash_of(sku)) % 16**4:04X}",
        "productName": product,
        "skuName": sku,
        "serviceName": service,
        "serviceId": "DZH313Z7MMC8" if service == "Virtual Machines" else "DZH317F1HKN0",
        "serviceFamily": "Compute" if service == "Virtual Machines" else "Storage",
        "unitOfMeasure": "1 Hour",
        "type": kind,
        "isPrimaryMeterRegion": True,
        "armSkuName": size,
    }
    if term:
        item["reservationTerm"] = term
    return item


def hash_of(text: str) -> int:
    """The same for a text in every process."""
    return uuid.uuid5(uuid.NAMESPACE_URL, text).int
