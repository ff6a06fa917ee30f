"""IN ports of jobs, and who is told where the core listens for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from swm_core.config import Ports
from swm_core.domain.job import Direction, Job, JobSpec, Port
from swm_core.domain.states import JobState
from swm_core.lifecycle.ports import PortForwards
from swm_core.store import StoreUnavailable


async def test_ports_are_told_when_the_store_can_write_again() -> None:
    told: list[dict[str, int]] = []
    full = True

    async def note(job_id: str, *, local_ports: dict[str, int]) -> None:
        if full:
            raise StoreUnavailable("the disk is full")
        told.append(local_ports)

    context: Any = SimpleNamespace(ports=Ports(), jobs=SimpleNamespace(note=note))
    gate: Any = SimpleNamespace(info=None)
    spec = JobSpec(ports=(Port(8888, Direction.IN),))
    job = Job("j1", "ann", spec, "", JobState.RUNNING, 1.0, 1.0, attempt=1, site="lab")
    forwards = PortForwards(context)
    try:
        with pytest.raises(StoreUnavailable):
            await forwards.open(job, gate)
        full = False
        await forwards.open(job, gate)
        (ports,) = told
        assert list(ports) == ["8888"]
        # Once is enough.
        await forwards.open(job, gate)
        assert len(told) == 1
    finally:
        forwards.close_all()
