"""Values as people read them. Pure."""

from __future__ import annotations

import datetime
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from skyport.common.v1.money_pb2 import HourlyPrice, Money

NOTHING = "-"
"""Stands where there is no value, so that columns stay columns."""

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text of others in one line, without what could move a terminal's cursor or turn its text."""
    return _CONTROL.sub(
        lambda found: " " if found[0] in "\n\r\t" else "\N{REPLACEMENT CHARACTER}", text
    )


def cell(text: str) -> str:
    """Text of others for a column; never empty."""
    return plain(text).strip() or NOTHING


def span(seconds: float) -> str:
    """A duration in its two largest units, as `1d2h` or `4m5s`."""
    rest = max(0, int(seconds))
    parts = []
    for unit, letter in _UNITS:
        count, rest = divmod(rest, unit)
        if count:
            parts.append((unit, f"{count}{letter}"))
    if not parts:
        return "0s"
    shown = parts[0][1]
    if len(parts) > 1 and _follows(parts[0][0], parts[1][0]):
        shown += parts[1][1]
    return shown


def _follows(unit: int, smaller: int) -> bool:
    """Whether `smaller` is the next unit below: `1d5s` would tell more than it knows."""
    order = [size for size, _ in _UNITS]
    return order.index(smaller) == order.index(unit) + 1


def ago(at: Timestamp) -> str:
    """How long ago, as `3m4s ago`."""
    return f"{span(time.time() - at.seconds)} ago"


def moment(at: Timestamp) -> str:
    """A time of day here, as `2026-11-22 21:03:11`."""
    return _local(at).strftime("%Y-%m-%d %H:%M:%S")


def short_moment(at: Timestamp) -> str:
    """A time for a column: without seconds, and of this year without the year."""
    local = _local(at)
    same_year = local.year == datetime.datetime.now().astimezone().year
    return local.strftime("%m-%d %H:%M" if same_year else "%Y-%m-%d")


def _local(at: Timestamp) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at.seconds, datetime.UTC).astimezone()


def money(amount: Money) -> str:
    """An amount, as `1.75 USD`; less than a cent with four digits."""
    billionths = amount.units * 10**9 + amount.nanos
    digits = 2 if billionths % 10**7 == 0 or abs(billionths) >= 10**9 else 4
    value = billionths / 10**9
    return f"{value:.{digits}f} {plain(amount.currency_code)}"


def hourly(price: HourlyPrice) -> str:
    """A price, as `1.75 USD/h`; one without a currency is none."""
    return f"{money(price.amount)}/h" if price.amount.currency_code else NOTHING


def counted(number: int, one: str, many: str = "") -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {one if number == 1 else many or one + 's'}"
