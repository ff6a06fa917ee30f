"""One cluster for all tests; each test has a gate and a work root of its own."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.apptainer import Apptainer, on_all_nodes
from tests.slurm.harness import SlurmGate
from tests.testbed.fixtures import need_root
from tests.testbed.slurm import Slurm

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """Two compute nodes, without accounting."""
    need_root()
    with Slurm(cpus=16) as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    """The same, up and idle before and after a test."""
    yield cluster
    cluster.heal()


@pytest.fixture(scope="session")
def accounted_cluster() -> Iterator[Slurm]:
    """One compute node with GPUs, and accounting; memory is kept to, accounts have limits."""
    need_root()
    settings = ("JobAcctGatherParams=OverMemoryKill",)
    with Slurm(
        nodes=1, cpus=16, gpus=2, features="fast", accounting=True, settings=settings
    ) as slurm:
        yield slurm


@pytest.fixture
def accounted(accounted_cluster: Slurm) -> Iterator[Slurm]:
    """The same, up and idle before and after a test."""
    yield accounted_cluster
    accounted_cluster.heal()


@pytest.fixture
def apptainer(slurm: Slurm) -> Iterator[Apptainer]:
    """What stands for apptainer on the nodes of the cluster."""
    with on_all_nodes(slurm) as made:
        yield made


async def _gate(slurm: Slurm, **config: Any) -> AsyncIterator[SlurmGate]:
    folder = Path(tempfile.mkdtemp(prefix="gate"))
    gate = SlurmGate(folder, slurm, f"root{next(_numbers)}", **config)
    try:
        await gate.start()
        await gate.ready()
        yield gate
    finally:
        await gate.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def gate(slurm: Slurm) -> AsyncIterator[SlurmGate]:
    """A gate of the cluster, ready."""
    async for made in _gate(slurm):
        yield made


@pytest.fixture
async def image_gate(slurm: Slurm, apptainer: Apptainer) -> AsyncIterator[SlurmGate]:
    """A gate of the cluster that takes jobs in images, ready."""
    config = {"containers": {"runtime": "apptainer"}, "volumes": {"big-data": "/srv/data:ro"}}
    async for made in _gate(slurm, **config):
        yield made


@pytest.fixture
async def accounted_gate(accounted: Slurm) -> AsyncIterator[SlurmGate]:
    """A gate of the cluster with accounting, ready."""
    async for made in _gate(accounted, containers={"runtime": "apptainer"}):
        yield made
