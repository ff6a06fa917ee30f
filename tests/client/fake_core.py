"""A small core for the tests of terminals: real mTLS, all in memory, jobs as processes here.

It keeps its memory across `stop` and `start`, as a core keeps its store, and has switches for what
a core, or a line, may do wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from rpc_kit.errors import Refusal, not_found, precondition
from rpc_kit.tls import KeyPair, server_credentials
from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import (
    account_pb2_grpc,
    admin_pb2,
    admin_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    server_pb2_grpc,
    tunnel_pb2_grpc,
)

DOMAIN = "skyport.terminal.v1"
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


@dataclasses.dataclass
class Log:
    """One stream of one attempt."""

    data: bytes = b""
    complete: bool = False
    kept_from: int = 0
    """Bytes before it are dropped."""


@dataclasses.dataclass
class Faults:
    """What goes wrong; numbers count down to it."""

    upload_breaks_after: list[int] = dataclasses.field(default_factory=list)
    """Messages of each Upload before it is cut."""
    download_breaks_after: list[int] = dataclasses.field(default_factory=list)
    """Pieces of each Download before it is cut."""
    output_breaks_after: list[int] = dataclasses.field(default_factory=list)
    """Messages of each ReadOutput before it is cut."""
    watch_expires: int = 0
    """So many watches are told that their token is too old."""
    corrupt_downloads: int = 0
    """So many downloads have a wrong byte."""
    forged_output: bytes = b""
    """Sent in the place of what a job wrote."""
    submit_answers_lost: int = 0
    """So many submits take effect and answer UNAVAILABLE."""
    requeue_answers_lost: int = 0
    delete_answers_lost: int = 0
    upload_refusal: Refusal | None = None
    slow_list_s: float = 0.0


class State:
    """All that the core knows. `changed` is notified with every change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed = threading.Condition()
        self.faults = Faults()
        self.jobs: dict[str, job_pb2.Job] = {}
        self.requests: dict[str, tuple[bytes, str]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.events: list[job_pb2.JobEvent] = []
        self.contents: dict[bytes, bytes] = {hashlib.sha256(b"").digest(): b""}
        self.partial: dict[bytes, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.logs: dict[tuple[str, int, int, str], Log] = {}
        self.outputs: dict[str, dict[str, bytes]] = {}
        self.listed: dict[str, list[file_pb2.OutputFile]] = {}
        self.skipped: dict[str, list[manifest_pb2.SkippedFile]] = {}
        self.ports: dict[int, int] = {}
        self.received_bytes = 0
        self.upload_messages: list[int] = []
        self.calls: list[str] = []
        self.orphans: list[admin_pb2.Orphan] = []
        self.administered: list[str] = []
        """What an administrator had done, in words."""
        self.troubled: catalog_pb2.Site | None = None
        """A site that is listed beside the two."""
        self.stopping = threading.Event()

    # Jobs, as tests move them.

    def add(self, job_id: str, **fields: object) -> job_pb2.Job:
        job = job_pb2.Job(job_id=job_id, owner="ann", **fields)  # type: ignore[arg-type]
        job.spec.nodes = job.spec.nodes or 1
        job.spec.cpus = job.spec.cpus or 1
        job.spec.stdout = job.spec.stdout or "stdout.log"
        job.spec.stderr = job.spec.stderr or "stderr.log"
        if not job.state:
            job.state = job_pb2.JOB_STATE_QUEUED
        job.submit_time.GetCurrentTime()
        job.state_time.GetCurrentTime()
        with self.changed:
            self.jobs[job_id] = job
            self._event(job_id, job_pb2.JOB_STATE_UNSPECIFIED, job.state)
        return job

    def move(self, job_id: str, state: job_pb2.JobState.ValueType, **fields: object) -> None:
        with self.changed:
            job = self.jobs[job_id]
            before = job.state
            job.MergeFrom(job_pb2.Job(**fields))  # type: ignore[arg-type]
            job.state = state
            job.state_time.GetCurrentTime()
            if state == job_pb2.JOB_STATE_RUNNING:
                job.start_time.GetCurrentTime()
            if state in ENDED:
                job.end_time.GetCurrentTime()
                for key, log in self.logs.items():
                    if key[0] == job_id:
                        log.complete = True
            self._event(job_id, before, state)

    def _event(
        self,
        job_id: str,
        before: job_pb2.JobState.ValueType,
        after: job_pb2.JobState.ValueType,
    ) -> None:
        self.events.append(
            job_pb2.JobEvent(
                sequence=len(self.events) + 1,
                kind=job_pb2.JOB_EVENT_KIND_STATE,
                job_id=job_id,
                from_state=before,
                to_state=after,
            )
        )
        self.changed.notify_all()

    def log(self, job_id: str, attempt: int = 1, *, stderr: bool = False, node: str = "") -> Log:
        kind = job_pb2.OUTPUT_KIND_STDERR if stderr else job_pb2.OUTPUT_KIND_STDOUT
        return self.logs.setdefault((job_id, attempt, kind, node), Log())

    def write(self, job_id: str, data: bytes, attempt: int = 1, *, stderr: bool = False) -> None:
        with self.changed:
            self.log(job_id, attempt, stderr=stderr).data += data
            self.changed.notify_all()

    def finish_logs(self, job_id: str, attempt: int = 1) -> None:
        with self.changed:
            for stderr in (False, True):
                self.log(job_id, attempt, stderr=stderr).complete = True
            self.changed.notify_all()

    def output(
        self, job_id: str, name: str, data: bytes, mode: int = 0, *, live: bool = False
    ) -> None:
        self.outputs.setdefault(job_id, {})[name] = data
        entry = manifest_pb2.ManifestEntry(
            path=name, type=manifest_pb2.FILE_TYPE_FILE, size=len(data), mode=mode
        )
        listed = file_pb2.OutputFile(entry=entry)
        if live:
            listed.modify_time.GetCurrentTime()
        else:
            listed.entry.sha256 = hashlib.sha256(data).digest()
        self.listed.setdefault(job_id, []).append(listed)

    def list_entry(self, job_id: str, **fields: object) -> None:
        """List something that is no file, or a lie."""
        entry = manifest_pb2.ManifestEntry(**fields)  # type: ignore[arg-type]
        self.listed.setdefault(job_id, []).append(file_pb2.OutputFile(entry=entry))

    def wait_until(self, condition: object, timeout_s: float = 20.0) -> None:
        """Wait for a change that makes `condition()` true."""
        assert callable(condition)
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), "it never came about"

    def job(self, job_id: str) -> job_pb2.Job:
        if job_id not in self.jobs:
            raise not_found("JOB_NOT_FOUND", f'there is no job "{job_id}"')
        return self.jobs[job_id]

    def ended_job(self, job_id: str) -> job_pb2.Job:
        job = self.job(job_id)
        if job.state not in ENDED:
            raise precondition("JOB_NOT_ENDED", f"job {job_id} has not ended; cancel it first")
        return job


class FakeCore:
    """The server. `start` and `stop` may alternate: the port and the memory stay."""

    def __init__(self, keys: KeyPair, folder: Path, *, runs_jobs: bool = False) -> None:
        self.keys = keys
        self.state = State(folder)
        self.runs_jobs = runs_jobs
        self.port = 0
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        from tests.client.fake_admin import Admin
        from tests.client.fake_files import Files
        from tests.client.fake_jobs import Jobs
        from tests.client.fake_rest import Accounts, Catalog, ServerInfo, Tunnels

        self.state.stopping.clear()
        server = grpc.server(
            ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0), *_PINGS_ALLOWED]
        )
        job_pb2_grpc.add_JobServiceServicer_to_server(Jobs(self.state, self.runs_jobs), server)
        file_pb2_grpc.add_FileServiceServicer_to_server(Files(self.state), server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(Catalog(self.state), server)
        account_pb2_grpc.add_AccountServiceServicer_to_server(Accounts(self.state), server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(Admin(self.state), server)
        server_pb2_grpc.add_ServerServiceServicer_to_server(ServerInfo(self.state), server)
        tunnel_pb2_grpc.add_TunnelServiceServicer_to_server(Tunnels(self.state), server)
        deadline = time.monotonic() + 10
        while True:
            # Connections of the one before may hold the port for a moment.
            with contextlib.suppress(RuntimeError):
                target = f"127.0.0.1:{self.port}"
                self.port = server.add_secure_port(target, server_credentials(self.keys))
                break
            assert time.monotonic() < deadline
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self.state.stopping.set()
            with self.state.changed:
                self.state.changed.notify_all()
            self._server.stop(grace=0).wait(10)
            self._server = None

    def restart(self) -> None:
        self.stop()
        self.start()


_PINGS_ALLOWED = [
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
