"""What machines cost, from Azure's list of retail prices, which anybody may read.

https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices tells of it.
A contract may make machines cheaper; it never makes them dearer than this list.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import email.utils
import json
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyport.common.v1 import money_pb2

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import yarl

CURRENCY = "USD"

_HOUR = "1 Hour"
_NANO = Decimal(1).scaleb(-9)
_MOST = Decimal(1_000_000)
"""No machine costs so much an hour: what does is a mistake of somebody."""
_MOST_PAGES = 200
"""A region has some twenty, of a thousand items each."""
_MOST_BYTES = 16 << 20
"""A page has about one megabyte."""
_CALL_S = 30.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class PricesError(Exception):
    """The list can't be had now; the text is one line that says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """What an hour of a size costs, in `CURRENCY`; None: not known, or not to be had so."""

    on_demand: Decimal | None = None
    spot: Decimal | None = None


def read(
    items: Iterable[Mapping[str, Any]], location: str, now: datetime.datetime
) -> dict[str, Price]:
    """The prices of a location, by the name of the size in lower case.

    Args:
        items: Of the list, with prices as Decimal.
        location: Items of others are left out.
        now: Prices that begin later are left out.
    """
    best: dict[tuple[str, bool], tuple[tuple[bool, str], Decimal]] = {}
    for item in items:
        amount = _amount(item, location, now)
        if amount is None:
            continue
        key = (str(item["armSkuName"]).casefold(), " Spot" in str(item.get("skuName")))
        # A meter of another region than the main one may stand beside it, and an earlier price.
        rank = (item.get("isPrimaryMeterRegion") is not False, str(item.get("effectiveStartDate")))
        if key not in best or (rank, amount) > best[key]:
            best[key] = (rank, amount)
    prices: dict[str, Price] = {}
    for (name, is_spot), (_, amount) in best.items():
        told = prices.get(name, Price())
        change = {"spot": amount} if is_spot else {"on_demand": amount}
        prices[name] = dataclasses.replace(told, **change)
    return prices


def hourly(amount: Decimal | None, as_of: datetime.datetime) -> money_pb2.HourlyPrice | None:
    """The message that tells of a price; none of one that is not known."""
    if amount is None:
        return None
    exact = amount.quantize(_NANO)
    units = int(exact)
    told = money_pb2.HourlyPrice(
        amount=money_pb2.Money(
            currency_code=CURRENCY, units=units, nanos=int((exact - units) / _NANO)
        )
    )
    told.as_of.FromDatetime(as_of)
    return told


async def fetch(url: str, location: str, *, ca_file: str, within_s: float) -> dict[str, Price]:
    """Ask for the prices of a location.

    What is throttled or fails for a moment is asked for again, within the time that there is.

    Args:
        url: Of the list.
        location: Its name, as "westeurope".
        ca_file: Certificates to trust, PEM; empty: those of the system.
        within_s: For all of it.

    Raises:
        PricesError: It was not had in that time, or is not such a list.
    """
    import aiohttp
    import yarl

    deadline = time.monotonic() + within_s
    now = datetime.datetime.now(datetime.UTC)
    items: list[Mapping[str, Any]] = []
    timeout = aiohttp.ClientTimeout(total=_CALL_S)
    # Proxies of the environment count, as they do for the rest of what Azure is asked.
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        client = _Client(session, url, trust(ca_file), deadline)
        page: yarl.URL | None = client.first(location)
        seen: set[yarl.URL] = set()
        while page is not None:
            if page in seen or len(seen) >= _MOST_PAGES:
                raise PricesError(f"the price list at {url} does not end")
            seen.add(page)
            found, page = read_page(await client.get(page), yarl.URL(url))
            # Three of four are of no use, and there are tens of thousands.
            items += (item for item in found if _amount(item, location, now) is not None)
    return read(items, location, now)


def read_page(body: bytes, url: yarl.URL) -> tuple[Sequence[Mapping[str, Any]], yarl.URL | None]:
    """The items of a page of the list at `url`, and where the next page is.

    Raises:
        PricesError: It is not such a page.
    """
    import yarl

    try:
        page = json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError):
        page = None
    items = page.get("Items") if isinstance(page, dict) else None
    if not isinstance(page, dict) or not isinstance(items, list):
        raise PricesError(f"what {url} answers is no list of prices")
    if not all(isinstance(item, dict) for item in items):
        raise PricesError(f"what {url} answers is no list of prices")
    link = page.get("NextPageLink")
    if not link:
        return items, None
    try:
        following = yarl.URL(str(link))
        if is_same_place(following, url):
            return items, following
    except ValueError:
        pass
    raise PricesError(f"{url} goes on elsewhere, at {str(link)[:200]}")


