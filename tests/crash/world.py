"""A core with four real sites, whose parts can be killed at any moment, and what is checked then.

    hosts   the fake gate with a static partition
    cloud   the fake gate with partitions on demand
    batch   the fake gate with a queue
    lab     the SSH gate, with a host by a real sshd

Core and gates are processes of their own: a kill befalls one of them, or several, never more than
was meant. Submit by `World.submit`, kill, start again, and look at `World.verdict` in the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc

from tests.crash.gates import GateRun
from tests.crash.work import Work
from tests.ssh_gate.harness import Cluster, SshSite
from tests.system.harness.core import Core, end_jobs
from tests.system.harness.files import bring
from tests.system.harness.jobs import ENDS, JobHandle
from tests.system.harness.sites import Site, dynamic, node, queue, static
from tests.system.harness.users import submission
from tests.system.harness.waiting import eventually

SITES = ("hosts", "cloud", "batch", "lab")
NODE = "127.0.0.2"
"""The loopback of fake nodes, so that the two ends of a port are not the same address."""
AGAIN_S = 120.0
"""For whatever comes back after a kill, on a machine that is busy."""

T = TypeVar("T")


@dataclasses.dataclass
class Submitted:
    """A job that the core has acknowledged.

    Attributes:
        may_cancel: Whether somebody has asked, or may have asked, for its end.
        requeues: How often it was queued again.
    """

    work: Work
    job: JobHandle
    request_id: str
    may_cancel: bool = False
    requeues: int = 0


class World:
    """The core, its sites, and the jobs that were submitted.

    Args:
        folder: For all of it; short, since sockets lie there.
        settings: More tables of swm.toml.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.facts = folder / "facts"
        self.facts.touch()
        self.cluster = Cluster(folder / "machines", "n1")
        self.gates = {site.name: GateRun(site) for site in self._sites()}
        self.core = Core(folder / "home", [gate.site for gate in self.gates.values()], **settings)
        self.jobs: dict[str, Submitted] = {}
        self.kills = 0

    def _sites(self) -> Iterator[Site]:
        # All nodes are this machine: each has port numbers of its own.
        nodes = [
            node(f"s{n}", cpus=8, memory="64G", first_port=first, last_port=first + 999)
            for n, first in enumerate((20_000, 21_000), 1)
        ]
        small = {"name": "small", "cpus": 2, "memory": "4G", "price": "0.10"}
        configs = {
            "hosts": static(*nodes, loopback=NODE),
            "cloud": dynamic(small, quota_nodes=12) | {"loopback": NODE},
            "batch": queue(slots=8, max_queue=1_000) | {"loopback": NODE},
        }
        for name, config in configs.items():
            yield Site.make(name, self.folder / name, config, endpoint=self._endpoint(name))
        lab = self.folder / "lab"
        config = self.cluster.config(
            cpus=16,
            memory="64G",
            first_port=22_000,
            last_port=22_999,
            work_root=str(lab / "site"),
            cache_bytes="1G",
        )
        yield SshSite.make("lab", lab, config, endpoint=self._endpoint("lab"))

    def _endpoint(self, name: str) -> str:
        return f"unix://{self.folder}/s/{name}.sock"

    def site(self, name: str) -> Site:
        return self.gates[name].site

    # Kills.

    def start(self) -> None:
        """Start all that does not run, and return when every site takes jobs."""
        for gate in self.gates.values():
            if not gate.is_running:
                gate.start()
        if not self.core.is_running:
            self.core.start()
        self.core.wait_ready(within_s=AGAIN_S)

    def start_core(self, **environment: str) -> None:
        """Start the core, with more variables if need be; returns when it answers."""
        with _environment(environment):
            self.core.start()

    def start_gate(self, name: str, **environment: str) -> None:
        """Start a gate, with more variables if need be; need not answer yet on return."""
        self.gates[name].start(environment)

    def kill(self, *parts: str) -> None:
        """SIGKILL of each of these, all at once: `core`, or names of sites. Counts as one kill."""
        self.kills += 1
        pids = [self.core.pid if part == "core" else self.gates[part].pid for part in parts]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for part in parts:
            if part == "core":
                self.core.kill()
            else:
                self.gates[part].kill()

    # Jobs.

    def submit(self, work: Work, request_id: str = "") -> Submitted:
        """Bring the inputs and submit, again and again under one request id until it is known.

        Returns:
            The job; from now on the core must not lose it.
        """
        user = self.core.user()
        request = submission(work.script, request_id=request_id, site=work.site)
        if work.inputs:
            request.manifest_sha256 = insist(lambda: bring(user, work.inputs))
        answer = insist(lambda: user.jobs.SubmitJob(request, timeout=30))
        job = JobHandle(user, answer.job.job_id, answer.watch_token)
        return self.acknowledged(Submitted(work, job, request.request_id))

    def acknowledged(self, submitted: Submitted) -> Submitted:
        """Count a job among those that must not be lost."""
        submitted.work = submitted.work.without_contents()
        known = self.jobs.setdefault(submitted.job.job_id, submitted)
        assert known.request_id == submitted.request_id, "one job for two requests"
        return known

    def cancel(self, submitted: Submitted) -> None:
        """Ask for the end of a job until the core has heard it."""
        submitted.may_cancel = True
        insist(submitted.job.cancel)

    def work(self, site: str, **fields: Any) -> Work:
        """Work that notes its runs where this world looks for them."""
        return Work(site, self.facts, **fields)

    def settle(self, within_s: float = 300.0) -> None:
        """Let everything run to its end: returns when each job is in a terminal state.

        Raises:
            AssertionError: One is not in time; the verdict tells which, so this may be caught.
        """
        until = time.monotonic() + within_s
        for submitted in self.jobs.values():
            job = submitted.job

            def has_ended(job: JobHandle = job) -> bool:
                return insist(job.get).state in ENDS

            left_s = max(1.0, until - time.monotonic())
            eventually(has_ended, f"job {job.job_id} has ended", within_s=left_s)

    def containers(self) -> list[str]:
        """Those that there are: none, where no site can have any."""
        return []

    def close(self) -> None:
        """End everything, however."""
        self.core.close()
        for gate in self.gates.values():
            gate.kill()
        end_jobs(self.core)


def insist(call: Callable[[], T], within_s: float = AGAIN_S) -> T:
    """The answer of a call that may be repeated, which is so while a core that was killed is away.

    Raises:
        grpc.RpcError: It was refused, or nobody answered in time.
    """
    until = time.monotonic() + within_s
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if error.code() not in away or time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def running_world(folder: Path, **settings: Any) -> Iterator[World]:
    """A world whose sites take jobs; all of it ends with the context.

    Args:
        folder: For all of it.
        settings: More tables of swm.toml.
    """
    world = World(folder, **settings)
    with world.cluster.running():
        try:
            world.start()
            yield world
        finally:
            world.close()


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
