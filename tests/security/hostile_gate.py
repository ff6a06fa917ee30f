"""A gate that lies: how, is named by a job's variable TRICK (for its inputs, by its work folder).

It pretends one static partition, `hosts`, and one queue, `batch`. It is a process of its own that a
core starts like any other gate, with no more of gate_kit than what serves calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parents[2]))

from gate_kit import GateInfo, Service, WatchHub, command_line, serve
from gate_kit.errors import job_not_found
from rpc_kit import logs
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import (
    file_pb2,
    file_pb2_grpc,
    inventory_pb2,
    inventory_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    types_pb2,
)

FILE, FOLDER, LINK = (
    manifest_pb2.FILE_TYPE_FILE,
    manifest_pb2.FILE_TYPE_DIRECTORY,
    manifest_pb2.FILE_TYPE_SYMLINK,
)
DATA = b"from a hostile site\n"
MiB = 1 << 20
FAR_S = 1 << 60
"""Seconds: no calendar has them."""
NOISE = "\x1b[2J\x1b]0;owned\x07 line one\nline two \u202e" + "x" * 200_000
"""What moves a terminal's cursor, makes lines of a log, and is long."""


def site_file(path: str, kind: int = FILE, *, target: str = "", size: int = len(DATA)) -> Any:
    entry = manifest_pb2.ManifestEntry(path=path, type=kind, mode=0o644, link_target=target)  # type: ignore[arg-type]
    if kind == FILE:
        entry.size = size
    return file_pb2.SiteFile(entry=entry)


LISTS: dict[str, list[Any]] = {
    "paths": [
        site_file(path)
        for path in [
            "", ".", "..", "../up", "../../../../../../tmp/swm-owned", "/tmp/swm-owned",
            "a/../../up",
            "a/./b", "a//b", "a/", "nul\0byte", "x" * 300, "y/" * 3_000 + "z", "good",
        ]
    ],
    "links": [
        site_file("abs", LINK, target="/etc"),
        site_file("in", LINK, target="good"),
        site_file("in2/up", LINK, target="../../.."),
        site_file("out", LINK, target=".."),
        site_file("out/through"),
        site_file("wavy", LINK, target="good/../../.."),
        site_file("good"),
    ],
    "below": [
        site_file("f"), site_file("f/inside"), site_file("f/more", FOLDER), site_file("good"),
    ],
    "twice": [site_file("good"), site_file("good"), site_file("Good"), site_file("GOOD")],
    "kinds": [site_file("seven", 7), site_file("eight", LINK), site_file("good")],
    "less": [site_file("short", size=1_000), site_file("good")],
    "cut": [site_file("cut"), site_file("good")],
    "digest": [site_file("wrong"), site_file("good")],
    "modes": [site_file("good")],
    "unknown-field": [site_file("good")],
    "gap": [site_file("good")],
    "index": [site_file("good")],
    "again": [site_file("good")],
    "more": [site_file("good")],
    "no-end": [site_file("good")],
    "huge-size": [site_file("good", size=(1 << 64) - 1)],
}  # fmt: skip
LISTS["modes"][0].entry.mode = 0o107777
# A field of a contract that is newer than this core.
LISTS["unknown-field"][0].entry.MergeFromString(b"\xfa\x3f\x03new")


def pieces(trick: str, files: list[file_pb2.FileCursor]) -> Iterator[list[file_pb2.SiteFilePiece]]:
    """What GetFiles sends, message by message."""
    end = file_pb2.SiteFileEnd(size=len(DATA), sha256=hashlib.sha256(DATA).digest())
    whole = [file_pb2.SiteFilePiece(index=index, data=DATA, end=end) for index in range(len(files))]
    match trick:
        case "digest":
            for file, piece in zip(files, whole, strict=True):
                if file.path == "wrong":
                    piece.end.sha256 = bytes(32)
            yield whole
        case "cut":
            for file, piece in zip(files, whole, strict=True):
                if file.path == "cut":
                    piece.end.size = 1_000
            yield whole
        case "gap":
            yield [file_pb2.SiteFilePiece(index=0, offset=7, data=DATA, end=end)]
        case "index":
            yield [file_pb2.SiteFilePiece(index=4_000_000_000, data=DATA, end=end)]
        case "again":
            yield whole
            yield whole
        case "more":
            while True:
                yield [file_pb2.SiteFilePiece(index=0, offset=0, data=bytes(MiB))]
                for offset in range(MiB, 1 << 40, MiB):
                    yield [file_pb2.SiteFilePiece(index=0, offset=offset, data=bytes(MiB))]
        case "no-end":
            yield [file_pb2.SiteFilePiece(index=0, data=DATA)]
        case _:
            yield whole


