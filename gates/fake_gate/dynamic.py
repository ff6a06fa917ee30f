"""The life of dynamic partitions: made, booted, renewed, expired, deleted."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from gate_kit import Operations, WatchHub, errors
from gate_kit.job_status import NODE_FAIL, failure
from gates.fake_gate.config import Config, ExpiryChoice
from gates.fake_gate.ending import Ending
from gates.fake_gate.faults import BOOT_KINDS, FaultKind, FaultScript, Subject
from gates.fake_gate.partitions import Partitions, expire_ns, lost
from gates.fake_gate.site import Site, discard, write_whole
from skyport.gate.v1 import partition_pb2, types_pb2

_RENEWABLE = (partition_pb2.PARTITION_STATE_CREATING, partition_pb2.PARTITION_STATE_READY)


class DynamicPartitions:
    """Makes and unmakes partitions.

    Args:
        site: Where they are.
        config: What they are made of.
        partitions: Reads them.
        ending: Ends jobs when their nodes go.
        operations: Owns the mutations.
        hub: Told of every change.
        faults: May befall a boot.
    """

    def __init__(
        self,
        site: Site,
        config: Config,
        partitions: Partitions,
        ending: Ending,
        operations: Operations,
        hub: WatchHub[partition_pb2.PartitionEvent],
        faults: FaultScript,
    ) -> None:
        self._site = site
        self._config = config
        self._partitions = partitions
        self._ending = ending
        self._operations = operations
        self._hub = hub
        self._faults = faults
        self._boots: dict[str, asyncio.Task[None]] = {}
        self._deletions: set[str] = set()
        self._expiries: dict[str, asyncio.TimerHandle] = {}

    def open(self) -> None:
        """Go on with deletions and expiries, which a site does by itself.

        A boot that was under way waits for the core to ask again: the site of this gate boots
        nothing without a gate.
        """
        for folder in self._partitions.folders():
            if (folder / "deleting").exists():
                self._go_on_deleting(folder.name)
            else:
                self._arm(folder.name)

    def close(self) -> None:
        """Let go of the timers."""
        for handle in self._expiries.values():
            handle.cancel()

    async def create(
        self, request: partition_pb2.CreatePartitionRequest
    ) -> partition_pb2.Partition:
        """Make sure that the partition exists, and boots.

        Raises:
            Refusal: PARTITION_DELETED, PARTITION_DIFFERS, FLAVOR_NOT_FOUND, CAPACITY, QUOTA.
        """
        key = ("create", request.partition_id, request.spec_fingerprint)
        return await self._operations.run(
            key, lambda: self._create(request), on=("partition", request.partition_id)
        )

    async def _create(
        self, request: partition_pb2.CreatePartitionRequest
    ) -> partition_pb2.Partition:
        name = request.partition_id
        folder = self._site.partitions / name
        before = self._partitions.request(folder)
        if self._site.is_partition_buried(name):
            raise errors.partition_deleted(name)
        if name in self._config.partitions:
            raise errors.partition_differs(name)
        expires = request.expire_time.ToNanoseconds()
        if before is not None:
            if before.spec_fingerprint != request.spec_fingerprint:
                raise errors.partition_differs(name)
            if expire_ns(folder) < expires:
                write_whole(folder / "expire", str(expires).encode())
            if (folder / "stopped").exists() and expire_ns(folder) > time.time_ns():
                (folder / "ready").unlink(missing_ok=True)
                (folder / "stopped").unlink()
        else:
            self._check_room(request)
            draft = folder.with_name(f".draft.{name}")
            draft.mkdir(exist_ok=True)
            write_whole(draft / "request", request.SerializeToString())
            if expires and self._expires:
                write_whole(draft / "expire", str(expires).encode())
            draft.rename(folder)
        await self._faults.inside(Subject("CreatePartition", name))
        partition = self._partitions.get(name)
        if partition.state == partition_pb2.PARTITION_STATE_CREATING and name not in self._boots:
            task = self._operations.spawn(self._boot(folder), f"boot {name}")
            self._boots[name] = task
            task.add_done_callback(lambda done: self._boots.pop(name, None))
        self._arm(name)
        self._publish(name)
        return partition

    @property
    def _expires(self) -> bool:
        return types_pb2.CAPABILITY_EXPIRY in self._config.capabilities

    def _check_room(self, request: partition_pb2.CreatePartitionRequest) -> None:
        spec = request.spec
        flavor = self._partitions.flavor(spec)
        dynamic = self._config.dynamic
        if flavor is None or dynamic is None:
            raise errors.flavor_not_found(spec.flavor, spec.location)
        used = used_of_flavor = 0
        for folder in self._partitions.folders():
            other = self._partitions.request(folder)
            if other is None or (folder / "failure").exists():
                continue
            used += other.spec.node_count
            if (other.spec.flavor, other.spec.location) == (spec.flavor, spec.location):
                used_of_flavor += other.spec.node_count
        if used + spec.node_count > dynamic.quota_nodes:
            raise errors.quota(
                f"{spec.node_count} nodes more would make {used + spec.node_count}; "
                f"{dynamic.quota_nodes} is the quota"
            )
        if used_of_flavor + spec.node_count > flavor.capacity:
            raise errors.capacity(
                f"{flavor.capacity - used_of_flavor} nodes of {spec.flavor} are left, "
                f"not {spec.node_count}"
            )

    async def _boot(self, folder: Path) -> None:
        name = folder.name
        seconds = self._config.dynamic.boot_s if self._config.dynamic else 0.0
        for fault in self._faults.strikes(BOOT_KINDS, Subject("boot", name)):
            if fault.kind is FaultKind.BOOT_NEVER:
                await asyncio.Event().wait()
            elif fault.kind is FaultKind.BOOT_SLOW:
                seconds += fault.seconds
            else:
                await asyncio.sleep(fault.seconds)
                failure = types_pb2.Failure(
                    reason=fault.reason,
                    message=fault.message or f"the boot failed with {fault.reason}",
                    retryable=fault.retryable,
                )
                write_whole(folder / "failure", failure.SerializeToString())
                self._publish(name)
                return
        await asyncio.sleep(seconds)
        (folder / "ready").touch()
        self._publish(name)

    async def renew(self, partition_id: str, expires_ns: int) -> partition_pb2.Partition:
        """Move the time at which the partition ends by itself.

        Raises:
            Refusal: PARTITION_NOT_FOUND; PARTITION_NOT_READY once it is stopped, failed or going.
        """

        async def work() -> partition_pb2.Partition:
            state = self._partitions.get(partition_id)
            if state.state not in _RENEWABLE:
                raise errors.partition_not_ready(partition_id, state.text)
            write_whole(self._site.partitions / partition_id / "expire", str(expires_ns).encode())
            self._arm(partition_id)
            self._publish(partition_id)
            return self._partitions.get(partition_id)

        key = ("renew", partition_id, expires_ns)
        return await self._operations.run(key, work, on=("partition", partition_id))

    async def delete(self, partition_id: str, installation: str) -> None:
        """Begin to delete the partition; a create under way is stopped first.

        Raises:
            Refusal: PARTITION_NOT_FOUND, also when it is gone; NOT_YOURS.
        """

        async def work() -> None:
            folder = self._site.partitions / partition_id
            request = self._partitions.request(folder)
            if partition_id in self._config.partitions:
                raise errors.not_yours(partition_id)
            if request is not None and request.origin.installation != installation:
                raise errors.not_yours(partition_id)
            # First of all: a create that comes late must find it.
            self._site.bury_partition(partition_id)
            if request is None:
                raise errors.partition_not_found(partition_id)
            (folder / "deleting").touch()
            self._go_on_deleting(partition_id)
            await self._faults.inside(Subject("DeletePartition", partition_id))

        # A create that is under way must not hold up the delete.
        self._operations.interrupt(errors.partition_deleted(partition_id), "create", partition_id)
        key = ("delete", partition_id, installation)
        await self._operations.run(key, work, on=("partition", partition_id))

    async def lose(self, partition_id: str, node: str, reason: str) -> None:
        """Have a node be gone for good, with all that runs there; told once."""
        async with self._operations.exclusive(("partition", partition_id)):
            folder = self._site.partitions / partition_id
            if node in lost(folder):
                return
            write_whole(folder / f"lost.{node}", reason.encode())
            partition = self._partitions.get(partition_id)
            if len(lost(folder)) == len(partition.nodes):
                write_whole(folder / "failure", failure(reason).SerializeToString())
            self._publish(partition_id)
        await self._ending.end_all(partition_id, reason, node=node)

    def _go_on_deleting(self, partition_id: str) -> None:
        if partition_id not in self._deletions:
            self._deletions.add(partition_id)
            self._operations.spawn(self._delete(partition_id), f"delete {partition_id}")
            self._publish(partition_id)

    async def _delete(self, partition_id: str) -> None:
        folder = self._site.partitions / partition_id
        request = self._partitions.request(folder)
        try:
            if boot := self._boots.get(partition_id):
                boot.cancel()
            if handle := self._expiries.pop(partition_id, None):
                handle.cancel()
            await self._ending.end_all(partition_id, NODE_FAIL)
            await asyncio.sleep(self._config.dynamic.delete_s if self._config.dynamic else 0.0)
            await asyncio.to_thread(self._site.drop_partition, partition_id)
            # Last: as long as it is there, a gate that comes back knows what is left to do.
            discard(folder)
        finally:
            self._deletions.discard(partition_id)
        event = partition_pb2.PartitionEvent(deleted_partition_id=partition_id)
        topic = request.origin.installation if request else ""
        self._hub.publish(partition_id, event, topic=topic)

    def _arm(self, partition_id: str) -> None:
        """Have the partition end when its time passes."""
        if handle := self._expiries.pop(partition_id, None):
            handle.cancel()
        folder = self._site.partitions / partition_id
        expires = expire_ns(folder)
        if not expires or (folder / "stopped").exists() or (folder / "deleting").exists():
            return
        seconds = max(expires - time.time_ns(), 0) / 1e9
        self._expiries[partition_id] = asyncio.get_running_loop().call_later(
            seconds, self._expire, partition_id, expires
        )

    def _expire(self, partition_id: str, expires: int) -> None:
        del self._expiries[partition_id]
        self._operations.spawn(self._end(partition_id, expires), f"expire {partition_id}")

    async def _end(self, partition_id: str, expires: int) -> None:
        folder = self._site.partitions / partition_id
        async with self._operations.exclusive(("partition", partition_id)):
            # A renewal may have come while the lock was not ours.
            if expire_ns(folder) != expires or not folder.exists():
                return
            if not self._config.dynamic or self._config.dynamic.expiry is ExpiryChoice.DELETE:
                self._site.bury_partition(partition_id)
                (folder / "deleting").touch()
                self._go_on_deleting(partition_id)
                return
            if boot := self._boots.get(partition_id):
                boot.cancel()
            (folder / "stopped").touch()
            self._publish(partition_id)
        await self._ending.end_all(partition_id, NODE_FAIL)

    def _publish(self, partition_id: str) -> None:
        partition = self._partitions.get(partition_id)
        event = partition_pb2.PartitionEvent(partition=partition)
        self._hub.publish(partition_id, event, topic=partition.origin.installation)
