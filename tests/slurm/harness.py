"""A gate of a Slurm cluster, by itself and below a core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from gate_kit.verdicts import State, Verdict
from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.harness import INSTALLATION, make_ref, start_request
from tests.ssh_gate.harness import Gate, SshSite
from tests.testbed.slurm import Slurm

SITE = "hpc"
LONG_S = 40.0
"""Slurm takes its time, on a loaded machine most of all."""


def site_config(slurm: Slurm, /, root: str = "~/.skyport", **more: Any) -> dict[str, Any]:
    """The configuration of a gate for a cluster.

    Args:
        slurm: The cluster.
        root: The work root.
        more: Further settings.
    """
    return {
        "scheduler": "slurm",
        "hosts": ["login"],
        "host": {"login": {"address": slurm.login.address}},
        "shared_account": True,
        "user": slurm.user,
        "identity": str(slurm.bed.key(slurm.user)),
        "known_hosts": str(slurm.bed.known_hosts),
        "ssh_config": "",
        "use_agent": False,
        "work_root": root,
    } | more


class SlurmGate(Gate):
    """A gate whose site is a cluster.

    Args:
        folder: For its files; short.
        slurm: The cluster.
        root: The work root, below the account's home.
        config: Further settings.
    """

    def __init__(self, folder: Path, slurm: Slurm, root: str, /, **config: Any) -> None:
        super().__init__(folder, site_config(slurm, f"~/{root}", **config))
        self.site = slurm.login.home() / root

    def site_uid(self) -> str:
        """Who its work root is."""
        return (self.site / "root_uid").read_text().strip()

    async def submit(
        self, job_id: str, script: str, *, partition: str = "debug", **spec: Any
    ) -> tuple[types_pb2.JobRef, job_pb2.JobStatus]:
        """Stage nothing, and start a script."""
        ref = make_ref(job_id, partition=partition)
        await self.stage(ref)
        request = start_request(ref, script, **spec)
        # Where memory is watched the least that Slurm gives is too little for a shell.
        request.spec.resources.memory_bytes = 64 << 20
        answer = await self.jobs.StartJob(request)
        return ref, answer.status

    async def watch(self) -> AsyncGenerator[job_pb2.JobEvent, None]:
        call = self.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=INSTALLATION))
        try:
            async with asyncio.timeout(LONG_S):
                async for answer in call:
                    for event in answer.events:
                        yield event
        finally:
            call.cancel()

    async def queued(self, ref: types_pb2.JobRef, text: str) -> job_pb2.JobStatus:
        """Wait until the queue says why it waits."""
        return await self.until(ref, lambda status: text in status.text)


class SlurmSite(SshSite):
    """A site of this kind in the configuration of a core."""


@contextlib.contextmanager
def replaced(slurm: Slurm, name: str, script: str) -> Iterator[None]:
    """Have a program of the login node be another one."""
    slurm.replace(name, script)
    try:
        yield
    finally:
        slurm.restore(name)


async def check(gate: SlurmGate) -> dict[str, Verdict]:
    """What a check of its site says, by what is looked at."""
    config = str(gate.folder / "gate.toml")
    command = (sys.executable, "-m", gate.module, "--config", config, "--check", "--json")
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    told, _ = await process.communicate()
    return {
        each["check"]: Verdict(each["check"], State(each["state"]), each["value"], each["text"])
        for each in map(json.loads, told.splitlines())
    }
