"""A site of one or two hosts for tests of attempts, without a gate around it."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from gate_kit import Operations, WatchHub
from gate_kit.ssh.containers import Containers
from gate_kit.ssh.ending import Ending
from gate_kit.ssh.host import Host
from gate_kit.ssh.images import ContainerSettings
from gate_kit.ssh.jobs import Jobs
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.output import Output
from gate_kit.ssh.overview import Overview
from gate_kit.ssh.starting import Starts
from gate_kit.ssh.transport import Transport
from gate_kit.ssh.watching import Watching
from skyport.gate.v1 import job_pb2, types_pb2

PARTITION = "hosts"
INSTALLATION = "test"
WITHIN_S = 30.0


class Place:
    """Hosts by their names, as a gate gives them."""

    def __init__(self, *, shared: bool = False) -> None:
        self.on_made: list[Callable[[Host], None]] = []
        self.is_shared = shared
        self.by_node: dict[str, Host] = {}

    def add(self, host: Host) -> None:
        self.by_node[host.node] = host
        for made in self.on_made:
            made(host)

    def hosts(self, ref: types_pb2.JobRef) -> list[Host]:
        return [self.by_node[node] for node in ref.nodes]

    def everywhere(self, partition_id: str = "") -> list[Host]:
        return list(self.by_node.values())

    def addresses(self, partition_id: str) -> dict[str, str]:
        return dict.fromkeys(self.by_node, "127.0.0.1")


@dataclasses.dataclass
class Site:
    """One run of what a gate has, and what it works on."""

    place: Place
    operations: Operations
    hub: WatchHub[job_pb2.JobEvent]
    jobs: Jobs
    starts: Starts
    overview: Overview
    ending: Ending
    output: Output
    roots: dict[str, Path]

    @property
    def host(self) -> Host:
        """The first host."""
        return next(iter(self.place.by_node.values()))

    def folder(self, ref: types_pb2.JobRef, node: str = "n1") -> Path:
        """Where an attempt lies."""
        return self.roots[node] / "jobs" / AttemptKey.of(ref).path

    async def stage(self, *nodes: str, job_id: str = "", owner: str = "ann") -> types_pb2.JobRef:
        """What PutFiles does for a job without inputs; returns its ref, with roots."""
        names = nodes or ("n1",)
        ref = types_pb2.JobRef(
            installation=INSTALLATION,
            partition_id=PARTITION,
            job_id=job_id or f"job-{secrets.token_hex(6)}",
            attempt=1,
            owner=owner,
            nodes=names,
        )
        for name in names:
            root_uid = await self.place.by_node[name].make_root()
            ref.roots.add(node=name, root_uid=root_uid)
        return ref

    def request(
        self, ref: types_pb2.JobRef, script: str, **fields: object
    ) -> job_pb2.StartJobRequest:
        """A request to start `script`; `fields` are those of the spec, times in seconds."""
        given = dict(fields)
        for name in ("time_limit", "grace"):
            if name in given:
                span = Duration()
                span.FromNanoseconds(round(float(str(given[name])) * 1e9))
                given[name] = span
        spec = job_pb2.JobSpec(
            script=script.encode(),
            resources=job_pb2.Resources(cpus=1),
            node_count=len(ref.nodes),
            launch=given.pop("launch", job_pb2.LAUNCH_FIRST),  # type: ignore[arg-type]
            **given,  # type: ignore[arg-type]
        )
        return job_pb2.StartJobRequest(
            ref=ref,
            spec_fingerprint="0" * 64,
            spec=spec,
            allocations=[types_pb2.Allocation(node=node, cpus=1) for node in ref.nodes],
            origin=types_pb2.Origin(installation=INSTALLATION, store_generation="g1"),
        )

    async def start(self, script: str, *nodes: str, **fields: object) -> types_pb2.JobRef:
        """Stage and start a job; returns its ref."""
        ref = await self.stage(*nodes)
        await self.starts.start(self.request(ref, script, **fields))
        return ref

    async def until(
        self, ref: types_pb2.JobRef, is_good: Callable[[job_pb2.JobStatus], bool]
    ) -> job_pb2.JobStatus:
        """The status once it is as wished."""
        key = AttemptKey.of(ref)
        async with asyncio.timeout(WITHIN_S):
            while True:
                bell = asyncio.Event()
                with self.jobs.bells.listening(key, bell):
                    status = await self.jobs.status(ref)
                    if status is not None and is_good(status):
                        return status
                    try:
                        async with asyncio.timeout(0.5):
                            await bell.wait()
                    except TimeoutError:
                        pass

    async def ended(self, ref: types_pb2.JobRef) -> job_pb2.JobEnd:
        """How it ended."""
        return (await self.until(ref, lambda status: status.HasField("end"))).end

    async def running(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus:
        """Its status once it has claimed."""
        return await self.until(ref, lambda s: s.state == job_pb2.JOB_STATE_RUNNING)

    async def written(self, ref: types_pb2.JobRef, wanted: bytes) -> None:
        """Wait until the job has written something to its standard output."""
        seen = b""
        async with asyncio.timeout(WITHIN_S):
            async for piece in self.follow(ref):
                seen += piece
                if wanted in seen:
                    return
        raise AssertionError(f"it ended, and wrote {seen!r}")

    async def follow(
        self,
        ref: types_pb2.JobRef,
        kind: job_pb2.OutputKind.ValueType = job_pb2.OUTPUT_KIND_STDOUT,
        offset: int = 0,
    ) -> AsyncIterator[bytes]:
        """What it writes, until its end."""
        cursor = job_pb2.OutputCursor(kind=kind, offset=offset)
        request = job_pb2.ReadOutputRequest(ref=ref, cursors=[cursor], follow=True)
        answers = self.output.read(request)
        try:
            async for answer in answers:
                for piece in answer.pieces:
                    assert piece.at.offset == offset
                    offset += len(piece.data)
                    yield piece.data
        finally:
            await answers.aclose()

    async def close(self) -> None:
        """Let go, as a gate that ends."""
        await self.operations.close(0.1)
        await self.output.close()
        for host in self.place.by_node.values():
            await host.close()


def make_site(
    transports: dict[str, Transport],
    roots: dict[str, Path],
    *,
    shell: str = "/bin/sh",
    shared: bool = False,
) -> Site:
    """A run of what a gate has over hosts at `roots`."""
    place = Place(shared=shared)
    operations = Operations()
    hub = WatchHub(job_pb2.JobEvent, secrets.token_hex(4))
    jobs = Jobs(place, hub, Containers(ContainerSettings()))
    starts = Starts(jobs, operations)
    overview = Overview(jobs, operations, hub)
    watching = Watching(jobs, operations)

    async def take_back(host: Host, key: AttemptKey) -> None:
        raise AssertionError("no job here has a folder of its own")

    ending = Ending(jobs, operations, take_back)
    output = Output(jobs, "incarnation", heartbeat_s=1.0)
    for name, transport in transports.items():
        place.add(Host(transport, PARTITION, str(roots[name]), shell=shell))
    watching.open()
    return Site(place, operations, hub, jobs, starts, overview, ending, output, roots)
