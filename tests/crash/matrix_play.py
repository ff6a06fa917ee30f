"""What a scenario does at one site: it goes on whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from skyport.terminal.v1 import job_pb2
from tests.azure_gate.site import AzureSite
from tests.crash.matrix_parts import MatrixWorld, Parts
from tests.crash.records import JobRecord, Records
from tests.crash.world import AGAIN_S, Submitted, insist
from tests.system.harness.jobs import ENDS, State, name
from tests.system.harness.sites import Site
from tests.system.harness.waiting import eventually

_TOO_LATE = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED)


class Play:
    """One performance of a scenario.

    Args:
        world: Where.
        parts: What can be killed.
        site: The site's name.
        folder: For files by which it talks to its jobs.
    """

    def __init__(self, world: MatrixWorld, parts: Parts, site: str, folder: Path) -> None:
        self.world = world
        self.parts = parts
        self.name = site
        self.folder = folder

    @property
    def site(self) -> Site:
        return self.world.site(self.name)

    # ---- jobs ----

    def submit(self, **fields: Any) -> Submitted:
        """Submit work to the site."""
        return self.world.submit(self.world.work(self.name, **fields))

    def file(self, what: str) -> Path:
        """A file by which a job is told something."""
        return self.folder / what

    def hold(self, what: str) -> str:
        """A line of shell that waits until the file is there."""
        return f"until [ -e {self.file(what)} ]; do sleep 0.05; done"

    def state(self, submitted: Submitted) -> State:
        return insist(submitted.job.get).state

    def until(self, submitted: Submitted, *states: State) -> State:
        """Wait until a job is in one of the states, or past them all: it may have ended."""
        last = max(states)

        def there() -> State | None:
            state = self.state(submitted)
            return state if state in states or state in ENDS or state > last else None

        what = f"job {submitted.job.job_id} is {' or '.join(map(name, states))}"
        found = eventually(there, what, within_s=AGAIN_S)
        assert found is not None
        return found

    def ended(self, submitted: Submitted) -> State:
        """Wait until a job has ended."""
        return self.until(submitted, *ENDS)

    def under_way(self, submitted: Submitted, extra: int = 0) -> None:
        """Wait until a call that an extra of the scenario holds up has come to the gate."""
        marker = self.folder / f"extra{extra}"
        eventually(
            lambda: marker.exists() or self.state(submitted) in ENDS,
            "the gate has the call",
            within_s=AGAIN_S,
        )

    def begun(self, submitted: Submitted) -> None:
        """Wait until the script of a job runs, or the job has ended all the same."""

        def has_begun() -> bool:
            ran = submitted.job.job_id in self.world.facts.read_text()
            return ran or self.state(submitted) in ENDS

        eventually(has_begun, f"{submitted.job.job_id} has begun", within_s=AGAIN_S)

    def cancel(self, submitted: Submitted, *, force: bool = False) -> None:
        """Ask for the end of a job; it may have ended already."""
        submitted.may_cancel = True
        try:
            insist(lambda: submitted.job.cancel(force=force))
        except grpc.RpcError as error:
            if error.code() not in _TOO_LATE:
                raise

    def requeue(self, submitted: Submitted) -> None:
        """Have a job that has ended queued again, once, also when the answer is lost."""
        submitted.requeues += 1
        until = time.monotonic() + AGAIN_S
        while self._lives(submitted) <= submitted.requeues:
            with contextlib.suppress(grpc.RpcError):
                submitted.job.requeue()
            if time.monotonic() > until:
                raise AssertionError(f"{submitted.job.job_id} could not be queued again")

    def changed(self, submitted: Submitted, within_s: float = 20.0) -> None:
        """Wait for another state of a job, but not for long: a kill may have undone it."""
        before = self.state(submitted)
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.state(submitted) != before, "it has changed", within_s=within_s)

    def reasons(self, submitted: Submitted) -> set[str]:
        """The reasons of all that has happened to a job."""
        return {row.reason for row in self._record(submitted).events}

    def _record(self, submitted: Submitted) -> JobRecord:
        return Records.read(self.world.core.home.database).jobs[submitted.job.job_id]

    def _lives(self, submitted: Submitted) -> int:
        """How often it was submitted or queued again, as the store says once the core answers."""
        insist(submitted.job.get)
        return len(self._record(submitted).lives)

    # ---- the site ----

    @contextlib.contextmanager
    def faults(self, *faults: dict[str, Any]) -> Iterator[None]:
        """Have a fake gate do something wrong while the context lasts."""
        self.site.faults(*faults)
        try:
            yield
        finally:
            self.site.faults()

    def forget(self, submitted: Submitted) -> None:
        """Have somebody delete the folders of a job at its site, behind everybody's back."""
        if isinstance(self.site, AzureSite):
            self.site.forget(self.partition_id(submitted), submitted.job.job_id)
            return
        for folder in self.site.root.glob(f"jobs/*/*/{submitted.job.job_id}.*"):
            shutil.rmtree(folder, ignore_errors=True)

    def forget_partition(self, submitted: Submitted) -> None:
        """Have somebody delete the partition of a job, behind everybody's back."""
        partition_id = insist(submitted.job.get).partition_id
        if isinstance(self.site, AzureSite):
            self.site.forget_partition(partition_id)
            return
        shutil.rmtree(self.site.root / "partitions" / partition_id, ignore_errors=True)

    def partition_id(self, submitted: Submitted) -> str:
        """The partition that the job has a place in, once it has one."""
        job: Callable[[], job_pb2.Job] = lambda: insist(submitted.job.get)  # noqa: E731
        return eventually(lambda: job().partition_id, "it has a partition", within_s=AGAIN_S)
