"""One site as the core sees it: the connection to its gate, its health, what it has, what it says.

`Gate.run` keeps all of it current: it connects, asks who is there, watches jobs and partitions, and
begins again when anything of that breaks. What the gate says of an attempt or a partition lands in
the `Slot` of whoever cares for that object.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import grpc
import grpc.aio

from rpc_kit import failpoints
from rpc_kit.channels import RenewableChannel
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from rpc_kit.tls import KeyPair, channel_credentials, channel_options, gate_name
from skyport.gate.v1 import (
    file_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    inventory_pb2,
    inventory_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    tunnel_pb2_grpc,
    types_pb2,
)
from swm_core.domain.words import words
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.inventory import Inventory, pages
from swm_core.gateways.problems import SITE_BROKEN, SITE_CHANGED, GateError
from swm_core.gateways.process import GateProcess
from swm_core.gateways.slots import Slot
from swm_core.gateways.watching import heard, readable

if TYPE_CHECKING:
    from skyport.gate.v1.file_pb2_grpc import FileServiceAsyncStub
    from skyport.gate.v1.identity_pb2_grpc import IdentityServiceAsyncStub
    from skyport.gate.v1.inventory_pb2_grpc import InventoryServiceAsyncStub
    from skyport.gate.v1.job_pb2_grpc import JobServiceAsyncStub
    from skyport.gate.v1.partition_pb2_grpc import PartitionServiceAsyncStub
    from skyport.gate.v1.tunnel_pb2_grpc import TunnelServiceAsyncStub

log = logging.getLogger(__name__)

API_VERSION = "v1"
_MOST_STORAGE = 1_000
_MOST_PATTERN = 2_000
_CALL_S = 30.0
_PROBE_EVERY_S = 5.0
_PROBE_S = 10.0
_INVENTORY_EVERY_S = 300.0
_HUNG_S = 60.0
"""A gate that the core started and that answers nothing for so long is killed, and started anew."""
_STEADY_S = 10.0
"""A connection that held so long was a good one: the next wait is short again."""

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class Method(Protocol[Request, Response]):
    """A unary method of a stub."""

    def __call__(
        self, request: Request, /, *, timeout: float | None = None
    ) -> Awaitable[Response]: ...


class SiteState(enum.StrEnum):
    """Whether a site can be used."""

    STARTING = "STARTING"
    READY = "READY"
    UNREACHABLE = "UNREACHABLE"
    BROKEN = "BROKEN"


class AttemptKey(NamedTuple):
    """Which attempt of which job."""

    job_id: str
    attempt: int


@dataclasses.dataclass(frozen=True, slots=True)
class GateInfo:
    """What a gate said of itself."""

    name: str
    version: str
    capabilities: frozenset[str]
    """Names without their prefix, as "CONTAINERS"."""
    summary: str
    scope_uid: str
    option_prefix: str
    """`slurm` where the site's options are written `slurm.NAME`; empty: it takes none."""
    longest_expiry_s: float
    max_partitions: int
    """How many partitions may exist at once; zero: no limit is known."""
    storage: tuple[str, ...] = ()
    """Names of what jobs may ask for."""
    options: frozenset[str] | None = None
    """Those that it takes, without their prefix; None: not told."""
    image_pattern: re.Pattern[str] | None = None
    """Of the whole names of images that nodes boot; None: not told."""
    image_form: str = ""
    """The same for people."""


