"""A real fake gate as a process, and a client that speaks to it as a core would."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import tomlkit
from google.protobuf.duration_pb2 import Duration

from gate_kit.manifest import delimited
from gate_kit.ssh.layout import AttemptPath
from rpc_kit.errors import Problem
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import (
    file_pb2,
    file_pb2_grpc,
    identity_pb2_grpc,
    inventory_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    partition_pb2_grpc,
    tunnel_pb2_grpc,
    types_pb2,
)

DOMAIN = "skyport.gate.v1"
# Its own for each run of the tests: attempts are found by their marks, on the whole machine.
INSTALLATION = f"test{secrets.token_hex(6)}"
ORIGIN = types_pb2.Origin(installation=INSTALLATION, store_generation="g1")
WITHIN_S = 20.0

STATIC: dict[str, Any] = {
    "partitions": {
        "local": {
            "kind": "static",
            "nodes": [
                {"name": "n1", "cpus": 4, "memory": "8G", "gpus": ["0", "1"]},
                {"name": "n2", "cpus": 4, "memory": "8G"},
            ],
        }
    }
}


class Gate:
    """A gate of one site, which can be killed and started again.

    Args:
        folder: Holds its files; short, since a socket lies there.
        config: Its configuration.
    """

    module = "gates.fake_gate"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.socket = folder / "run" / "g.sock"
        self.site = folder / "site"
        self.config = {"state_dir": "site", "control": "control.toml", **config}
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: grpc.aio.Channel | None = None
        self.log = folder / "gate.log"

    async def start(self, *, supervised: bool = False) -> None:
        """Start it, and return when it answers."""
        (self.folder / "gate.toml").write_text(tomlkit.dumps(self.config))
        environment = dict(os.environ)
        if supervised:
            environment["SKYPORT_SUPERVISED"] = "1"
        command = [
            sys.executable,
            "-m",
            self.module,
            "--config",
            str(self.folder / "gate.toml"),
        ]
        with self.log.open("ab") as log:
            # It returns at once; what takes time is waited for below.
            self.process = subprocess.Popen(  # noqa: ASYNC220
                [*command, "--listen", f"unix://{self.socket}", "--log-format", "text"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
        await self.connect()

    async def connect(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        self.channel = grpc.aio.insecure_channel(f"unix:{self.socket}", options=options)
        try:
            async with asyncio.timeout(WITHIN_S):
                await self.channel.channel_ready()
        except TimeoutError:
            raise AssertionError(f"the gate did not start:\n{self.log.read_text()}") from None
        self.identity: Any = identity_pb2_grpc.IdentityServiceStub(self.channel)
        self.inventory: Any = inventory_pb2_grpc.InventoryServiceStub(self.channel)
        self.partitions: Any = partition_pb2_grpc.PartitionServiceStub(self.channel)
        self.jobs: Any = job_pb2_grpc.JobServiceStub(self.channel)
        self.files: Any = file_pb2_grpc.FileServiceStub(self.channel)
        self.tunnels: Any = tunnel_pb2_grpc.TunnelServiceStub(self.channel)

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    async def died(self) -> None:
        """Wait until it has ended by itself."""
        assert self.process is not None
        await asyncio.to_thread(self.process.wait, WITHIN_S)
        self.kill()

    async def restart(self) -> None:
        self.kill()
        await self.start()

    async def stop(self) -> int:
        """End it gracefully; returns its exit status."""
        assert self.process is not None
        self.process.terminate()
        status = await asyncio.to_thread(self.process.wait, WITHIN_S)
        self.kill()
        return status

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        if self.process is not None:
            self.kill()

    def faults(self, *faults: Mapping[str, Any], **control: Any) -> None:
        """Have these go wrong from now on, and nothing else."""
        fresh = self.folder / "control.new"
        fresh.write_text(tomlkit.dumps({"faults": [dict(fault) for fault in faults], **control}))
        fresh.replace(self.folder / "control.toml")

    # Jobs.

    async def stage(
        self, ref: types_pb2.JobRef, tree: Tree | None = None, workdir: str = ""
    ) -> Staged:
        """Send a tree (by default an empty one) as PutFiles has it; fills ref.roots."""
        staged = await put_files(self.files, ref, tree or Tree(), workdir=workdir)
        del ref.roots[:]
        ref.roots.extend(staged.result.roots)
        return staged

    async def start_job(
        self, script: str, ref: types_pb2.JobRef | None = None, **spec: Any
    ) -> tuple[types_pb2.JobRef, job_pb2.JobStatus]:
        """Stage nothing, and start a script."""
        ref = ref or make_ref()
        if not ref.roots:
            await self.stage(ref, workdir=spec.get("workdir", ""))
        answer = await self.jobs.StartJob(start_request(ref, script, **spec))
        return ref, answer.status

    async def status(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus:
        answer: job_pb2.GetJobResponse = await self.jobs.GetJob(job_pb2.GetJobRequest(ref=ref))
        return answer.status

    async def until(
        self, ref: types_pb2.JobRef, check: Callable[[job_pb2.JobStatus], object]
    ) -> job_pb2.JobStatus:
        """The first status of the attempt, as the watch tells it, for which `check` holds."""
        async for event in self.watch():
            if event.HasField("status"):
                status = event.status
                same = (status.ref.job_id, status.ref.attempt) == (ref.job_id, ref.attempt)
                if same and check(status):
                    return status
        raise AssertionError("the watch ended")

    async def running(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus:
        return await self.until(ref, lambda status: status.state == job_pb2.JOB_STATE_RUNNING)

    async def ended(self, ref: types_pb2.JobRef) -> job_pb2.JobEnd:
        return (await self.until(ref, lambda status: status.HasField("end"))).end

    async def watch(self) -> AsyncGenerator[job_pb2.JobEvent, None]:
        call = self.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=INSTALLATION))
        try:
            async with asyncio.timeout(WITHIN_S):
                async for answer in call:
                    for event in answer.events:
                        yield event
        finally:
            call.cancel()

    async def output(self, ref: types_pb2.JobRef, kind: int = 1) -> bytes:
        """All that a stream holds once the attempt has ended."""
        request = job_pb2.ReadOutputRequest(ref=ref, follow=True)
        request.cursors.add(kind=kind)
        data = b""
        async with asyncio.timeout(WITHIN_S):
            async for answer in self.jobs.ReadOutput(request):
                data += b"".join(piece.data for piece in answer.pieces)
        return data

    async def printed(self, ref: types_pb2.JobRef, data: bytes) -> None:
        """Wait until the script has printed `data` and nothing else."""
        request = job_pb2.ReadOutputRequest(ref=ref, follow=True)
        request.cursors.add(kind=job_pb2.OUTPUT_KIND_STDOUT)
        found = b""
        call = self.jobs.ReadOutput(request)
        async with asyncio.timeout(WITHIN_S):
            async for answer in call:
                found += b"".join(piece.data for piece in answer.pieces)
                if len(found) >= len(data):
                    break
        call.cancel()
        assert found == data

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None = None
    ) -> job_pb2.CancelJobResponse:
        request = job_pb2.CancelJobRequest(ref=ref)
        if grace_s is not None:
            request.grace.CopyFrom(duration(grace_s))
        answer: job_pb2.CancelJobResponse = await self.jobs.CancelJob(request, timeout=WITHIN_S)
        return answer

    async def remove(self, ref: types_pb2.JobRef) -> None:
        await self.jobs.RemoveJob(job_pb2.RemoveJobRequest(ref=ref), timeout=WITHIN_S)

    def attempt_folder(self, ref: types_pb2.JobRef) -> Path:
        name = f"{ref.job_id}.{ref.attempt}"
        return self.site / "jobs" / ref.partition_id / ref.installation / name


def make_ref(
    job_id: str = "job-1",
    *nodes: str,
    attempt: int = 1,
    partition: str = "local",
    owner: str = "ann",
) -> types_pb2.JobRef:
    given = nodes or (("n1",) if partition == "local" else ())
    return types_pb2.JobRef(
        installation=INSTALLATION,
        partition_id=partition,
        job_id=job_id,
        attempt=attempt,
        owner=owner,
        nodes=given,
    )


def duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


def fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def start_request(
    ref: types_pb2.JobRef,
    script: str,
    *,
    every: bool = False,
    time_limit_s: float | None = None,
    grace_s: float | None = None,
    secret_env: Mapping[str, str] | None = None,
    fingerprint_of: str = "",
    cpus: int = 1,
    ports: Mapping[str, int] | None = None,
    node_count: int = 0,
    **spec: Any,
) -> job_pb2.StartJobRequest:
    """A start of `script` on the nodes of `ref`."""
    made = job_pb2.JobSpec(
        script=script.encode(),
        resources=job_pb2.Resources(cpus=cpus),
        node_count=node_count or max(len(ref.nodes), 1),
        launch=job_pb2.LAUNCH_EVERY if every else job_pb2.LAUNCH_FIRST,
        **spec,
    )
    if time_limit_s is not None:
        made.time_limit.CopyFrom(duration(time_limit_s))
    if grace_s is not None:
        made.grace.CopyFrom(duration(grace_s))
    request = job_pb2.StartJobRequest(
        ref=ref,
        spec=made,
        origin=ORIGIN,
        spec_fingerprint=fingerprint(script, every, sorted(spec), fingerprint_of),
        secret_env=secret_env or {},
    )
    for node in ref.nodes:
        allocation = request.allocations.add(node=node, cpus=cpus)
        for name, port in (ports or {}).items():
            allocation.ports.add(name=name, port=port)
    return request


async def problem(call: Any) -> Problem:
    """What a call is refused with; fails if it is not."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return Problem.from_error(error)
    raise AssertionError("the call was not refused")


