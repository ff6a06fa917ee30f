"""Connections of a job that a terminal was told of and does not take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from skyport.terminal.v1 import tunnel_pb2
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.terminal import tunnels
from swm_core.terminal.tunnels import TunnelService


async def test_those_that_nobody_takes_do_not_fill_up_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnels, "_UNACCEPTED_S", 0.05)
    monkeypatch.setattr(tunnels, "_WAITING_CONNECTIONS", 2)
    take_overs: list[Any] = []

    @contextlib.contextmanager
    def taking_over(job: Job, port: int, take_over: object) -> Iterator[asyncio.Event]:
        take_overs.append(take_over)
        yield asyncio.Event()

    job = Job("j1", "ann", JobSpec(), "", JobState.RUNNING, 1.0, 1.0, attempt=1)
    context: Any = SimpleNamespace(jobs=SimpleNamespace(get=lambda _: job))
    forwards: Any = SimpleNamespace(taking_over=taking_over)
    access: Any = SimpleNamespace(job=lambda _: job)
    call: Any = None
    service = TunnelService(context, forwards, access)
    request = tunnel_pb2.ListenRequest(job_id="j1", port=8081)
    async with contextlib.aclosing(service.Listen(request, call)) as listening:  # type: ignore[type-var]
        await anext(listening)
        told = [asyncio.create_task(take_overs[0](None, str(number))) for number in range(3)]
        _, waiting = await asyncio.wait(told, timeout=20)
    assert not waiting
    for each in told:
        each.result()
