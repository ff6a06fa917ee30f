"""What people at terminals do, one job at a time, while parts of the system are killed."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import random
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc

from skyport.terminal.v1 import job_pb2
from terminals.client import CallFailed, Client, ClientError, Forwarding, Gap
from terminals.client.manifest import Content, Manifest
from terminals.client.output import OutputReader
from terminals.client.upload import upload
from terminals.client.watch import has_ended
from tests.crash.checks import Violation
from tests.crash.peers import turning_round, write_programs
from tests.crash.work import Work
from tests.crash.world import NODE, SITES, Submitted, World
from tests.system.harness.files import manifest, sha256
from tests.system.harness.jobs import RUNNING, JobHandle
from tests.system.harness.tunnels import ask

PATIENCE_S = 600.0
_FAKE_SITES = ("hosts", "cloud", "batch")
_LOOPBACK = {"hosts": NODE, "lab": "127.0.0.1"}
"""Where the programs of jobs listen, at the sites where jobs have ports of their own."""

T = TypeVar("T")


@dataclasses.dataclass
class Notes:
    """What all of them have found, together."""

    problems: list[Violation] = dataclasses.field(default_factory=list)
    done: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """How often what was done."""
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def count(self, what: str, times: int = 1) -> None:
        with self._lock:
            self.done[what] += times

    def problem(self, text: str, evidence: str = "") -> None:
        with self._lock:
            self.problems.append(Violation(text, evidence))


class Person:
    """Somebody who has one job after the other until it is time to stop.

    Args:
        world: Where.
        client: A terminal's connection.
        user: Whose it is.
        chance: Decides what is done.
        notes: Where to tell what was found.
    """

    def __init__(
        self, world: World, client: Client, user: str, chance: random.Random, notes: Notes
    ) -> None:
        self._world = world
        self._client = client
        self._user = user
        self._chance = chance
        self._notes = notes
        self._server, self._caller = write_programs(world.folder)
        self.job_id = ""
        """The job that it has now."""

    def run(self, stopping: threading.Event) -> None:
        """Live through one story after the other; what goes wrong is noted."""
        stories: dict[Callable[[], None], int] = {
            self._plain: 4,
            self._followed: 3,
            self._cancelled: 3,
            self._queued_again: 2,
            self._served: 2,
            self._calling: 1,
        }
        while not stopping.is_set():
            (story,) = self._chance.choices(list(stories), list(stories.values()))
            try:
                story()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not have come
                text = f"job {self.job_id}: a client gave up: {error!r:.500}"
                self._notes.problem(text, traceback.format_exc())
                stopping.wait(1)

    # Stories.

    def _plain(self) -> None:
        self._until_ended(self._submit(self._work()))

    def _followed(self) -> None:
        submitted = self._submit(self._work(lines=20_000))
        reader = OutputReader(
            self._client, submitted.job.job_id, follow=True, patience_s=PATIENCE_S
        )
        pieces = list(reader)
        job = self._until_ended(submitted)
        if job.attempt == 1:  # one that found no place wrote nothing, and might have been followed
            read = b"".join(piece for piece in pieces if not isinstance(piece, Gap))
            if read != submitted.work.log(job.job_id, 1):
                self._notes.problem(
                    f"job {job.job_id}: who followed its output got {len(read)} bytes of "
                    f"{len(submitted.work.log(job.job_id, 1))}",
                    repr(read[-200:]),
                )
            self._notes.count("followed")

    def _cancelled(self) -> None:
        submitted = self._submit(self._work(hold="sleep 30"))
        submitted.may_cancel = True
        time.sleep(self._chance.uniform(0, 4))
        request = job_pb2.CancelJobRequest(job_id=self.job_id)
        self._again(lambda: self._client.call(self._client.jobs.CancelJob, request))
        self._notes.count("cancels")
        self._until_ended(submitted)

    def _queued_again(self) -> None:
        submitted = self._submit(self._work(exit_code=self._chance.choice((0, 7))))
        for _ in range(self._chance.randint(1, 2)):
            job = self._until_ended(submitted)
            # The same call again does nothing once it was heard.
            request = job_pb2.RequeueJobRequest(job_id=job.job_id, attempt=job.attempt)
            self._again(
                lambda request=request: self._client.call(  # type: ignore[misc]
                    self._client.jobs.RequeueJob, request
                )
            )
            submitted.requeues += 1
            self._notes.count("requeues")
        self._until_ended(submitted)

    def _served(self) -> None:
        """A job with a port that is called from here."""
        site = self._chance.choice(list(_LOOPBACK))
        hold = f"{self._server} {_LOOPBACK[site]}"
        work = self._work(site=site, hold=hold, directives=("ports 0/tcp/in WEB",))
        submitted = self._submit(work)
        self._until_running(submitted)
        with Forwarding(self._client, self.job_id, "WEB", on_failure=self._was_cut) as forwarding:
            sent = self._chance.randbytes(self._chance.choice((10, 100_000, 2_000_000)))
            for data in [sent] * self._chance.randint(1, 3) + [b"stop"]:
                self._ask(forwarding.port, data)
        self._until_ended(submitted)

    def _ask(self, port: int, data: bytes) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            answer = b""
            with contextlib.suppress(OSError):
                answer = ask(("127.0.0.1", port), data)
            if answer == data[::-1]:
                self._notes.count("connections")
                return
            if answer:
                text = f"{len(answer)} bytes came back of {len(data)} that were sent"
                self._notes.problem(f"job {self.job_id}: a connection is not whole: {text}")
            time.sleep(0.5)

    def _was_cut(self, error: ClientError) -> None:
        reason = error.reason or error.code.name if isinstance(error, CallFailed) else "here"
        self._notes.count(f"connections cut ({reason})")

    def _calling(self) -> None:
        """A job that calls a port here."""
        with turning_round() as port:
            hold = f"{self._caller} {NODE} {port}"
            site = self._chance.choice(_FAKE_SITES)
            work = self._work(site=site, hold=hold, directives=(f"ports {port}/tcp/out",))
            self._until_ended(self._submit(work))

    # What stories are made of.

    def _work(
        self,
        *,
        site: str = "",
        hold: str = "",
        lines: int = 400,
        exit_code: int = 0,
        directives: tuple[str, ...] = (),
    ) -> Work:
        return self._world.work(
            site or self._chance.choice(SITES),
            hold=hold or f"sleep {self._chance.uniform(0, 2):.1f}",
            lines=lines,
            inputs=self._inputs(),
            exit_code=exit_code,
            directives=directives,
        )

    def _inputs(self) -> Mapping[str, bytes]:
        random_bytes = self._chance.randbytes
        match self._chance.randrange(5):
            case 0:
                return {}
            case 1:
                return {"one.bin": random_bytes(10), "empty": b""}
            case 2:
                return {f"{n:02}.bin": random_bytes(2_000) for n in range(40)}
            case 3:  # that many bring
                return {"shared.bin": b"shared" * 100_000, "own.bin": random_bytes(50_000)}
            case _:
                return {"large.bin": random_bytes(self._chance.randint(1_000_000, 4_000_000))}

    def _submit(self, work: Work) -> Submitted:
        request = job_pb2.SubmitJobRequest(
            script=work.script.encode(),
            overrides=job_pb2.JobOverrides(site=work.site),
            request_id=secrets.token_hex(16),
        )
        if work.inputs:
            text, data = manifest(work.inputs)
            contents = tuple(Content(sha256(each), len(each), data=each) for each in data)
            inputs = Manifest(text, sha256(text), contents)
            self._again(lambda: upload(self._client, inputs, patience_s=PATIENCE_S))
            request.manifest_sha256 = inputs.sha256
            self._notes.count("bytes", sum(each.size for each in contents))
        submitted = self._ask_for(work, request)
        if self._chance.random() < 0.2:
            again = self._ask_for(work, request)
            if again is not submitted:
                other = f"its request once more made {self.job_id}"
                self._notes.problem(f"job {submitted.job.job_id}: {other}")
        return submitted

    def _ask_for(self, work: Work, request: job_pb2.SubmitJobRequest) -> Submitted:
        answer = self._again(lambda: self._client.call(self._client.jobs.SubmitJob, request))
        self._notes.count("submits")
        self.job_id = answer.job.job_id
        job = JobHandle(self._world.core.user(self._user), self.job_id, "")
        return self._world.acknowledged(Submitted(work, job, request.request_id))

    def _until_running(self, submitted: Submitted) -> None:
        for job in self._client.wait_for([submitted.job.job_id], patience_s=PATIENCE_S):
            if job.state == RUNNING or has_ended(job):
                return

    def _until_ended(self, submitted: Submitted) -> job_pb2.Job:
        """The job as it then is."""
        for job in self._client.wait_for([submitted.job.job_id], patience_s=PATIENCE_S):
            if has_ended(job):
                return job
        raise AssertionError("the wait ended before the job")

    def _again(self, call: Callable[[], T]) -> T:
        """The answer of a call that may be repeated, however often the core is killed meanwhile."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except CallFailed as error:
                away = error.transient or error.code is grpc.StatusCode.DEADLINE_EXCEEDED
                if not away or time.monotonic() > until:
                    raise
                time.sleep(self._chance.uniform(0, 0.3))
