"""A host with a Docker engine, a registry with a login, and a gate that reaches the host by SSH."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.harness import Gate as AnyGate
from tests.fake_gate.harness import make_ref, start_request
from tests.ssh_gate.harness import Gate
from tests.testbed import images
from tests.testbed.docker import Engine
from tests.testbed.fixtures import hosts
from tests.testbed.hosts import Bed, BedHost
from tests.testbed.registry import Registry

__all__ = ["hosts"]

USER = "alice"
ROOT = f"/home/{USER}/.skyport"
PARTITION = "lab"


@dataclasses.dataclass
class Lab:
    """What containers run on."""

    bed: Bed
    host: BedHost
    engine: Engine
    registry: Registry
    busybox: str
    """An image that the engine has."""
    no_shell: str
    """One that has no /bin/sh."""
    password_file: Path

    def config(self, **more: Any) -> dict[str, Any]:
        """The configuration of a gate for the host."""
        return {
            "hosts": ["h1"],
            "partition": PARTITION,
            "host": {"h1": {"address": self.host.address}},
            "shared_account": True,
            "user": USER,
            "identity": str(self.bed.key(USER)),
            "known_hosts": str(self.bed.known_hosts),
            "ssh_config": "",
            "use_agent": False,
            "work_root": "~/.skyport",
            "cpus": 16,
            "containers": {"socket": self.engine.host},
        } | more

    def login(self) -> dict[str, Any]:
        """What a gate's configuration has for the registry."""
        login = {"username": self.registry.user, "password_file": str(self.password_file)}
        return {"registry": {self.registry.address: login}}


@pytest.fixture(scope="session")
def lab(hosts: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests; each leaves the engine up and without containers."""
    host = hosts["h1"]
    password_file = tmp_path_factory.mktemp("login") / "password"
    with Engine(on=host) as engine, Registry(hosts.address) as registry:
        engine.allow(hosts.uid(USER))
        password_file.write_text(registry.password)
        password_file.chmod(0o600)
        yield Lab(
            hosts,
            host,
            engine,
            registry,
            images.busybox(engine),
            images.no_shell(engine),
            password_file,
        )


MakeGate = Callable[..., Awaitable[Gate]]


@pytest.fixture
async def make_gate(lab: Lab) -> AsyncIterator[MakeGate]:
    """Starts gates for the host; each argument is a setting of the configuration."""
    gates: list[Gate] = []
    folders: list[Path] = []

    async def make(**config: Any) -> Gate:
        folder = Path(tempfile.mkdtemp(prefix="gate"))
        folders.append(folder)
        gate = Gate(folder, lab.config(**config))
        gates.append(gate)
        await gate.start()
        await gate.up("h1")
        return gate

    yield make
    for gate in gates:
        await gate.close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    lab.engine.start()
    lab.engine.clear()
    lab.host.run(f"rm -rf {ROOT}/jobs {ROOT}/tombstones", user=USER)


@pytest.fixture
async def gate(make_gate: MakeGate) -> Gate:
    """One with nothing special."""
    return await make_gate()


def lab_ref(job_id: str, **fields: Any) -> types_pb2.JobRef:
    """An attempt on the host."""
    return make_ref(job_id, "h1", partition=PARTITION, **fields)


async def start(
    gate: AnyGate, ref: types_pb2.JobRef, script: str, image: str, **spec: Any
) -> job_pb2.JobStatus:
    """Start a script in a container."""
    if not ref.roots:
        await gate.stage(ref)
    answer: job_pb2.StartJobResponse = await gate.jobs.StartJob(
        start_request(ref, script, container_image=image, **spec)
    )
    return answer.status
