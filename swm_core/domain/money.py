"""Amounts of money, exact, and never added over currencies."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

DEFAULT_CURRENCY = "USD"
"""Of an amount that is written without one."""

_TEXT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,4})?)(?:[ \t]+([A-Za-z]{3}))?", re.ASCII)
_HOUR_S = 3_600


@dataclasses.dataclass(frozen=True, slots=True)
class Money:
    """An amount in one currency."""

    amount: Decimal
    currency: str
    """ISO 4217 code."""

    @classmethod
    def parse(cls, text: str) -> Money:
        """The amount that `2.50 EUR` stands for; without a currency it is in USD.

        Raises:
            ValueError: It is none; the message says what one looks like.
        """
        found = _TEXT.fullmatch(text.strip())
        if not found:
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            raise ValueError(
                f'"{shown}" is not an amount of money; write it with its currency, as "2.50 EUR"'
            )
        return cls(Decimal(found[1]), (found[2] or DEFAULT_CURRENCY).upper())

    def __str__(self) -> str:
        return show(self.amount, self.currency)


def show(amount: Decimal, currency: str) -> str:
    """An amount as people write it, as `1.75 USD`; less than a cent with four digits."""
    digits = 4 if amount and abs(amount) < Decimal("0.1") else 2
    return f"{amount:.{digits}f} {currency}"


def cost_of(price_per_hour: Decimal, nodes: int, seconds: float) -> Decimal:
    """What so many nodes cost for so long."""
    return price_per_hour * nodes * Decimal(max(0.0, seconds)) / _HOUR_S