async def refused(call: Any, reason: str, code: grpc.StatusCode | None = None) -> Problem:
    """Check that a call is refused with `reason` of our domain."""
    found = await problem(call)
    assert (found.reason, found.domain) == (reason, DOMAIN), found
    if code is not None:
        assert found.code is code
    return found


async def eventually(check: Callable[[], Any], what: str) -> Any:
    """Wait until `check` gives something true; asks again, since nothing tells."""
    until = time.monotonic() + WITHIN_S
    while not (found := check()):
        assert time.monotonic() < until, f"not within {WITHIN_S} s: {what}"
        await asyncio.sleep(0.01)
    return found


# Files.


@dataclasses.dataclass
class Tree:
    """What PutFiles sends: contents by path, links, empty folders."""

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    links: dict[str, str] = dataclasses.field(default_factory=dict)
    folders: Sequence[str] = ()
    modes: dict[str, int] = dataclasses.field(default_factory=dict)

    def entries(self) -> list[manifest_pb2.ManifestEntry]:
        made = [
            manifest_pb2.ManifestEntry(
                path=path,
                type=manifest_pb2.FILE_TYPE_FILE,
                size=len(data),
                sha256=hashlib.sha256(data).digest(),
                mode=self.modes.get(path, 0),
            )
            for path, data in self.files.items()
        ]
        made += [
            manifest_pb2.ManifestEntry(
                path=path, type=manifest_pb2.FILE_TYPE_SYMLINK, link_target=target
            )
            for path, target in self.links.items()
        ]
        made += [
            manifest_pb2.ManifestEntry(
                path=path,
                type=manifest_pb2.FILE_TYPE_DIRECTORY,
                mode=self.modes.get(path, 0),
            )
            for path in self.folders
        ]
        return sorted(made, key=lambda entry: entry.path.encode())

    @property
    def contents(self) -> dict[bytes, bytes]:
        return {hashlib.sha256(data).digest(): data for data in self.files.values()}

    @property
    def digest(self) -> bytes:
        return digest_of(self.entries())


