"""What is told of a gate's process that has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rpc_kit.endpoint import Endpoint
from swm_core.gateways import process
from swm_core.gateways.process import GateProcess


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo no such host; exit 2", "it ended with exit code 2, saying: no such host"),
        (
            """echo '{"level": "ERROR", "message": "no key"}'; exit 3""",
            "it ended with exit code 3, saying: no key",
        ),
        ("echo '[1, 2]'; exit 4", "it ended with exit code 4, saying: [1, 2]"),
        ("echo all is well; kill -KILL $$", "it was ended by signal 9"),
    ],
)
async def test_an_end_is_told_with_the_words_that_explain_it(
    tmp_path: Path, script: str, says: str
) -> None:
    endpoint = Endpoint.parse(f"unix://{tmp_path}/gate.sock")
    gate = GateProcess("lab", ["sh", "-c", script, "gate"], endpoint, tmp_path / "gate.log")
    running = asyncio.create_task(gate.run())
    async with asyncio.timeout(60):
        while not gate.last_exit:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert gate.last_exit == says


async def test_the_log_of_a_gate_that_runs_and_runs_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LOG_BYTES", 10_000)
    monkeypatch.setattr(process, "_LOG_LOOK_S", 0.01)
    endpoint = Endpoint.parse(f"unix://{tmp_path}/gate.sock")
    script = f"while [ ! -e {tmp_path}/enough ]; do echo so it goes; done; exit 5"
    gate = GateProcess("lab", ["sh", "-c", script, "gate"], endpoint, tmp_path / "gate.log")
    running = asyncio.create_task(gate.run())
    times: set[int] = set()
    old = tmp_path / "gate.log.1"
    async with asyncio.timeout(60):
        while len(times) < 3:
            await asyncio.sleep(0.01)
            if old.exists():
                times.add(old.stat().st_mtime_ns)
        (tmp_path / "enough").touch()
        while not gate.last_exit:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert old.stat().st_size > 10_000
    assert set(old.read_bytes()[:-20].splitlines()[1:-1]) == {b"so it goes"}