def is_same_place(one: yarl.URL, other: yarl.URL) -> bool:
    """Whether both are of one server; the list writes out the port, which makes another origin."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _amount(item: Mapping[str, Any], location: str, now: datetime.datetime) -> Decimal | None:
    """What an item says that an hour costs; None if it is none of ours."""
    product, meter = str(item.get("productName")), str(item.get("meterName"))
    sku = str(item.get("skuName"))
    if (
        item.get("type") != "Consumption"
        or not item.get("armSkuName")
        or item.get("unitOfMeasure") != _HOUR
        or item.get("currencyCode", CURRENCY) != CURRENCY
        or str(item.get("armRegionName")).casefold() != location.casefold()
        or " Win" in product
        or "CloudServices" in product.replace(" ", "")
        or "Dedicated" in product
        or "Low Priority" in meter
        or "Low Priority" in sku
        or _decimal(item.get("tierMinimumUnits"))
        or _begins_after(item, now)
    ):
        return None
    amount = _decimal(item.get("retailPrice"))
    # Nothing is given away: a zero is a price that nobody has entered.
    return amount if _NANO <= amount < _MOST else None


def _decimal(value: Any) -> Decimal:
    """A number that is not negative; zero if it is none."""
    if not isinstance(value, int | str | Decimal) or isinstance(value, bool):
        return Decimal(0)
    try:
        number = Decimal(value)
    except InvalidOperation:
        return Decimal(0)
    return number if number.is_finite() and number > 0 else Decimal(0)


def _begins_after(item: Mapping[str, Any], now: datetime.datetime) -> bool:
    try:
        begin = datetime.datetime.fromisoformat(str(item.get("effectiveStartDate")))
    except ValueError:
        return False
    return begin.replace(tzinfo=begin.tzinfo or datetime.UTC) > now


def trust(ca_file: str) -> ssl.SSLContext:
    """Whom to trust: the certificates in a file (PEM), or those of the system.

    Raises:
        PricesError: There are none in it.
    """
    import ssl

    path = str(Path(ca_file).expanduser()) if ca_file else None
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise PricesError(f"{ca_file} holds no certificates: {error.strerror or error}") from None


def why_of(error: Exception) -> str:
    """What an error of aiohttp says, without the objects that it would show."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return str(error) or type(error).__name__


class _Client:
    """Asks for pages of the list, again where that helps."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, trust: ssl.SSLContext, deadline: float
    ) -> None:
        import yarl

        self._session = session
        self._url = yarl.URL(url)
        self._trust = trust
        self._deadline = deadline

    def first(self, location: str) -> yarl.URL:
        wanted = (
            "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
            f"and armRegionName eq '{location}'"
        )
        return self._url.with_query({"$filter": wanted})

    async def get(self, page: yarl.URL) -> bytes:
        """One page, as it is on the wire.

        Raises:
            PricesError: It is refused, or was not had in time.
        """
        import aiohttp

        pause_s = _FIRST_PAUSE_S
        why = ""
        while True:  # ends by the deadline
            wanted_s: float | None = None
            try:
                async with self._session.get(
                    page, ssl=self._trust, allow_redirects=False, timeout=self._timeout()
                ) as answer:
                    if answer.status == 200:
                        return await _body(answer)
                    why = f"{self._url} answers {answer.status} {answer.reason or ''}".strip()
                    if answer.status != 429 and answer.status < 500:
                        raise PricesError(why)
                    wanted_s = _retry_after_s(answer.headers.get("Retry-After", ""))
            except TimeoutError:
                # What was wrong before tells more than that our time was over.
                why = why or f"{self._url} does not answer"
            except aiohttp.ClientError as error:
                why = f"{self._url} can't be reached: {why_of(error)}"
            # Many gates that were throttled together don't come back together; and one that is told
            # to come back at once does not do so again and again.
            wait_s = max(wanted_s or 0.0, pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # nosec B311
            if time.monotonic() + wait_s >= self._deadline:
                raise PricesError(why)
            await asyncio.sleep(wait_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _timeout(self) -> aiohttp.ClientTimeout:
        import aiohttp

        left_s = max(self._deadline - time.monotonic(), 0.001)
        return aiohttp.ClientTimeout(total=min(_CALL_S, left_s))


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > _MOST_BYTES:
            raise PricesError(f"a page of {answer.url.origin()} is larger than any list of prices")
        parts.append(part)
    return b"".join(parts)


def _retry_after_s(text: str) -> float | None:
    """The seconds that an answer asks to wait: a number, or a time (RFC 9110, 10.2.3)."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        when = when.replace(tzinfo=when.tzinfo or datetime.UTC)
        seconds = (when - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
