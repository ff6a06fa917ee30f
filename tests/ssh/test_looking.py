"""How the gate learns what happens on hosts: by few questions, and by being told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gate_kit.ssh import growth
from gate_kit.ssh.answers import HostRefused
from gate_kit.ssh.glances import Glance
from gate_kit.ssh.growth import Growth
from gate_kit.ssh.host import Host
from gate_kit.ssh.shell import Reply
from gate_kit.ssh.transport import Transport

_WITHIN_S = 20.0


@pytest.fixture
async def host(transport: Transport, tmp_path: Path) -> AsyncIterator[Host]:
    """An account with a place of its own."""
    made = Host(transport, "hosts", str(tmp_path / "root"))
    await made.make_root()
    (tmp_path / "root" / "jobs").mkdir()
    yield made
    await made.close()


async def test_what_grows_after_a_silence_is_told_without_being_asked(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first question is the last one for an hour.
    monkeypatch.setattr(growth, "_PAUSE_S", (0.01, 3600.0))
    monkeypatch.setattr(growth, "_SLOWER", 360_000.0)
    file = tmp_path / "root" / "jobs" / "stdout.n1"
    file.write_text("")
    asked = _noted(host)
    async with asyncio.timeout(_WITHIN_S):
        with Growth(host).watch({"stdout.n1": 0}) as grown:
            await asked.answered.wait()
            while not grown.is_set():
                # Once will do, but nobody tells when the host has begun to watch.
                with file.open("a") as writing:
                    writing.write("a line\n")
                await _set_within(grown, 0.1)


class _Noted:
    """What a host is asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, ...]] = []
        self.begun = asyncio.Event()
        self.answered = asyncio.Event()


def _noted(host: Host) -> _Noted:
    noted = _Noted()
    ask = host.ask

    async def noting(verb: str, *words: str, data: bytes = b"") -> Reply:
        noted.requests.append((verb, *words))
        noted.begun.set()
        reply = await ask(verb, *words, data=data)
        noted.answered.set()
        return reply

    host.ask = noting  # type: ignore[method-assign]
    return noted


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def test_those_who_look_meanwhile_look_together_afterwards(host: Host) -> None:
    asked = _noted(host)
    glance = Glance(host)
    first = asyncio.create_task(glance.look("hosts/i/a.1", ""))
    async with asyncio.timeout(_WITHIN_S):
        await asked.begun.wait()
        others = [glance.look(f"hosts/i/{name}.1", "") for name in ("b", "c", "b")]
        found = await asyncio.gather(first, *others)
    assert [len(words) for words in asked.requests] == [1 + 2, 1 + 4]
    assert all(lines[0].startswith("root_uid ") for lines in found)


async def test_who_expects_another_place_is_refused_alone(host: Host) -> None:
    glance = Glance(host)
    told = await asyncio.gather(
        glance.look("hosts/i/a.1", "elsewhere"),
        glance.look("hosts/i/b.1", ""),
        return_exceptions=True,
    )
    assert isinstance(told[0], HostRefused)
    assert told[0].reason == "SITE_CHANGED"
    assert isinstance(told[1], list)


async def test_all_who_look_are_told_when_the_host_is_lost(host: Host) -> None:
    glance = Glance(host)

    async def gone(verb: str, *words: str, data: bytes = b"") -> Reply:
        raise HostRefused("n1", "BUSY", "gone")

    host.ask = gone  # type: ignore[method-assign]
    told = await asyncio.gather(
        *(glance.look(f"hosts/i/{name}.1", "") for name in "abc"), return_exceptions=True
    )
    assert all(isinstance(each, HostRefused) for each in told)
