"""Who wants to know what the gate says of which attempt and which partition."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import NamedTuple

from skyport.gate.v1 import inventory_pb2, job_pb2, partition_pb2
from swm_core.gateways.slots import Slot

log = logging.getLogger(__name__)


class AttemptKey(NamedTuple):
    """Which attempt of which job."""

    job_id: str
    attempt: int


class Subscriptions:
    """The slots of one site's attempts and partitions, while somebody looks after them.

    Args:
        site: The site's name.
    """

    def __init__(self, site: str) -> None:
        self._site = site
        self._attempts: dict[AttemptKey, Slot[job_pb2.JobStatus]] = {}
        self._owners: dict[AttemptKey, str] = {}
        self._partitions: dict[str, Slot[partition_pb2.Partition]] = {}

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

    def put_attempt(self, status: job_pb2.JobStatus) -> AttemptKey | None:
        """The gate said this of an attempt.

        Returns:
            Which; None: it is not of the owner that it names, and is left out.
        """
        ref = status.ref
        key = AttemptKey(ref.job_id, ref.attempt)
        if ref.owner != self._owners.get(key, ref.owner):
            # Made up in an account of somebody else's, who has seen the job's id.
            log.warning("%s: job %s is not of %s", self._site, key.job_id, ref.owner)
            return None
        if slot := self._attempts.get(key):
            slot.put(status)
        return key

    def put_partition(self, partition: partition_pb2.Partition) -> None:
        """The gate said this of a partition."""
        if slot := self._partitions.get(partition.partition_id):
            slot.put(partition)

    def miss_attempt(self, key: AttemptKey) -> None:
        """A complete list lacks the attempt. Who looks after it asks for it: this is no proof."""
        if slot := self._attempts.get(key):
            slot.miss()

    def miss_partition(self, partition_id: str) -> None:
        """A complete list lacks the partition; as `miss_attempt`."""
        if slot := self._partitions.get(partition_id):
            slot.miss()

    def miss_attempts_except(self, seen: Collection[AttemptKey]) -> None:
        """A complete list has these attempts alone."""
        for key, slot in list(self._attempts.items()):
            if key not in seen:
                slot.miss()

    def miss_partitions_except(self, seen: Collection[str]) -> None:
        """A complete list has these partitions alone."""
        for partition_id, slot in list(self._partitions.items()):
            if partition_id not in seen:
                slot.miss()

    def partition_gone(self, partition_id: str) -> None:
        """A partition is gone, as its gate said. Who has something there asks for it."""
        self.miss_partition(partition_id)
        # What ran there has ended, and no list can tell how.
        for slot in self._attempts.values():
            if slot.value is not None and slot.value.ref.partition_id == partition_id:
                slot.miss()

    def node_lost(self, node: inventory_pb2.Node) -> None:
        """A node is gone. What ran there has ended, and no list can tell how."""
        for slot in self._attempts.values():
            if slot.value is not None and node.name in slot.value.ref.nodes:
                slot.miss()

    def touch_all(self) -> None:
        """Wake all who wait: a gate that has forgotten all is to be asked again."""
        for attempt in self._attempts.values():
            attempt.touch()
        for partition in self._partitions.values():
            partition.touch()
