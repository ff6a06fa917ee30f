"""The ports of running jobs: listening here for IN ports, dialling here for OUT ports."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

from rpc_kit.endpoint import Endpoint
from swm_core.domain.addresses import allowed, dialled
from swm_core.domain.job import Direction, Job, Launch
from swm_core.domain.states import JobState
from swm_core.gateways import tunnels
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.lifecycle.asking import Asker
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.live import NotLive
from swm_core.store import StoreError

log = logging.getLogger(__name__)

_LISTENING_S = 10.0
_IN_USE = "PORT_IN_USE"
_MOST_CONNECTIONS = 1_000
"""Of one job at a time. A site that makes more of them is not to wear the core out."""

TakeOver = Callable[[Gate, str], Awaitable[None]]
"""Given the gate and the id of each connection that the job opens."""


class NoSuchPort(Exception):
    """The job has no such port now; the message says which it has."""


class PortForwards:
    """The open ports of all jobs of the core."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._servers: dict[str, list[asyncio.Server]] = {}
        self._listeners: dict[tuple[str, str, int], asyncio.Task[None]] = {}
        self._taken: dict[tuple[str, int], tuple[TakeOver, asyncio.Event]] = {}
        self._connections: dict[str, set[asyncio.Task[None]]] = {}

    # ---- IN: from the user's side to the job ----

    async def open(self, job: Job, gate: Gate) -> None:
        """Listen for the IN ports of a job that runs, at the same local ports as before."""
        self._listen_out(job, gate)
        numbers = in_ports(job)
        if not numbers or job.job_id in self._servers or _cannot(gate, "TUNNELS"):
            return
        host = dialled(job.spec.submission_address)
        if not allowed(self._context.ports.in_at, host):
            # It was when the job was submitted: the list has changed since.
            log.warning("ports of job %s: %s is not in ports.in_at any more", job.job_id, host)
            return
        servers = self._servers[job.job_id] = []
        local = dict(job.local_ports)
        try:
            for number in numbers:
                server = await self._listen(job, gate, host, number, local.get(str(number), 0))
                if server is not None:
                    servers.append(server)
                    local[str(number)] = server.sockets[0].getsockname()[1]
            if local != dict(job.local_ports):
                await self._context.jobs.note(job.job_id, local_ports=local)
        except BaseException:
            # Where nobody could be told of them they are opened anew the next time.
            for server in servers:
                server.close()
            if self._servers.get(job.job_id) is servers:
                del self._servers[job.job_id]
            raise

    async def _listen(
        self, job: Job, gate: Gate, host: str, number: int, wanted: int
    ) -> asyncio.Server | None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._is_full(job.job_id):
                writer.close()
                return
            self._own(job.job_id, self._to_job(job.job_id, gate, number, reader, writer))

        for port in dict.fromkeys((wanted, 0)):
            try:
                return await asyncio.start_server(serve, host, port)
            except OSError as error:
                log.warning("cannot listen on %s:%d for port %d: %s", host, port, number, error)
        return None

    async def _to_job(
        self,
        job_id: str,
        gate: Gate,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            stream = await self.connect(job_id, gate, "", port)
            await splice(reader, writer, stream)
        except (GateError, NoSuchPort, OSError, TimeoutError) as error:
            log.debug("a connection to port %d of job %s ended: %s", port, job_id, error)
        finally:
            writer.close()

    async def connect(self, job_id: str, gate: Gate, node: str, port: int) -> tunnels.TunnelStream:
        """A connection to a port of a running job.

        Raises:
            NoSuchPort: The job does not run.
            GateError: The gate could not connect.
        """
        job = self._context.jobs.get(job_id)
        if job is None or job.state is not JobState.RUNNING:
            raise NoSuchPort(f"job {job_id} does not run")
        ref = Asker(self._context, gate, job_id).ref(job)
        return await tunnels.connect(gate, ref, node, port)

    # ---- OUT: from the job to the user's side ----

    async def open_out(self, job: Job, gate: Gate) -> None:
        """Listen at the site for the OUT ports of a job; best before it starts."""
        for listening in self._listen_out(job, gate):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LISTENING_S):
                    await listening.wait()

    def _listen_out(self, job: Job, gate: Gate) -> list[asyncio.Event]:
        """Begin to; the events are set once the site listens."""
        begun: list[asyncio.Event] = []
        if _cannot(gate, "REVERSE_TUNNELS"):
            return begun
        for node, number in itertools.product(_dialling_nodes(job), out_ports(job)):
            key = (job.job_id, node, number)
            listener = self._listeners.get(key)
            # A site may refuse to listen before the job runs: then it is asked again once it does.
            if listener is None or listener.done():
                begun.append(asyncio.Event())
                self._listeners[key] = asyncio.create_task(
                    self._stay_listening(job, gate, node, number, begun[-1])
                )
        return begun

    async def _stay_listening(
        self, job: Job, gate: Gate, node: str, number: int, listening: asyncio.Event
    ) -> None:
        """Listen until cancelled, again after a lost link."""
        backoff = Backoff(most_s=10.0)
        asker = Asker(self._context, gate, job.job_id)
        while True:
            await gate.wait_ready()
            try:
                async for connection_id in tunnels.listen(gate, asker.ref(job), node, number):
                    if connection_id is None:
                        listening.set()
                        backoff.reset()
                    elif not self._is_full(job.job_id):
                        self._own(job.job_id, self._from_job(job, gate, number, connection_id))
            except GateError as error:
                if error.reason == _IN_USE:
                    # It may be let go of; until then the job runs without it, and says so.
                    listening.set()
                    with contextlib.suppress(NotLive, StoreError):
                        await self._context.jobs.note(job.job_id, f"port {number}: {error.message}")
                elif error.meaning in (Meaning.GONE, Meaning.REFUSED):
                    log.warning("port %d of job %s: %s", number, job.job_id, error.message)
                    listening.set()
                    return
            except TimeoutError:
                pass  # silent: listened anew
            await asyncio.sleep(backoff.next())

    async def _from_job(self, job: Job, gate: Gate, port: int, connection_id: str) -> None:
        job_id = job.job_id
        if taken := self._taken.get((job_id, port)):
            await taken[0](gate, connection_id)
            return
        try:
            stream = await tunnels.accept(gate, connection_id)
        except (GateError, OSError, TimeoutError) as error:
            log.debug("a connection from job %s is gone: %s", job_id, error)
            return
        host = dialled(job.spec.submission_address)
        try:
            if not allowed(self._context.ports.out_to, host, port):
                raise PermissionError(f"{host}:{port} is not in ports.out_to")
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            # Taken and closed: the job learns at once that nobody answers.
            log.info("job %s dialled port %d, where nothing answers: %s", job_id, port, error)
            stream.close()
            return
        try:
            await splice(reader, writer, stream)
        except (GateError, OSError, TimeoutError) as error:
            log.debug("a connection from job %s ended: %s", job_id, error)
        finally:
            writer.close()

    @contextlib.contextmanager
    def taking_over(self, job: Job, port: int, take_over: TakeOver) -> Iterator[asyncio.Event]:
        """Have connections of an OUT port told to `take_over` instead of dialled here.

        Yields:
            What is set when somebody else takes the port over.

        Raises:
            NoSuchPort: The job asked for no such port.
        """
        if port not in out_ports(job):
            has = ", ".join(map(str, out_ports(job))) or "none"
            raise NoSuchPort(f"job {job.job_id} has no OUT port {port} (it has: {has})")
        key = (job.job_id, port)
        if before := self._taken.get(key):
            before[1].set()
        taken = self._taken[key] = (take_over, asyncio.Event())
        try:
            yield taken[1]
        finally:
            if self._taken.get(key) is taken:
                del self._taken[key]

    # ---- the end ----

    def close(self, job_id: str) -> None:
        """The job does not run any more."""
        for server in self._servers.pop(job_id, ()):
            server.close()
        for key in [key for key in self._listeners if key[0] == job_id]:
            self._listeners.pop(key).cancel()
        for task in self._connections.pop(job_id, ()):
            task.cancel()

    def close_all(self) -> None:
        """The core ends; jobs run on."""
        known = {*self._servers, *(key[0] for key in self._listeners), *self._connections}
        for job_id in known:
            self.close(job_id)

    def local_address(self, job: Job, number: int) -> str:
        """Where this core listens for a port of the job; empty when it does not."""
        local = job.local_ports.get(str(number))
        if local is None or job.job_id not in self._servers:
            return ""
        return str(Endpoint(dialled(job.spec.submission_address), local))

    def _is_full(self, job_id: str) -> bool:
        """Whether the job has as many connections as it may have at a time."""
        if len(self._connections.get(job_id, ())) < _MOST_CONNECTIONS:
            return False
        log.debug("job %s has %d connections open: no more now", job_id, _MOST_CONNECTIONS)
        return True

    def _own(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        tasks = self._connections.setdefault(job_id, set())
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def _cannot(gate: Gate, capability: str) -> bool:
    """Whether the gate has said so: after a start of the core it has not said anything yet."""
    return gate.info is not None and not gate.can(capability)


def in_ports(job: Job, node: str = "") -> list[int]:
    """The numbers of the job's IN ports on a node (empty: the first), where they are known."""
    return _numbers(job, Direction.IN, node)


def ports_at(job: Job, node: str = "") -> Mapping[str, int]:
    """What a node (empty: the first) has given to the job, by name; each gives other numbers."""
    for allocation in job.allocations:
        if node in ("", allocation.node):
            return allocation.ports
    return {}


def out_ports(job: Job) -> list[int]:
    """The numbers of the job's OUT ports, where they are known."""
    return _numbers(job, Direction.OUT)


def _dialling_nodes(job: Job) -> list[str]:
    """The nodes on which the script runs, as far as they are known; empty is that of rank 0."""
    others = job.allocations[1:] if job.spec.launch is Launch.EVERY else ()
    return ["", *(allocation.node for allocation in others)]


def _numbers(job: Job, direction: Direction, node: str = "") -> list[int]:
    given = ports_at(job, node)
    found = []
    for port in job.spec.ports:
        if port.direction is direction:
            number = port.number or given.get(port.name, 0)
            if number:
                found.append(number)
    return found


async def splice(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: tunnels.TunnelStream
) -> None:
    """Carry bytes both ways until both halves have ended, or one breaks."""

    async def up() -> None:
        while data := await reader.read(tunnels.CHUNK_BYTES):
            await stream.write(data)
        await stream.write_eof()

    async def down() -> None:
        while data := await stream.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(up())
            group.create_task(down())
    except* (GateError, OSError) as errors:
        raise ConnectionResetError(str(errors.exceptions[0])) from errors
    finally:
        stream.close()
