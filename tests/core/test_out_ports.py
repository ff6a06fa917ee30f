"""OUT ports of jobs, and who else wants them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from rpc_kit.errors import Problem
from swm_core.domain.job import Direction, Job, JobSpec, Port
from swm_core.domain.states import JobState
from swm_core.gateways import backoff, tunnels
from swm_core.gateways.problems import DOMAIN, GateError
from swm_core.lifecycle.ports import PortForwards


async def test_a_port_that_somebody_else_has_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0
    told: list[str] = []
    listens = asyncio.Event()

    async def listen(*_: object) -> AsyncIterator[None]:
        nonlocal tries
        tries += 1
        if tries < 3:
            code = grpc.StatusCode.FAILED_PRECONDITION
            problem = Problem(code, "PORT_IN_USE", DOMAIN, "it is taken")
            raise GateError("lab", problem)
        yield None
        listens.set()
        await asyncio.Event().wait()

    async def note(job_id: str, text: str) -> None:
        told.append(text)

    async def ready() -> None:
        pass

    monkeypatch.setattr(tunnels, "listen", listen)
    monkeypatch.setattr(backoff.Backoff, "next", lambda *_: 0.0)
    context: Any = SimpleNamespace(
        installation="abc",
        jobs=SimpleNamespace(note=note),
        store=SimpleNamespace(roots=SimpleNamespace(of=lambda *_: ())),
    )
    gate: Any = SimpleNamespace(info=None, wait_ready=ready, chooses_nodes=lambda _: False)
    spec = JobSpec(ports=(Port(8081, Direction.OUT),))
    job = Job("j1", "ann", spec, "", JobState.STARTING, 1.0, 1.0, attempt=1, site="lab")
    forwards = PortForwards(context)
    try:
        # Who starts the job does not wait for the port.
        await forwards.open_out(job, gate)
        async with asyncio.timeout(20):
            await listens.wait()
    finally:
        forwards.close_all()
        await asyncio.sleep(0)
    assert told == ["port 8081: it is taken"] * 2
