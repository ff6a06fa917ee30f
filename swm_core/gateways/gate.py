"""One site as the core sees it: the connection to its gate, its health, what it has, what it says.

`Gate.run` keeps all of it current: it connects, asks who is there, watches jobs and partitions, and
begins again when anything of that breaks. What the gate says of an attempt or a partition lands in
the `Slot` of whoever cares for that object.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from rpc_kit.tls import KeyPair, gate_name
from skyport.gate.v1 import identity_pb2, inventory_pb2, job_pb2, partition_pb2, types_pb2
from swm_core.gateways.backoff import Backoff
from swm_core.gateways.barred import BarredNodes
from swm_core.gateways.connection import Connection
from swm_core.gateways.health import Health, SiteState, SiteUnusable
from swm_core.gateways.info import API_VERSION, GateInfo
from swm_core.gateways.inventory import Inventory, pages
from swm_core.gateways.problems import (
    HOST_KEY_MISMATCH,
    SITE_BROKEN,
    SITE_CHANGED,
    GateError,
)
from swm_core.gateways.process import GateProcess
from swm_core.gateways.slots import Slot
from swm_core.gateways.subscriptions import AttemptKey, Subscriptions
from swm_core.gateways.watching import heard, readable

log = logging.getLogger(__name__)

_CALL_S = 30.0
_PROBE_EVERY_S = 5.0
_PROBE_S = 10.0
_INVENTORY_EVERY_S = 300.0
_HUNG_S = 60.0
"""A gate that the core started and that answers nothing for so long is killed, and started anew."""
_BROKEN_S = 60.0
"""So long a site is left alone after a call was refused for good, though its gate is well: whether
what was wrong has been mended is known by another call."""
_STEADY_S = 10.0
"""A connection that held so long was a good one: the next wait is short again."""

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class Method(Protocol[Request, Response]):
    """A unary method of a stub."""

    def __call__(
        self, request: Request, /, *, timeout: float | None = None
    ) -> Awaitable[Response]: ...


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
        self.barred = BarredNodes()
        """Where nothing new is placed, since it is not what it was."""
        self.given_up: set[str] = set()
        """Roots that an administrator has given up: an answer about one of them comes late."""
        self._heard = time.monotonic()
        """When the gate last answered."""
        self._broken_at = 0.0
        """When a call last told that the site is broken; by the monotonic clock."""
        self.on_change: Callable[[], None] = lambda: None
        self._core_version = core_version
        self._health = Health(name, endpoint, lambda: self.on_change())
        self._subscriptions = Subscriptions(name)
        server_name = gate_name(installation, certificate or name)
        self._connection = Connection(name, endpoint, keys, server_name)
        self.identity = self._connection.identity
        self.site = self._connection.site
        self.partitions = self._connection.partitions
        self.jobs = self._connection.jobs
        self.files = self._connection.files
        self.tunnels = self._connection.tunnels

    async def renew(self, keys: KeyPair) -> None:
        """Show a gate on TCP this certificate from the next call on."""
        await self._connection.renew(keys)

    @property
    def state(self) -> SiteState:
        """Whether the site can be used."""
        return self._health.state

    @property
    def message(self) -> str:
        """Why it can't be used, or what of it is degraded; for people."""
        return self._health.message

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
        await self._health.wait_ready()

    def attempt(
        self, key: AttemptKey, owner: str
    ) -> contextlib.AbstractContextManager[Slot[job_pb2.JobStatus]]:
        """What the gate says of an attempt of `owner`'s, while the context lasts."""
        return self._subscriptions.attempt(key, owner)

    def partition(
        self, partition_id: str
    ) -> contextlib.AbstractContextManager[Slot[partition_pb2.Partition]]:
        """What the gate says of a dynamic partition, while the context lasts."""
        return self._subscriptions.partition(partition_id)

    async def call(
        self, method: Method[Request, Response], request: Request, *, timeout_s: float = _CALL_S
    ) -> Response:
        """One unary call.

        Raises:
            GateError: It did not succeed; its `meaning` says what may be concluded.
        """
        ref = getattr(request, "ref", None)
        try:
            answer = readable(await method(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise self.problem(error, ref) from error
        self.last_contact, self._heard = time.time(), time.monotonic()
        self.reached(ref)
        return answer

    def problem(self, error: grpc.RpcError, ref: types_pb2.JobRef | None = None) -> GateError:
        """A failed call of one of the stubs as a `GateError`.

        Args:
            error: What the call raised.
            ref: The attempt that it was about, if it was about one.
        """
        found = GateError(self.name, Problem.from_error(error))
        if found.reason in SITE_BROKEN:
            self._broken_at = time.monotonic()
            self._health.become(SiteState.BROKEN, found.message)
        elif found.reason == HOST_KEY_MISMATCH and ref is not None:
            self.barred.bar(ref, found.node, found.message, everyone=True)
        elif found.reason == SITE_CHANGED and found.expected_root not in self.given_up:
            self.site_changed = found.message
            if ref is not None:
                self.barred.bar(ref, found.node, found.message, everyone=False)
        elif found.reason == "JOB_NOT_FOUND":
            self.reached(ref)  # which is said only where the root is the right one
        return found

    def reached(self, ref: types_pb2.JobRef | None) -> None:
        """A call about an attempt went through, at the place that is meant."""
        if ref is not None and self.barred.lift(ref):
            self.on_change()

    # ---- what a list tells --------------------------------------------------------------------

    def miss_attempt(self, key: AttemptKey) -> None:
        """A complete list lacks the attempt. Who looks after it asks for it: this is no proof."""
        self._subscriptions.miss_attempt(key)

    def miss_partition(self, partition_id: str) -> None:
        """A complete list lacks the partition; as `miss_attempt`."""
        self._subscriptions.miss_partition(partition_id)

    def partition_gone(self, partition_id: str) -> None:
        """A partition is gone, as its gate said. Who has something there asks for it."""
        self.inventory.remove_partition(partition_id)
        self._subscriptions.partition_gone(partition_id)

    # ---- keeping it current -------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection, the process and all knowledge current until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if self.process is not None:
                    group.create_task(self.process.run())
                group.create_task(self._stay_connected())
        finally:
            await self._connection.close()

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
        self.info = GateInfo.of(self.name, answer)
        await self._check_scope(answer.scope_uid)
        while not await self._probe():  # noqa: ASYNC110  the event is in another process
            await asyncio.sleep(0.2)
        await self._read_inventory()

    async def _check_scope(self, told: str) -> None:
        """Keep the first account scope; with another one every answer would be about other things.

        Raises:
            SiteUnusable: It is another one.
        """
        if not self.scope_uid and told:
            await self.keep_scope(told)
            self.scope_uid = told
        elif told != self.scope_uid:
            raise SiteUnusable(
                f"its gate works in another account scope than before ({told or 'none'}, not "
                f"{self.scope_uid}); give it the account of before, or have the core take this one "
                f"by `swm site accept-change {self.name}`"
            )

    async def _probe(self) -> bool:
        answer = await self.call(
            self.identity.Probe, identity_pb2.ProbeRequest(), timeout_s=_PROBE_S
        )
        if not answer.ready:
            self._health.become(SiteState.STARTING, answer.message or "its gate is starting")
        elif self.incarnation and answer.incarnation != self.incarnation and self.ready:
            raise ValueError("the gate was restarted")
        elif self.ready:
            self._health.become(SiteState.READY, answer.message)
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
            self._health.become(SiteState.READY)
            read_at = time.monotonic()
            while True:
                await asyncio.sleep(_PROBE_EVERY_S)
                if await self._probe() and not self.ready and not self._is_left_alone():
                    self._health.become(SiteState.READY)
                if time.monotonic() - read_at > _INVENTORY_EVERY_S:
                    await self._read_inventory()
                    read_at = time.monotonic()
                    self.on_change()

    def _is_left_alone(self) -> bool:
        """Whether the site is broken, and has not been so for long enough to be tried again."""
        broken = self.state is SiteState.BROKEN
        return broken and time.monotonic() - self._broken_at < _BROKEN_S

    async def _watch_jobs(self, synced: asyncio.Event) -> None:
        call = self.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=self.installation))
        seen: set[AttemptKey] = set()
        async for answer in heard(call):
            for event in answer.events:
                match event.WhichOneof("event"):
                    case "status":
                        key = self._subscriptions.put_attempt(event.status)
                        if key is not None and not synced.is_set():
                            seen.add(key)
                    case "snapshot_end":
                        self._be(event.snapshot_end.incarnation)
                        if not event.snapshot_end.unreachable:
                            self._subscriptions.miss_attempts_except(seen)
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
                        self._subscriptions.put_partition(partition)
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
        before = self.inventory.nodes.get(node.partition_id, {}).get(node.name)
        if before is not None and before.state != node.state:
            self.barred.clear_node(node.partition_id, node.name)
        self.inventory.put_node(node)
        if node.state == inventory_pb2.NODE_STATE_LOST:
            self._subscriptions.node_lost(node)

    def _partitions_snapshot(self, seen: set[str], end: types_pb2.SnapshotEnd) -> None:
        self._be(end.incarnation)
        if end.unreachable:
            return
        for partition_id in set(self.inventory.partitions) - seen:
            self.inventory.remove_partition(partition_id)
        self._subscriptions.miss_partitions_except(seen)

    def _be(self, incarnation: str) -> None:
        self.last_contact = time.time()
        if incarnation != self.incarnation:
            self.incarnation, self.site_changed = incarnation, ""
            self.barred.clear()
            # Whoever waits for a gate that has forgotten all repeats what it asked.
            self._subscriptions.touch_all()

    def _lost(self, error: BaseException) -> None:
        if isinstance(error, grpc.RpcError):
            error = self.problem(error)
        self._health.lost(error, self.process, self._heard)


async def _keep_nothing(scope_uid: str) -> None:
    """Until somebody stores it."""


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
