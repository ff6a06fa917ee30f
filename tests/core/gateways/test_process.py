"""What is told of a gate's process that has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rpc_kit.endpoint import Endpoint
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