class Gate:
    """One site.

    Args:
        name: The site's name in the configuration.
        endpoint: Where its gate listens.
        keys: The core's certificate, for a TCP endpoint.
        installation: This core's.
        process: The gate's process, when the core starts it itself.
        core_version: Told to the gate, for its log.
        certificate: The name in its certificate, where that is not the site's.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        *,
        keys: KeyPair | None,
        installation: str,
        process: GateProcess | None,
        core_version: str,
        certificate: str = "",
    ) -> None:
        self.name = name
        self.installation = installation
        self.process = process
        self.state = SiteState.STARTING
        self.message = "its gate has not answered yet"
        self.info: GateInfo | None = None
        self.incarnation = ""
        self.inventory = Inventory()
        self.last_contact: float | None = None
        self.drained = False
        self.scope_uid = ""
        """The account scope that its partitions were made in; empty: none was told yet."""
        self.keep_scope: Callable[[str], Awaitable[None]] = _keep_nothing
        """Stores the account scope, once it is told."""
        self.site_changed = ""
        """What the gate last said of a root that is not the one that it was; for people."""
        self.given_up: set[str] = set()
        """Roots that an administrator has given up: an answer about one of them comes late."""
        self._heard = time.monotonic()
        """When the gate last answered."""
        self.on_change: Callable[[], None] = lambda: None
        self._core_version = core_version
        self._attempts: dict[AttemptKey, Slot[job_pb2.JobStatus]] = {}
        self._owners: dict[AttemptKey, str] = {}
        self._partitions: dict[str, Slot[partition_pb2.Partition]] = {}
        self._ready = asyncio.Event()
        self._endpoint = endpoint
        self._certificate = certificate or name
        self._channel = RenewableChannel(self._open(endpoint, keys))
        channel: Any = failpoints.Calls(self._channel, name) if failpoints.ON else self._channel
        # The generated stubs know no asyncio; their types for it exist for the checker only.
        self.identity: IdentityServiceAsyncStub = identity_pb2_grpc.IdentityServiceStub(channel)
        self.site: InventoryServiceAsyncStub = inventory_pb2_grpc.InventoryServiceStub(channel)
        self.partitions: PartitionServiceAsyncStub = partition_pb2_grpc.PartitionServiceStub(
            channel
        )
        self.jobs: JobServiceAsyncStub = job_pb2_grpc.JobServiceStub(channel)
        self.files: FileServiceAsyncStub = file_pb2_grpc.FileServiceStub(channel)
        self.tunnels: TunnelServiceAsyncStub = tunnel_pb2_grpc.TunnelServiceStub(channel)

    def _open(self, endpoint: Endpoint, keys: KeyPair | None) -> grpc.aio.Channel:
        if endpoint.path is not None or keys is None:
            return grpc.aio.insecure_channel(endpoint.target, channel_options(keepalive_s=None))
        name = gate_name(self.installation, self._certificate)
        return grpc.aio.secure_channel(
            endpoint.target, channel_credentials(keys), channel_options(name)
        )

    async def renew(self, keys: KeyPair) -> None:
        """Show a gate on TCP this certificate from the next call on."""
        if self._endpoint.path is None:
            replaced = self._channel.replace(self._open(self._endpoint, keys))
            if replaced is not None:
                await replaced.close()

    @property
    def ready(self) -> bool:
        """Whether the gate answers and its watches are current."""
        return self.state is SiteState.READY

    def can(self, capability: str) -> bool:
        """Whether the gate has `capability`; False while it has never answered."""
        return self.info is not None and capability in self.info.capabilities

    def chooses_nodes(self, partition_id: str) -> bool:
        """Whether the site's own queue chooses the nodes of jobs in this partition."""
        partition = self.inventory.partitions.get(partition_id)
        return partition is not None and partition.kind == types_pb2.PARTITION_KIND_QUEUE

    async def wait_ready(self) -> None:
        """Wait until the gate answers and its watches are current."""
        await self._ready.wait()

    @contextlib.contextmanager
    def attempt(self, key: AttemptKey, owner: str) -> Iterator[Slot[job_pb2.JobStatus]]:
        """What the gate says of an attempt of `owner`'s, while the context lasts."""
        slot = self._attempts.setdefault(key, Slot())
        self._owners[key] = owner
        try:
            yield slot
        finally:
            if self._attempts.get(key) is slot:
                del self._attempts[key], self._owners[key]

    @contextlib.contextmanager
    def partition(self, partition_id: str) -> Iterator[Slot[partition_pb2.Partition]]:
        """What the gate says of a dynamic partition, while the context lasts."""
        slot = self._partitions.setdefault(partition_id, Slot())
        try:
            yield slot
        finally:
            if self._partitions.get(partition_id) is slot:
                del self._partitions[partition_id]

    async def call(
        self, method: Method[Request, Response], request: Request, *, timeout_s: float = _CALL_S
    ) -> Response:
        """One unary call.

        Raises:
            GateError: It did not succeed; its `meaning` says what may be concluded.
        """
        try:
            answer = readable(await method(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise self.problem(error) from error
        self.last_contact, self._heard = time.time(), time.monotonic()
        return answer

    def problem(self, error: grpc.RpcError) -> GateError:
        """A failed call of one of the stubs as a `GateError`."""
        found = GateError(self.name, Problem.from_error(error))
        if found.reason in SITE_BROKEN:
            self._become(SiteState.BROKEN, found.message)
        elif found.reason == SITE_CHANGED and found.expected_root not in self.given_up:
            self.site_changed = found.message
        return found

    # ---- what a list tells --------------------------------------------------------------------

    def miss_attempt(self, key: AttemptKey) -> None:
        """A complete list lacks the attempt. Who looks after it asks for it: this is no proof."""
        if slot := self._attempts.get(key):
            slot.miss()

    def miss_partition(self, partition_id: str) -> None:
        """A complete list lacks the partition; as `miss_attempt`."""
        if slot := self._partitions.get(partition_id):
            slot.miss()

    def partition_gone(self, partition_id: str) -> None:
        """A partition is gone, as its gate said. Who has something there asks for it."""
        self.inventory.remove_partition(partition_id)
        self.miss_partition(partition_id)
        # What ran there has ended, and no list can tell how.
        for slot in self._attempts.values():
            if slot.value is not None and slot.value.ref.partition_id == partition_id:
                slot.miss()

    # ---- keeping it current -------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection, the process and all knowledge current until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if self.process is not None:
                    group.create_task(self.process.run())
                group.create_task(self._stay_connected())
        finally:
            await asyncio.gather(*self._channel.close())

    async def _stay_connected(self) -> None:
        backoff = Backoff(first_s=0.05, most_s=5.0)
        while True:
            began = time.monotonic()
            try:
                await self._connect()
                await self._stay_current()
            except* (GateError, grpc.aio.AioRpcError, TimeoutError, ValueError) as errors:
                self._lost(_first(errors))
            except* Exception as errors:
                # Whatever a gate of somebody else's says, the others go on.
                log.exception("site %s: its gate said what cannot be understood", self.name)
                self._lost(_first(errors))
            self._end_if_hung()
            if time.monotonic() - began > _STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    def _end_if_hung(self) -> None:
        if self.process is None or self.process.pid is None:
            return
        silent_s = time.monotonic() - max(self._heard, self.process.start_time)
        if silent_s > _HUNG_S:
            self.process.kill(f"it has not answered for {silent_s:.0f} s")

    async def _connect(self) -> None:
        answer = await self.call(
            self.identity.GetGateInfo,
            identity_pb2.GetGateInfoRequest(
                core_version=self._core_version, api_versions=[API_VERSION]
            ),
            timeout_s=5.0,
        )
        if API_VERSION not in answer.api_versions:
            served = ", ".join(answer.api_versions)
            raise ValueError(f"the gate serves version {served} of the Gate API, not {API_VERSION}")
        known = types_pb2.Capability.values()
        self.info = GateInfo(
            name=answer.name,
            version=answer.vendor_version,
            capabilities=frozenset(
                types_pb2.Capability.Name(number).removeprefix("CAPABILITY_")
                for number in answer.capabilities
                if number in known
            ),
            summary=answer.site.summary,
            scope_uid=answer.scope_uid,
            option_prefix=answer.option_prefix,
            storage=tuple(answer.storage[:_MOST_STORAGE]),
            options=frozenset(answer.options.names) if answer.HasField("options") else None,
            image_pattern=_pattern(self.name, answer.node_images.pattern),
            image_form=words(answer.node_images.form),
            longest_expiry_s=answer.limits.longest_expiry.ToNanoseconds() / 1e9,
            max_partitions=answer.limits.partitions,
        )
        await self._check_scope(answer.scope_uid)
        while not await self._probe():  # noqa: ASYNC110  the event is in another process
            await asyncio.sleep(0.2)
        await self._read_inventory()

    async def _check_scope(self, told: str) -> None:
        """Keep the first account scope; with another one every answer would be about other things.

        Raises:
            _Broken: It is another one.
        """
        if not self.scope_uid and told:
            await self.keep_scope(told)
            self.scope_uid = told
        elif told != self.scope_uid:
            raise _Broken(
                f"its gate works in another account scope than before ({told or 'none'}, not "
                f"{self.scope_uid}); give it the account of before, or have the core take this one "
                f"by `swm site accept-change {self.name}`"
            )

    async def _probe(self) -> bool:
        answer = await self.call(
            self.identity.Probe, identity_pb2.ProbeRequest(), timeout_s=_PROBE_S
        )
        if not answer.ready:
            self._become(SiteState.STARTING, answer.message or "its gate is starting")
        elif self.incarnation and answer.incarnation != self.incarnation and self.ready:
            raise ValueError("the gate was restarted")
        return answer.ready

    async def _read_inventory(self) -> None:
        flavors: list[inventory_pb2.Flavor] = []
        async for flavor_page in pages(
            lambda request: self.call(self.site.ListFlavors, request),
            inventory_pb2.ListFlavorsRequest(),
        ):
            flavors += flavor_page.flavors
        images: list[inventory_pb2.Image] = []
        async for image_page in pages(
            lambda request: self.call(self.site.ListImages, request),
            inventory_pb2.ListImagesRequest(),
        ):
            images += image_page.images
        self.inventory.flavors, self.inventory.images = flavors, images
        self.inventory.version += 1

    async def _stay_current(self) -> None:
        synced = [asyncio.Event(), asyncio.Event()]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_jobs(synced[0]))
            group.create_task(self._watch_partitions(synced[1]))
            async with asyncio.timeout(_CALL_S):
                for event in synced:
                    await event.wait()
            self.inventory.known = True
            self._become(SiteState.READY, "")
            read_at = time.monotonic()
            while True:
                await asyncio.sleep(_PROBE_EVERY_S)
                await self._probe()
                if time.monotonic() - read_at > _INVENTORY_EVERY_S:
                    await self._read_inventory()
                    read_at = time.monotonic()
                    self.on_change()

    async def _watch_jobs(self, synced: asyncio.Event) -> None:
        call = self.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=self.installation))
        seen: set[AttemptKey] = set()
        async for answer in heard(call):
            for event in answer.events:
                match event.WhichOneof("event"):
                    case "status":
                        ref = event.status.ref
                        key = AttemptKey(ref.job_id, ref.attempt)
                        if ref.owner != self._owners.get(key, ref.owner):
                            # Made up in an account of somebody else's, who has seen the job's id.
                            log.warning("%s: job %s is not of %s", self.name, key[0], ref.owner)
                            continue
                        if not synced.is_set():
                            seen.add(key)
                        if slot := self._attempts.get(key):
                            slot.put(event.status)
                    case "snapshot_end":
                        self._be(event.snapshot_end.incarnation)
                        if not event.snapshot_end.unreachable:
                            for key, slot in list(self._attempts.items()):
                                if key not in seen:
                                    slot.miss()
                        seen.clear()
                        synced.set()
                    case "heartbeat":
                        self.last_contact = time.time()
                    case _:
                        pass
        raise ValueError("the gate ended the watch of jobs")

    async def _watch_partitions(self, synced: asyncio.Event) -> None:
        request = partition_pb2.WatchPartitionsRequest(
            installation=self.installation, scope_uid=self.scope_uid
        )
        seen: set[str] = set()
        async for answer in heard(self.partitions.WatchPartitions(request)):
            for event in answer.events:
                match event.WhichOneof("event"):
                    case "partition":
                        partition = event.partition
                        if not synced.is_set():
                            seen.add(partition.partition_id)
                        self.inventory.put_partition(partition)
                        if slot := self._partitions.get(partition.partition_id):
                            slot.put(partition)
                    case "deleted_partition_id":
                        self.partition_gone(event.deleted_partition_id)
                    case "node":
                        self._put_node(event.node)
                    case "snapshot_end":
                        self._partitions_snapshot(seen, event.snapshot_end)
                        synced.set()
                    case "heartbeat":
                        self.last_contact = time.time()
                    case _:
                        pass
            if synced.is_set():
                self.on_change()
        raise ValueError("the gate ended the watch of partitions")

    def _put_node(self, node: inventory_pb2.Node) -> None:
        self.inventory.put_node(node)
        if node.state == inventory_pb2.NODE_STATE_LOST:
            # What ran there has ended, and no list can tell how: each attempt is asked for.
            for slot in self._attempts.values():
                if slot.value is not None and node.name in slot.value.ref.nodes:
                    slot.miss()

    def _partitions_snapshot(self, seen: set[str], end: types_pb2.SnapshotEnd) -> None:
        self._be(end.incarnation)
        if end.unreachable:
            return
        for partition_id in set(self.inventory.partitions) - seen:
            self.inventory.remove_partition(partition_id)
        for partition_id, slot in list(self._partitions.items()):
            if partition_id not in seen:
                slot.miss()

    def _be(self, incarnation: str) -> None:
        self.last_contact = time.time()
        if incarnation != self.incarnation:
            self.incarnation, self.site_changed = incarnation, ""
            # Whoever waits for a gate that has forgotten all repeats what it asked.
            for attempt in self._attempts.values():
                attempt.touch()
            for partition in self._partitions.values():
                partition.touch()

    def _become(self, state: SiteState, message: str) -> None:
        message = words(message)
        if (state, message) == (self.state, self.message):
            return
        if state is not self.state:
            log.info("site %s is %s%s", self.name, state, f": {message}" if message else "")
        self.state, self.message = state, message
        if state is SiteState.READY:
            self._ready.set()
        else:
            self._ready.clear()
        self.on_change()

    def _lost(self, error: BaseException) -> None:
        if isinstance(error, grpc.RpcError):
            error = self.problem(error)
        reason = error.reason if isinstance(error, GateError) else ""
        broken = reason in SITE_BROKEN or isinstance(error, _Broken)
        process = self.process
        # Whether it is the process that there is now, or was last, that has never answered.
        is_new = process is not None and (process.pid is None or self._heard < process.start_time)
        if process is not None and process.last_exit and is_new:
            times = f" ({process.crashes} times)" if process.crashes > 1 else ""
            text = f"its gate keeps ending{times}: {process.last_exit}"
        elif isinstance(error, GateError) and not error.reason:
            # The transport's own words name sockets and error numbers, and nothing to do.
            text = "its gate does not answer"
            log.debug("site %s: %s", self.name, error.message)
        else:
            text = error.message if isinstance(error, GateError) else str(error) or "it hangs"
        if not broken and process is not None and is_new and not process.last_exit:
            self._become(SiteState.STARTING, "its gate is starting")
            return
        self._become(SiteState.BROKEN if broken else SiteState.UNREACHABLE, text)


class _Broken(ValueError):
    """An administrator has to do something; the message says what."""


async def _keep_nothing(scope_uid: str) -> None:
    """Until somebody stores it."""


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _pattern(site: str, text: str) -> re.Pattern[str] | None:
    """A pattern that a gate told; None if it told none, or none that makes sense."""
    try:
        return re.compile(text, re.ASCII) if 0 < len(text) <= _MOST_PATTERN else None
    except (re.error, RecursionError, OverflowError) as error:
        log.warning("site %s: its gate's pattern for images can't be used: %s", site, error)
        return None
