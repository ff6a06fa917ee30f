"""Whatever a core sends, a gate answers in the contract's words, and runs attempts afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from skyport.gate.v1 import (
    file_pb2,
    identity_pb2,
    inventory_pb2,
    job_pb2,
    partition_pb2,
    tunnel_pb2,
)
from tests.fake_gate import harness
from tests.fake_gate.harness import DOMAIN, INSTALLATION, Gate, end_all_jobs, make_ref
from tests.fuzz.calls import Caller, batches, methods
from tests.fuzz.known import scripts
from tests.ssh_gate import harness as ssh_harness

METHODS = methods((file_pb2, identity_pb2, inventory_pb2, job_pb2, partition_pb2, tunnel_pb2))


@dataclasses.dataclass(frozen=True)
class Server:
    """A gate that runs, and what it has."""

    gate: Gate
    node: str
    folder: Path

    @property
    def known(self) -> dict[str, list[Any]]:
        """Values that mean something to it."""
        return {
            "installation": [INSTALLATION],
            "store_generation": ["g1"],
            "job_id": [f"f-{number}" for number in range(6)],
            "partition_id": ["local", "made"],
            "attempt": [1, 1, 2],
            "owner": ["ann"],
            "nodes": [self.node],
            "node": [self.node],
            "roots": [],
            "script": scripts(),
            "workdir": ["", "", str(self.folder / "work"), "/etc/x", "../x", "/", "~/../x"],
            "node_count": [1],
            "cpus": [1, 0],
            "spec_fingerprint": ["a" * 64],
            "path": ["a.txt", "b/c.txt", "b"],
            "patterns": ["*.txt", "**", "a.txt", "b/"],
            "flavor": ["small"],
            "port": [22, 1],
        }

    def batch(self, name: str, seed: int) -> list[str]:
        """What was wrong with the answers to a batch."""

        async def run() -> list[str]:
            async with grpc.aio.insecure_channel(f"unix:{self.gate.socket}") as channel:
                return await Caller(channel, DOMAIN, self.known).batch(METHODS[name], seed)

        return asyncio.run(run())

    @property
    def is_running(self) -> bool:
        return self.gate.process is not None and self.gate.process.poll() is None


FAKE = {
    **harness.STATIC,
    "dynamic": {"flavors": [{"name": "small", "cpus": 2, "memory": "4G"}], "boot_s": 0.05},
}


@pytest.fixture(scope="module", params=["fake", "ssh"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="fz") as name:  # short, for a socket's path
        folder = Path(name)
        if request.param == "fake":
            made = Server(Gate(folder, {**FAKE, "workdir_roots": [name]}), "n1", folder)
        else:
            config = {"local": True, "workdir_roots": [name]}
            made = Server(ssh_harness.Gate(folder, config), "localhost", folder)
        asyncio.run(_started(made.gate))
        try:
            yield made
        finally:
            made.gate.kill()
            end_all_jobs()


async def _started(gate: Gate) -> None:
    await gate.start()
    if isinstance(gate, ssh_harness.Gate):
        await gate.ready()
    assert gate.channel is not None
    await gate.channel.close()


@pytest.mark.parametrize("name", METHODS)
def test_any_request_is_answered_in_the_contract_s_words(server: Server, name: str) -> None:
    # A smaller seed is no simpler one: nothing is to be shrunk.
    @settings(max_examples=batches(), phases=[Phase.explicit, Phase.generate])
    @given(seed=st.integers(0, 2**64))
    def all_are_answered(seed: int) -> None:
        wrong = server.batch(name, seed)
        assert not wrong, "\n".join(wrong[:5])

    all_are_answered()
    assert server.is_running
    assert "incident" not in server.gate.log.read_text()


def test_an_attempt_goes_its_whole_way_afterwards(server: Server) -> None:
    async def run() -> None:
        await server.gate.connect()
        ref, _ = await server.gate.start_job("echo said", make_ref("last", server.node))
        assert (await server.gate.ended(ref)).exit_code == 0
        assert await server.gate.output(ref) == b"said\n"
        await server.gate.remove(ref)
        assert server.gate.channel is not None
        await server.gate.channel.close()

    asyncio.run(run())
    assert "Traceback" not in server.gate.log.read_text()