class Gate(job_pb2_grpc.JobServiceServicer, file_pb2_grpc.FileServiceServicer):
    """Jobs and files."""

    def __init__(self, hub: WatchHub[job_pb2.JobEvent]) -> None:
        self._hub = hub
        self._jobs: dict[str, job_pb2.JobStatus] = {}
        self._tricks: dict[str, str] = {}

    def _trick(self, ref: types_pb2.JobRef) -> str:
        return self._tricks.get(ref.job_id, "")

    def _tell(self, status: job_pb2.JobStatus) -> None:
        event = job_pb2.JobEvent()
        event.status.CopyFrom(status)
        self._hub.publish(status.ref.job_id, event)

    # Jobs.

    async def StartJob(self, request: Any, context: Any) -> job_pb2.StartJobResponse:
        trick = self._tricks[request.ref.job_id] = request.spec.env["TRICK"]
        status = job_pb2.JobStatus(
            ref=request.ref, state=job_pb2.JOB_STATE_RUNNING, roots=roots(request.ref)
        )
        status.start_time.GetCurrentTime()
        if trick == "nodes":
            for name in ("../../../up", "a/b", "x" * 300, "", ".", "ok", "q\n"):
                status.allocations.add(
                    node=name, cpus=1, ports=[types_pb2.AllocatedPort(port=99_999)]
                )
        if trick == "times":
            status.start_time.seconds = -FAR_S
        if trick == "words":
            status.text = NOISE
        if trick == "roots":
            status.roots.extend(
                types_pb2.SiteRoot(node=f"n{n}", root_uid="u" * 90) for n in range(20_000)
            )
        self._jobs[request.ref.job_id] = status
        if not trick.startswith("live"):
            asyncio.get_running_loop().call_soon(self._end, status, trick)
        return job_pb2.StartJobResponse(status=status)

    def _end(self, status: job_pb2.JobStatus, trick: str) -> None:
        self._tell(status)
        status.state = job_pb2.JOB_STATE_ENDED
        status.end.exit_code = 0
        status.end.start_time.CopyFrom(status.start_time)
        status.end.end_time.GetCurrentTime()
        if trick == "times":
            status.end.end_time.seconds = FAR_S
            status.end.end_time.nanos = -5
            status.end.usage.cpu_time.seconds = FAR_S
            status.end.usage.max_memory_bytes = (1 << 64) - 1
        if trick == "words":
            status.end.failure.reason, status.end.failure.message = "\x1b[31mOWNED\n", NOISE
        self._tell(status)

    async def GetJob(self, request: Any, context: Any) -> job_pb2.GetJobResponse:
        if request.ref.job_id not in self._jobs:
            raise job_not_found(request.ref)
        return job_pb2.GetJobResponse(status=self._jobs[request.ref.job_id])

    async def CancelJob(self, request: Any, context: Any) -> job_pb2.CancelJobResponse:
        return job_pb2.CancelJobResponse(status=self._jobs.get(request.ref.job_id))

    async def RemoveJob(self, request: Any, context: Any) -> job_pb2.RemoveJobResponse:
        return job_pb2.RemoveJobResponse()

    async def ListJobs(self, request: Any, context: Any) -> job_pb2.ListJobsResponse:
        return job_pb2.ListJobsResponse(jobs=self._jobs.values())

    async def WatchJobs(
        self, request: Any, context: Any
    ) -> AsyncIterator[job_pb2.WatchJobsResponse]:
        async def snapshot() -> AsyncIterator[job_pb2.JobEvent]:
            for status in list(self._jobs.values()):
                yield job_pb2.JobEvent(status=status)

        async for events in self._hub.watch(snapshot):
            yield job_pb2.WatchJobsResponse(events=events)

    async def ReadOutput(
        self, request: Any, context: Any
    ) -> AsyncIterator[job_pb2.ReadOutputResponse]:
        trick = self._trick(request.ref)
        at = request.cursors[0]
        size = at.offset
        if trick == "holes":
            for start in range(0, 6_000, 100):
                yield job_pb2.ReadOutputResponse(
                    pieces=[
                        job_pb2.OutputPiece(at=cursor_at(at, 2 * offset + 1), data=b"x")
                        for offset in range(start, start + 100)
                    ]
                )
            size = 12_000
        if trick == "far":
            far = (1 << 64) - 5
            yield job_pb2.ReadOutputResponse(
                pieces=[job_pb2.OutputPiece(at=cursor_at(at, far), data=b"far")]
            )
        if trick == "back":
            yield job_pb2.ReadOutputResponse(
                pieces=[job_pb2.OutputPiece(at=cursor_at(at, 0), data=b"0123456789")]
            )
            size = 3
        if trick == "strangers":
            other = job_pb2.OutputCursor(node="../../up", kind=7, offset=0)  # type: ignore[arg-type]
            yield job_pb2.ReadOutputResponse(pieces=[job_pb2.OutputPiece(at=other, data=b"x")])
        if trick.startswith("live"):
            await asyncio.Event().wait()
        for cursor in request.cursors:
            end = job_pb2.OutputEnd(at=cursor_at(cursor, size), sha256=b"x" * 1_000)
            yield job_pb2.ReadOutputResponse(ends=[end])

    # Files.

    async def PutFiles(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[file_pb2.PutFilesResponse]:
        begin, digests = None, list[bytes]()
        async for request in request_iterator:
            begin = begin or request.begin
            digests += [entry.sha256 for entry in request.page.entries if entry.sha256]
            if request.page.last:
                break
        assert begin is not None
        needed = file_pb2.NeededFiles(last=True)
        match begin.workdir:
            case "/tmp/stranger":
                needed.files.add(sha256=hashlib.sha256(b"a stranger's content").digest())
            case "/tmp/far":
                needed.files.add(sha256=digests[0], offset=1 << 50)
            case "/tmp/many":
                needed.files.extend([file_pb2.NeededFile(sha256=digests[0])] * 50_000)
            case "/tmp/path":
                needed.files.add(sha256=b"../../../../etc/passwd")
        yield file_pb2.PutFilesResponse(needed=needed)
        result = file_pb2.PutFilesResult(roots=roots(begin.ref))
        yield file_pb2.PutFilesResponse(result=result)

    async def ListFiles(self, request: Any, context: Any) -> Any:
        trick = self._trick(request.ref).removeprefix("live-")
        answer = file_pb2.ListFilesResponse(files=LISTS.get(trick, ()))
        if trick == "endless":
            answer.next_page_token = str(int(request.page_token or 0) + 1)
        if trick == "remarks":
            answer.skipped.extend(
                manifest_pb2.SkippedFile(path=f"{n}\x1b[31m\n", reason="\x07" * 100)
                for n in range(20_000)
            )
            answer.unmatched_patterns.extend(["*", "never asked", NOISE[:1_000]])
        if trick == "not-utf8":
            # entry { path: ff fe } in a SiteFile in a ListFilesResponse.
            return b"\x0a\x06\x0a\x04\x0a\x02\xff\xfe"
        return answer

    async def GetFiles(
        self, request: Any, context: Any
    ) -> AsyncIterator[file_pb2.GetFilesResponse]:
        trick = self._trick(request.ref).removeprefix("live-")
        for each in pieces(trick, list(request.files)):
            yield file_pb2.GetFilesResponse(pieces=each)


def roots(ref: types_pb2.JobRef) -> list[types_pb2.SiteRoot]:
    return [types_pb2.SiteRoot(node=node, root_uid="root") for node in ref.nodes or [""]]


def cursor_at(cursor: job_pb2.OutputCursor, offset: int) -> job_pb2.OutputCursor:
    return job_pb2.OutputCursor(node=cursor.node, kind=cursor.kind, offset=offset)


class Inventory(inventory_pb2_grpc.InventoryServiceServicer):
    async def ListNodes(self, request: Any, context: Any) -> inventory_pb2.ListNodesResponse:
        return inventory_pb2.ListNodesResponse()

    async def ListFlavors(self, request: Any, context: Any) -> inventory_pb2.ListFlavorsResponse:
        return inventory_pb2.ListFlavorsResponse()

    async def ListImages(self, request: Any, context: Any) -> inventory_pb2.ListImagesResponse:
        return inventory_pb2.ListImagesResponse()


class Partitions(partition_pb2_grpc.PartitionServiceServicer):
    def __init__(self, hub: WatchHub[partition_pb2.PartitionEvent]) -> None:
        self._hub = hub

    async def CreatePartition(self, request: Any, context: Any) -> Any:
        raise AssertionError("a core creates nothing at a site that has static partitions only")

    DeletePartition = GetPartition = RenewPartition = CreatePartition

    async def ListPartitions(
        self, request: Any, context: Any
    ) -> partition_pb2.ListPartitionsResponse:
        return partition_pb2.ListPartitionsResponse(partitions=partitions())

    async def WatchPartitions(
        self, request: Any, context: Any
    ) -> AsyncIterator[partition_pb2.WatchPartitionsResponse]:
        async def snapshot() -> AsyncIterator[partition_pb2.PartitionEvent]:
            for partition in partitions():
                yield partition_pb2.PartitionEvent(partition=partition)

        async for events in self._hub.watch(snapshot):
            yield partition_pb2.WatchPartitionsResponse(events=events)


def partitions() -> Iterator[partition_pb2.Partition]:
    for name, kind in (
        ("hosts", types_pb2.PARTITION_KIND_STATIC),
        ("batch", types_pb2.PARTITION_KIND_QUEUE),
    ):
        node = inventory_pb2.Node(
            name="n1",
            partition_id=name,
            state=inventory_pb2.NODE_STATE_UP,
            cpus=64,
            message=NOISE[:2_000],
        )
        ready = partition_pb2.PARTITION_STATE_READY
        yield partition_pb2.Partition(
            partition_id=name, kind=kind, state=ready, nodes=[node], text=NOISE[:2_000]
        )


def add_files(servicer: Any, server: Any) -> None:
    """As the generated function, but answers may be bytes that are no message."""

    def raw(message: Any) -> bytes:
        return message if isinstance(message, bytes) else message.SerializeToString()

    handlers: dict[str, Any] = {
        "PutFiles": grpc.stream_stream_rpc_method_handler(
            servicer.PutFiles, file_pb2.PutFilesRequest.FromString, raw
        ),
        "ListFiles": grpc.unary_unary_rpc_method_handler(
            servicer.ListFiles, file_pb2.ListFilesRequest.FromString, raw
        ),
        "GetFiles": grpc.unary_stream_rpc_method_handler(
            servicer.GetFiles, file_pb2.GetFilesRequest.FromString, raw
        ),
    }
    name = "skyport.gate.v1.FileService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    server.add_registered_method_handlers(name, handlers)


async def run(options: command_line.Options) -> None:
    kinds = (
        types_pb2.CAPABILITY_STATIC_PARTITIONS,
        types_pb2.CAPABILITY_SITE_QUEUE,
        types_pb2.CAPABILITY_SHARED_ACCOUNT,
    )
    info = GateInfo(name="hostile", version="0", summary=NOISE[:500], capabilities=frozenset(kinds))
    jobs = WatchHub(job_pb2.JobEvent, info.incarnation)
    gate = Gate(jobs)
    hub = WatchHub(partition_pb2.PartitionEvent, info.incarnation)
    services = [
        Service(inventory_pb2_grpc.add_InventoryServiceServicer_to_server, Inventory()),
        Service(partition_pb2_grpc.add_PartitionServiceServicer_to_server, Partitions(hub)),
        Service(job_pb2_grpc.add_JobServiceServicer_to_server, gate),
        Service(add_files, gate),
    ]
    await serve(options.listen, info, services, on_drain=[jobs.close, hub.close])


if __name__ == "__main__":
    given = command_line.parse("hostile-gate", "A gate that lies.")
    logs.configure(given.log_level, given.log_format)
    asyncio.run(run(given))
