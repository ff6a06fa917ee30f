"""The site's own queue: jobs wait in the order in which they came, and get free slots.

That a job waits is on disk: it was asked to start and has no nodes yet. So a gate that comes back
goes on with the same queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from gate_kit import Operations, errors, launching
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import command
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.config import Config, Kind
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.nodes import queue_nodes
from gates.fake_gate.site import Site, write_whole
from gates.fake_gate.specs import sync
from skyport.gate.v1 import job_pb2, types_pb2

_FULL_RETRY_S = 1.0
_PORTS = range(20_000, 30_000)


class SiteQueue:
    """Places jobs of QUEUE partitions: first come, first served, one job for each slot.

    Args:
        site: Where the jobs are.
        config: The queues.
        jobs: Starts what has its turn.
        operations: Owns the mutations.
    """

    def __init__(self, site: Site, config: Config, jobs: Jobs, operations: Operations) -> None:
        self._site = site
        self._queues = {
            name: partition
            for name, partition in config.partitions.items()
            if partition.kind is Kind.QUEUE
        }
        self._jobs = jobs
        self._operations = operations
        self._waiting: dict[str, dict[AttemptPath, int]] = {name: {} for name in self._queues}
        self._busy: dict[str, dict[str, AttemptPath]] = {name: {} for name in self._queues}
        self._turns: set[str] = set()

    def open(self) -> None:
        """Find who waits and who has slots, and go on."""
        for name in self._queues:
            for key in self._site.attempts(partition_id=name):
                attempt = Attempt(key, self._site.attempt_folder(key))
                spec = attempt.spec()
                status = self._jobs.evidence.status(attempt)
                if spec is None or status is None or status.HasField("end"):
                    continue
                if nodes := attempt.placement():
                    self._busy[name] |= dict.fromkeys(nodes, key)
                else:
                    self._waiting[name][key] = (attempt.folder / "spec").stat().st_mtime_ns
            self._waiting[name] = dict(sorted(self._waiting[name].items(), key=lambda kv: kv[1]))
            self._take_turns(name)

    async def submit(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        """Make sure that the attempt waits for its turn, or has had it.

        Raises:
            Refusal: SITE_QUEUE_FULL, CAPACITY, and as for `Jobs.start`.
        """
        attempt = self._jobs.evidence.locate(request.ref)
        return await self._operations.run(
            ("start", attempt.key, request.spec_fingerprint),
            lambda: self._submit(attempt, request),
            on=attempt.key,
        )

    async def _submit(
        self, attempt: Attempt, request: job_pb2.StartJobRequest
    ) -> job_pb2.JobStatus:
        name = request.ref.partition_id
        queue = self._queues[name]
        spec = self._jobs.specs.check(attempt, request)
        if spec is None:
            if len(self._waiting[name]) >= queue.max_queue:
                raise errors.site_queue_full(
                    f"{queue.max_queue} jobs wait in {name} already", retry_after_s=_FULL_RETRY_S
                )
            private = command.private_variables(request.spec, request.secret_env)
            if private:
                if not attempt.exists:
                    attempt.make(request.ref, request.origin, request.spec.workdir)
                write_whole(attempt.folder / "private", launching.encode_variables(private))
            _, descriptor = self._jobs.specs.write(attempt, request)
            await asyncio.to_thread(sync, descriptor)
            self._waiting[name][attempt.key] = 0
            self._jobs.publish(attempt)
            self._take_turns(name)
        elif attempt.placement():
            # An earlier gate gave it nodes, and may not have come to start it there.
            self._start(attempt, spec)
        return self._jobs.evidence.told(attempt)

    def claimed(self, attempt: Attempt) -> None:
        """Nothing to do: its slots are busy since it was placed."""

    def ended(self, attempt: Attempt) -> None:
        """Give its slots to the next."""
        name = attempt.key.partition_id
        if name not in self._queues:
            return
        self._waiting[name].pop(attempt.key, None)
        self._busy[name] = {n: key for n, key in self._busy[name].items() if key != attempt.key}
        self._take_turns(name)

    def _take_turns(self, name: str) -> None:
        """Have a task place what can be placed; one for each queue is enough."""
        if name not in self._turns and self._waiting[name]:
            self._turns.add(name)
            self._operations.spawn(self._place(name), f"queue {name}")

    async def _place(self, name: str) -> None:
        try:
            while self._waiting[name]:
                key = next(iter(self._waiting[name]))
                async with self._operations.exclusive(key):
                    if key not in self._waiting[name]:
                        continue  # cancelled while we waited
                    attempt = Attempt(key, self._site.attempt_folder(key))
                    spec = attempt.spec()
                    if spec is None or self._site.is_buried(key):
                        del self._waiting[name][key]
                        continue
                    all_nodes = queue_nodes(name, self._queues[name])
                    free = [node for node in all_nodes if node not in self._busy[name]]
                    if len(free) < spec.spec.node_count:
                        return  # the first one waits, so all behind it do
                    nodes = free[: spec.spec.node_count]
                    del self._waiting[name][key]
                    self._busy[name] |= dict.fromkeys(nodes, key)
                    self._give(attempt, spec, nodes)
        finally:
            self._turns.discard(name)

    def _give(self, attempt: Attempt, spec: job_pb2.StartJobRequest, nodes: list[str]) -> None:
        lines = "".join(f"{node}\n" for node in nodes)
        write_whole(attempt.folder / "hosts", lines.encode())
        private = attempt.folder / "private"
        if private.exists():
            data = private.read_bytes()
            for node in nodes:
                write_whole(attempt.folder / f"private.{node}", data)
            private.unlink()
        given = job_pb2.JobStatus(allocations=self._allocations(attempt.key, spec.spec, nodes))
        write_whole(attempt.folder / "given", given.SerializeToString())
        self._start(attempt, spec)

    def _allocations(
        self, key: AttemptPath, spec: job_pb2.JobSpec, nodes: Sequence[str]
    ) -> Iterator[types_pb2.Allocation]:
        """What each node gives: all nodes are one machine, so no port is given twice."""
        taken = {
            port.port
            for busy in self._busy[key.partition_id].values()
            if busy != key
            for allocation in Attempt(busy, self._site.attempt_folder(busy)).given()
            for port in allocation.ports
        }
        for node in nodes:
            told = types_pb2.Allocation(
                node=node,
                cpus=spec.resources.cpus,
                memory_bytes=spec.resources.memory_bytes,
                gpu_ids=[str(index) for index in range(spec.resources.gpus)],
            )
            for port in spec.ports:
                number = port.number or next(n for n in _PORTS if n not in taken)
                taken.add(number)
                told.ports.add(name=port.name, port=number)
            yield told

    def _start(self, attempt: Attempt, spec: job_pb2.StartJobRequest) -> None:
        private: Mapping[str, bytes] = {
            path.name.partition(".")[2]: path.read_bytes()
            for path in attempt.folder.glob("private.*")
        }
        self._jobs.launch(attempt, spec, lambda node: private.get(node, b""))
