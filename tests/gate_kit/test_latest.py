"""Of several streams about one thing the latest counts."""

from __future__ import annotations

import asyncio

import pytest

from gate_kit import LatestWins, Refusal, errors


async def test_the_holder_before_is_ended_and_has_let_go_when_the_next_begins() -> None:
    latest = LatestWins()
    told: list[str] = []
    held = asyncio.Event()

    async def hold(name: str, until: asyncio.Event) -> None:
        try:
            async with latest.hold("k", lambda: errors.replaced("Listen")):
                told.append(f"{name} holds")
                held.set()
                try:
                    await until.wait()
                finally:
                    told.append(f"{name} lets go")
        except Refusal as refusal:
            told.append(f"{name} {refusal.reason}")

    first = asyncio.create_task(hold("first", asyncio.Event()))
    await held.wait()
    go = asyncio.Event()
    second = asyncio.create_task(hold("second", go))
    await first
    go.set()
    await second
    assert told.index("first lets go") < told.index("second holds")
    assert "first REPLACED" in told
    assert "second REPLACED" not in told


async def test_one_that_waits_for_its_turn_is_replaced_as_well() -> None:
    latest = LatestWins()
    slow, held = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        async with latest.hold("k", lambda: errors.replaced("x")):
            held.set()
            try:
                await asyncio.Event().wait()
            finally:
                await slow.wait()

    async def hold() -> str:
        try:
            async with latest.hold("k", lambda: errors.replaced("x")):
                return "held"
        except Refusal as refusal:
            return refusal.reason

    first = asyncio.create_task(stubborn())
    await held.wait()
    second = asyncio.create_task(hold())
    await asyncio.sleep(0)
    third = asyncio.create_task(hold())
    await asyncio.sleep(0)
    slow.set()
    assert (await second, await third) == ("REPLACED", "held")
    with pytest.raises(Refusal):
        await first


async def test_a_holder_is_ended_by_somebody_else() -> None:
    latest = LatestWins()
    held = asyncio.Event()

    async def hold() -> None:
        async with latest.hold("k", lambda: errors.replaced("x")):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await held.wait()
    await latest.end("other", errors.busy("not it"))
    await latest.end("k", errors.busy("cancelled"))
    with pytest.raises(Refusal, match="cancelled"):
        await task


async def test_a_cancelled_caller_stays_cancelled() -> None:
    latest = LatestWins()
    held = asyncio.Event()

    async def hold() -> None:
        async with latest.hold("k", lambda: errors.replaced("x")):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
