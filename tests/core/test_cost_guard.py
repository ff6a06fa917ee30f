"""What watches costs outlives what it watches."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from swm_core.domain.money import Money
from swm_core.lifecycle.cost_guard import CostGuard
from swm_core.lifecycle.live import NotLive


async def test_a_partition_that_goes_while_it_is_looked_at_ends_nothing() -> None:
    asked = asyncio.Event()

    class Partitions(list[Any]):
        def listen(self, listener: object) -> None:
            pass

        async def note(self, partition_id: str, **_: object) -> None:
            asked.set()
            raise NotLive(f"partition {partition_id} is gone")

    idle = SimpleNamespace(
        partition_id="p1",
        owner="ann",
        site="cloud",
        price_per_hour=Decimal(1),
        currency="USD",
        idle_since=1.0,
        jobs=(),
        pauses=(),
        create_time=0.0,
        delete_time=None,
        ready_time=0.0,
        spec=SimpleNamespace(node_count=1),
    )
    context: Any = SimpleNamespace(
        clock=lambda: 2.0,
        partitions=Partitions([idle]),
        jobs=SimpleNamespace(listen=lambda _: None),
    )
    book: Any = SimpleNamespace(
        budget_of=lambda _: Money(Decimal(1), "USD"),
        spent_by=lambda *_: Decimal(2),
        budget_of_site=lambda _: None,
    )
    running = asyncio.create_task(CostGuard(context, book).run())
    try:
        async with asyncio.timeout(20):
            await asked.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
