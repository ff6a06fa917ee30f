"""The rules of networks follow the address that we come from, and nothing else writes them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from gate_kit import Operations
from gates.azure_gate.answers import Group
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.egress import Egress
from gates.azure_gate.partitions import Known, Partitions
from gates.azure_gate.rules import Rules
from tests.azure_gate.harness import CREATING, READY, STOPPED
from tests.azure_gate.test_texts import make_tags

HOME, OFFICE = ("203.0.113.1",), ("203.0.113.2",)
WITHIN_S = 30.0


@dataclasses.dataclass
class One:
    """A partition, as far as rules go."""

    name: str
    state: Any = READY
    is_making: bool = False
    location: str = "westeurope"

    @property
    def group(self) -> Group:
        return Group(self.name, self.location, make_tags(), "i", False)


class Site:
    """Where we are, and what Azure has; in place of `Egress`, `Cloud` and `Partitions`."""

    may_change = True

    def __init__(self) -> None:
        self.asked = 0
        self.one, self.other = One("one"), One("other")
        self.known = {"one": self.one, "other": self.other}
        self.written: dict[str, tuple[str, ...]] = {"one": HOME, "other": HOME}

    async def sources(self, *, fresh: bool = False) -> Sequence[str]:
        self.asked += 1
        return HOME

    async def nsg_sources(self, group: str) -> tuple[str, ...]:
        return self.written.get(group, ())

    async def put_nsg(self, group: str, location: str, sources: Sequence[str]) -> None:
        self.written[group] = tuple(sources)


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, Rules]]:
    site, operations = Site(), Operations()
    rules = Rules(cast("Egress", site), cast("Cloud", site), cast("Partitions", site), operations)
    rules.open()
    yield site, rules
    await operations.close(0.0)


async def looked(site: Site, rules: Rules) -> None:
    """Have all rules looked at; the second time the first has had its effect."""
    for _ in range(2):
        asked = site.asked
        rules.suspect(cast("Known", site.one), "n0")
        async with asyncio.timeout(WITHIN_S):
            while site.asked == asked:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # nobody tells that it was asked


async def test_rules_that_were_written_at_another_place_are_written_again(
    site: tuple[Site, Rules],
) -> None:
    azure, rules = site
    await looked(azure, rules)
    azure.one.state = STOPPED
    await looked(azure, rules)
    # Started again at the office, and taken home.
    azure.written["one"], azure.one.state = OFFICE, READY
    await looked(azure, rules)
    assert azure.written == {"one": HOME, "other": HOME}


async def test_rules_that_are_not_there_are_left_to_who_makes_them(
    site: tuple[Site, Rules],
) -> None:
    azure, rules = site
    azure.one.state, azure.one.is_making = CREATING, True
    del azure.written["one"]
    await looked(azure, rules)
    assert "one" not in azure.written
    azure.written["one"] = OFFICE
    await looked(azure, rules)
    assert azure.written["one"] == HOME