def digest_of(entries: Iterable[manifest_pb2.ManifestEntry]) -> bytes:
    return hashlib.sha256(b"".join(delimited(entry) for entry in entries)).digest()


@dataclasses.dataclass
class Staged:
    """How a PutFiles went."""

    needed: list[file_pb2.NeededFile]
    result: file_pb2.PutFilesResult


def begin_request(ref: types_pb2.JobRef, tree: Tree, workdir: str = "") -> file_pb2.PutFilesRequest:
    entries = tree.entries()
    return file_pb2.PutFilesRequest(
        begin=file_pb2.PutFilesBegin(
            ref=ref,
            manifest_sha256=digest_of(entries),
            origin=ORIGIN,
            entry_count=len(entries),
            total_bytes=sum(entry.size for entry in entries),
            workdir=workdir,
        )
    )


def pages(tree: Tree, size: int = 1_000) -> list[file_pb2.PutFilesRequest]:
    entries = tree.entries()
    starts = range(0, max(len(entries), 1), size)
    return [
        file_pb2.PutFilesRequest(
            page=file_pb2.ManifestPage(
                entries=entries[start : start + size], last=start + size >= len(entries)
            )
        )
        for start in starts
    ]


def pieces(
    *parts: tuple[bytes, int, bytes, bool],
) -> file_pb2.PutFilesRequest:
    made = [
        file_pb2.FilePiece(sha256=digest, offset=offset, data=data, last=last)
        for digest, offset, data, last in parts
    ]
    return file_pb2.PutFilesRequest(pieces=file_pb2.FilePieces(pieces=made))


