"""What a cloud says: sizes, prices, errors."""

from __future__ import annotations

import datetime
import json
from typing import Any

import yarl

from gates.azure_gate import errors, skus
from gates.azure_gate import prices as price_list

_NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
_URL = yarl.URL("https://prices.example/list")

WORDS = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"1e99", b"NaN", b"-1", b'"x"'),
    *(b'"value":', b'"name":', b'"Items":', b'"error":', b'"details":', b'"capabilities":'),
    *(b"9" * 400, b"\xff", b"\0", b'"restrictions":[1]', b'"locations":{}', b'"message":"{}"'),
)
SIZES = (
    json.dumps(
        {
            "resourceType": "virtualMachines",
            "name": "Standard_NC4as_T4_v3",
            "family": "f",
            "locations": ["here"],
            "locationInfo": [{"location": "here", "zones": ["1", "2"]}],
            "capabilities": [
                {"name": "vCPUs", "value": "4"},
                {"name": "MemoryGB", "value": "0.75"},
                {"name": "GPUs", "value": "1"},
                {"name": "CpuArchitectureType", "value": "Arm64"},
            ],
            "restrictions": [
                {"type": "Zone", "values": ["here"], "restrictionInfo": {"zones": ["1"]}}
            ],
        }
    ).encode(),
)
PRICES = (
    json.dumps(
        {
            "Items": [
                {
                    "type": "Consumption",
                    "armSkuName": "Standard_X",
                    "armRegionName": "here",
                    "unitOfMeasure": "1 Hour",
                    "retailPrice": 0.1,
                    "skuName": "X Spot",
                    "effectiveStartDate": "2022-04-01T00:00:00Z",
                }
            ],
            "NextPageLink": "https://prices.example:443/list?$skip=1",
        }
    ).encode(),
)
ERRORS = (
    (
        b'{"error":{"code":"Conflict","message":"{\\"error\\":{\\"code\\":\\"QuotaExceeded\\"}}",'
        b'"details":[{"code":"AllocationFailed","message":"m"}]}}'
    ),
    b'{"error":"invalid_client","error_description":"AADSTS700027: x"}',
)


def sizes(data: bytes) -> None:
    """An item of the list of sizes."""
    for item in _objects(data):
        sku = skus.read_one(item, "here")
        if sku is not None:
            assert sku.cpus > 0
            assert sku.memory_bytes > 0
            skus.flavor(sku).SerializeToString()


def prices(data: bytes) -> None:
    """A page of the list of prices."""
    try:
        items, following = price_list.read_page(data, _URL)
    except price_list.PricesError:
        return
    assert following is None or price_list.is_same_place(following, _URL)
    for price in price_list.read(items, "here", _NOW).values():
        for amount in (price.on_demand, price.spot):
            told = price_list.hourly(amount, _NOW)
            if told is not None:
                assert told.amount.units > 0 or told.amount.nanos > 0
                told.SerializeToString()


def problems(data: bytes) -> None:
    """The body of an error."""
    problem = errors.parse(409, data, retry_after="7")
    assert problem.kind in errors.Kind
    assert problem.text
    assert errors.refusal(problem, "doing").to_status("d").details
    errors.failure(problem, "doing").SerializeToString()


def _objects(data: bytes) -> list[dict[str, Any]]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return []
    found = told if isinstance(told, list) else [told]
    return [item for item in found if isinstance(item, dict)]
