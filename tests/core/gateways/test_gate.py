"""What a site is while the connection to its gate stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import precondition
from swm_core.gateways import gate as gates
from swm_core.gateways.gate import Gate
from swm_core.gateways.health import SiteState
from swm_core.gateways.problems import DOMAIN


@pytest_asyncio.fixture
async def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    """One that is connected, and whose gate says that it is well."""
    monkeypatch.setattr(gates, "_PROBE_EVERY_S", 0.01)
    gate = Gate(
        "lab",
        Endpoint(path=tmp_path / "gate.sock"),
        keys=None,
        installation="abc",
        process=None,
        core_version="1",
    )

    async def watch(synced: asyncio.Event) -> None:
        synced.set()
        await asyncio.Event().wait()

    async def probe() -> bool:
        return True

    monkeypatch.setattr(gate, "_watch_jobs", watch)
    monkeypatch.setattr(gate, "_watch_partitions", watch)
    monkeypatch.setattr(gate, "_probe", probe)
    staying = asyncio.create_task(gate._stay_current())
    async with asyncio.timeout(20):
        await gate.wait_ready()
    yield gate
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)
    await gate._connection.close()


async def test_a_gate_that_was_not_ready_for_a_while_is_ready_again(gate: Gate) -> None:
    gate._health.become(SiteState.STARTING, "it logs in anew")
    assert not gate.ready
    async with asyncio.timeout(20):
        await gate.wait_ready()


async def test_a_site_that_a_call_told_to_be_broken_is_tried_again(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = precondition("PERMISSION_MISSING", "it may make no networks").to_status(DOMAIN)
    trailing = grpc.aio.Metadata(*status.trailing_metadata)
    gate.problem(grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details))
    assert gate.state is SiteState.BROKEN
    await asyncio.sleep(0.1)
    assert gate.message == "it may make no networks"
    monkeypatch.setattr(gates, "_BROKEN_S", 0.0)
    async with asyncio.timeout(20):
        await gate.wait_ready()