async def put_files(stub: Any, ref: types_pb2.JobRef, tree: Tree, *, workdir: str = "") -> Staged:
    """One PutFiles, from begin to result."""
    for tries_left in reversed(range(20)):
        try:
            return await _put_files(stub, ref, tree, workdir)
        except grpc.aio.AioRpcError as error:
            # What a client makes of a write that came when the call had ended already, before it
            # has read how. Every call may be repeated.
            if error.details() != "Internal error from Core" or not tries_left:
                raise
    raise AssertionError("not reached")


async def _put_files(
    stub: Any, ref: types_pb2.JobRef, tree: Tree, workdir: str, chunk: int = 1 << 20
) -> Staged:
    call = stub.PutFiles()
    await _write(call, begin_request(ref, tree, workdir))
    for page in pages(tree):
        await _write(call, page)
    needed = await read_needed(call)
    contents = tree.contents
    for want in needed:
        data = contents[want.sha256]
        offset = want.offset
        while True:
            part = data[offset : offset + chunk]
            end = offset + len(part)
            await _write(call, pieces((want.sha256, offset, part, end == len(data))))
            offset = end
            if offset == len(data):
                break
    await call.done_writing()
    result = None
    while (answer := await call.read()) is not grpc.aio.EOF:
        if answer.HasField("result"):
            result = answer.result
    await check_ok(call)
    assert result is not None
    return Staged(needed, result)


async def _write(call: Any, message: Any) -> None:
    """Send one message; raises what the call ended with, if it has."""
    try:
        await call.write(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await check_ok(call)
        raise


async def drained(call: Any) -> None:
    """Read a stream to its end, and raise what it ended with."""
    while await call.read() is not grpc.aio.EOF:
        pass
    await check_ok(call)


async def check_ok(call: Any) -> None:
    """Raise what a stream ended with, unless it is OK."""
    if await call.code() is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )


async def read_needed(call: Any) -> list[file_pb2.NeededFile]:
    needed: list[file_pb2.NeededFile] = []
    while True:
        answer = await call.read()
        if answer is grpc.aio.EOF:
            await check_ok(call)
            raise AssertionError("the call ended before it said what it needs")
        if answer.HasField("needed"):
            needed += answer.needed.files
            if answer.needed.last:
                return needed


def processes_of(ref: types_pb2.JobRef) -> list[int]:
    """The living processes that have the mark of an attempt."""
    return marked(f"{AttemptPath.of(ref).path}/")


def end_all_jobs() -> None:
    """Kill what the jobs of a test have left running."""
    for pid in marked(f"{INSTALLATION}/"):
        with contextlib.suppress(ProcessLookupError):
            kill_process(pid)


def marked(part: str) -> list[int]:
    """The living processes in whose mark `part` stands."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                marks = [each for each in variables if each.startswith(b"SWM_MARK=")]
                if any(part.encode() in mark for mark in marks):
                    found.append(int(folder.name))
    return found


def claimed_pid(gate: Gate, ref: types_pb2.JobRef, node: str = "n1") -> int:
    """The runner that has claimed."""
    words = (gate.attempt_folder(ref) / f"claim.{node}").read_text().split()
    return int(words[1])


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
