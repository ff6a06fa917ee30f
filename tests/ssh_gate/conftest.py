"""Gates and hosts of their own for each test."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gate_kit.command_line import CheckOptions
from gates.ssh_cluster_gate import check
from tests.fake_gate.harness import end_all_jobs
from tests.ssh.sshd import Sshd
from tests.ssh_gate.checking import Look, Make, Told, site_file
from tests.ssh_gate.harness import Cluster, Gate

MakeGate = Callable[..., Awaitable[Gate]]


@pytest.fixture
async def make_gate() -> AsyncIterator[MakeGate]:
    """Starts gates; each argument is a setting of the configuration."""
    gates: list[Gate] = []
    folders: list[Path] = []

    async def make(**config: Any) -> Gate:
        folder = Path(tempfile.mkdtemp(prefix="gate"))
        folders.append(folder)
        gate = Gate(folder, config or {"local": True})
        gates.append(gate)
        await gate.start()
        return gate

    yield make
    for gate in gates:
        await gate.close()
    end_all_jobs()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def gate(make_gate: MakeGate) -> Gate:
    """A gate whose site is this machine, ready."""
    made = await make_gate()
    await made.ready()
    return made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two hosts, by sshd."""
    with Cluster(tmp_path / "hosts", "n1", "n2").running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that tests leave as it is."""
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_sshd(tmp_path: Path) -> Iterator[Make]:
    """Makes servers with settings of their own, and variables of whoever logs in."""
    made: list[Sshd] = []

    def make(*settings: str, **environment: str) -> Sshd:
        if environment:
            words = shlex.join(f"{name}={value}" for name, value in environment.items())
            command = f'exec /usr/bin/env {words} /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
            settings = (*settings, f"ForceCommand {command}")
        server = Sshd(tmp_path / f"sshd{len(made)}", *settings)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def look(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Look:
    """Checks a site of these servers."""

    def run(hosts: Mapping[str, Sshd], more: str = "", host: str = "") -> Told:
        path = site_file(tmp_path, hosts, more, host)
        capfd.readouterr()
        code = check.run(CheckOptions(path, as_json=True))
        told = capfd.readouterr()
        assert told.err == ""
        return Told(code, [json.loads(line) for line in told.out.splitlines()])

    return run
