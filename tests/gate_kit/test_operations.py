"""Work that outlives the call that asked for it, and one mutation of an object at a time."""

from __future__ import annotations

import asyncio

import pytest

from gate_kit import Operations, Refusal, errors


async def test_work_goes_on_when_its_caller_is_cancelled() -> None:
    operations = Operations()
    begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await go.wait()
        done.set()
        return "made"

    caller = asyncio.create_task(operations.run(("create", "p"), work))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    retry = asyncio.create_task(operations.run(("create", "p"), work))
    await asyncio.sleep(0)
    assert not done.is_set()
    go.set()
    assert await retry == "made"


async def test_callers_with_the_same_key_join_one_work() -> None:
    operations = Operations()
    calls = 0

    async def work() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return calls

    answers = await asyncio.gather(*(operations.run(("k",), work) for _ in range(6)))
    assert answers == [1] * 6
    # What has ended is not under way: the next one is a work of its own.
    assert await operations.run(("k",), work) == 2


async def test_works_on_one_object_go_one_after_the_other() -> None:
    operations = Operations()
    inside: list[str] = []
    most = 0

    async def work(name: str) -> None:
        nonlocal most
        inside.append(name)
        most = max(most, len(inside))
        await asyncio.sleep(0)
        inside.remove(name)

    await asyncio.gather(
        *(operations.run((name,), lambda name=name: work(name), on="object") for name in "abcd")  # type: ignore[misc]
    )
    assert most == 1
    await asyncio.gather(
        *(operations.run((name,), lambda name=name: work(name), on=name) for name in "abcd")  # type: ignore[misc]
    )
    assert most > 1


async def test_who_joined_gets_the_refusal_too() -> None:
    operations = Operations()

    async def work() -> None:
        await asyncio.sleep(0)
        raise errors.busy("no")

    found = await asyncio.gather(
        *(operations.run(("k",), work) for _ in range(3)), return_exceptions=True
    )
    assert [each.reason for each in found if isinstance(each, Refusal)] == ["BUSY"] * 3


async def test_interrupted_work_ends_and_tells_its_callers_why() -> None:
    operations = Operations()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(operations.run(("start", "j", "fp"), work, on="j"))
    await begun.wait()
    operations.interrupt(errors.busy("ended"), "start", "other")
    operations.interrupt(errors.busy("ended"), "start", "j")
    with pytest.raises(Refusal, match="ended"):
        await caller
    # The object is free again.
    async with asyncio.timeout(5), operations.exclusive("j"):
        pass


async def test_close_waits_for_work_and_ends_the_background() -> None:
    operations = Operations()
    done: list[str] = []
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(0.05)
        done.append("work")

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append("background")

    operations.spawn(background(), "background")
    caller = asyncio.create_task(operations.run(("k",), work))
    await begun.wait()
    await operations.close()
    assert sorted(done) == ["background", "work"]
    await caller
    with pytest.raises(Refusal) as late:
        await operations.run(("k",), work)
    assert late.value.reason == "SHUTTING_DOWN"


async def test_close_cuts_what_takes_longer_than_its_grace() -> None:
    operations = Operations()
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(operations.run(("k",), hang))
    await begun.wait()
    async with asyncio.timeout(5):
        await operations.close(0.01)
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    operations = Operations()
    begun, go = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        raise RuntimeError("broken")

    caller = asyncio.create_task(operations.run(("k",), work))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await operations.close()
    assert "failed" in caplog.text
