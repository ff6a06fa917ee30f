"""The life of partitions, as the core asks for it and as Azure is seen to have it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TypeVar

from gate_kit import Operations, Refusal, errors
from gates.azure_gate import schedules as ends
from gates.azure_gate.absences import Absences
from gates.azure_gate.answers import Content, Group
from gates.azure_gate.catalog import Catalog
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.config import Config
from gates.azure_gate.deletions import Deletions
from gates.azure_gate.errors import Kind
from gates.azure_gate.installations import Installations
from gates.azure_gate.keys import Keys
from gates.azure_gate.makers import Makers, write_tags
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import CREATING, READY, Known, Partitions
from gates.azure_gate.schedules import Schedules
from gates.azure_gate.sdk import AzureProblem
from gates.azure_gate.tags import Tags
from gates.azure_gate.tombstones import Tombstones
from skyport.gate.v1 import partition_pb2

T = TypeVar("T")


def group_name(installation: str, partition_id: str) -> str:
    """The name of a partition's group: at most 85 of the 90 characters that Azure takes."""
    return f"swm-{installation}-{partition_id}"


class Lives:
    """Makes and unmakes partitions.

    Args:
        config: What they are made of.
        cloud: Where they are.
        catalog: What there is to be had.
        keys: What nodes show.
        partitions: How they were last seen.
        observer: Sees them.
        makers: Make what is in their groups.
        deletions: Follows those that are being deleted.
        absences: Finds out what is gone.
        schedules: Sets the ends of nodes.
        operations: Owns the mutations.
        tombstones: What is never made again.
        installations: For whom partitions were made.
    """

    def __init__(
        self,
        config: Config,
        cloud: Cloud,
        catalog: Catalog,
        keys: Keys,
        partitions: Partitions,
        observer: Observer,
        makers: Makers,
        deletions: Deletions,
        absences: Absences,
        schedules: Schedules,
        operations: Operations,
        tombstones: Tombstones,
        installations: Installations,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._catalog = catalog
        self._keys = keys
        self._partitions = partitions
        self._observer = observer
        self._makers = makers
        self._deletions = deletions
        self._absences = absences
        self._schedules = schedules
        self._operations = operations
        self._tombstones = tombstones
        self._installations = installations
        self._coming: set[str] = set()
        """Groups that are being made and not known yet, in lower case."""
        partitions.on_unknown.append(self.wonder)
        observer.on_round.append(self._saw)

    # What the core asks for.

    async def create(
        self, request: partition_pb2.CreatePartitionRequest
    ) -> partition_pb2.Partition:
        """Make sure that the partition exists, and is being made.

        Raises:
            Refusal: FLAVOR_NOT_FOUND, PARTITION_DELETED, PARTITION_DIFFERS, and as
                errors.refusal has them.
        """
        expires_s = request.expire_time.seconds
        key = ("create", request.partition_id, request.spec_fingerprint, expires_s)
        return await self._operations.run(
            key, lambda: self._create(request), on=("partition", request.partition_id)
        )

    async def _create(
        self, request: partition_pb2.CreatePartitionRequest
    ) -> partition_pb2.Partition:
        name = group_name(request.origin.installation, request.partition_id)
        if name in self._tombstones:
            raise errors.partition_deleted(request.partition_id)
        expires_s = self._end(request)
        self._installations.see(request.origin.installation)
        group = await self._group(name)
        is_new = group is None
        if group is None:
            location = request.spec.location or self._config.locations[0]
            # Of what exists nobody asks that: it is needed also when there is no more of it.
            await self._catalog.flavor(request.spec.flavor, location)
            async with self._room(name):
                group = await self._put(name, location, self._tags(name, request, expires_s))
        if group.is_deleting:
            raise errors.partition_deleted(request.partition_id)
        if group.tags is None:
            raise errors.not_yours(request.partition_id)
        if group.tags.fingerprint != request.spec_fingerprint:
            raise errors.partition_differs(request.partition_id)
        # Not told before it is being made, or it would be one that nobody makes.
        known = self._partitions.saw(group, tells=False)
        assert known is not None  # noqa: S101 - for the type only: it has tags
        if known.is_deleting:
            raise errors.partition_deleted(request.partition_id)
        # What is known here is at least as new: a list may lag behind what we wrote.
        if not is_new:
            await self._go_on(known, group.tags, expires_s)
        self._makers.begin(known, is_new=is_new)
        return self._partitions.message(known)

    async def _go_on(self, known: Known, tags: Tags, expires_s: int) -> None:
        if known.tags.failure is None:
            # What has ended meanwhile may not be written yet: who writes it waits for us.
            known.tags = dataclasses.replace(tags, lost={**tags.lost, **known.tags.lost})
        known.is_resumed = True
        if known.tags.failure is not None:
            return
        if expires_s > known.tags.expires_s:
            await self._move_end(known, expires_s, known.nodes if known.tags.is_ready else ())
        if known.tags.is_ready and not known.is_making:
            await self._look_at(known)

    async def _move_end(self, known: Known, expires_s: int, nodes: Sequence[str]) -> None:
        """Have nodes end at another time. What is written last says that all of them do."""
        before = known.tags
        known.tags = dataclasses.replace(before, expires_s=expires_s)
        try:
            await self._within(self._schedules.set(known, nodes))
            await self._within(write_tags(self._cloud, known))
        except BaseException:
            known.tags = dataclasses.replace(known.tags, expires_s=before.expires_s)
            raise

    async def renew(self, partition_id: str, wanted_s: int) -> partition_pb2.Partition:
        """Move the time at which the nodes are deallocated.

        Raises:
            Refusal: PARTITION_NOT_FOUND; PARTITION_NOT_READY once it is stopped, failed or going.
        """

        async def work() -> partition_pb2.Partition:
            known = await self.find(partition_id)
            if known.state not in {CREATING, READY} or known.tags.failure is not None:
                raise errors.partition_not_ready(partition_id, self._partitions.text(known))
            # Of one in the making only those that are there; the others get it when they are.
            there = known.nodes
            if known.state == CREATING:
                there = [n for n in there if n in known.content.machines]
            await self._move_end(known, ends.end(wanted_s), there)
            self._partitions.changed(known)
            return self._partitions.message(known)

        key = ("renew", partition_id, wanted_s)
        return await self._operations.run(key, work, on=("partition", partition_id))

    async def delete(self, partition_id: str, installation: str) -> None:
        """Begin to delete the partition; a create under way is stopped first.

        Raises:
            Refusal: PARTITION_NOT_FOUND, also when it is gone; NOT_YOURS; BUSY: something holds it.
        """
        name = group_name(installation, partition_id)

        async def work() -> None:
            # Before its turn: what makes or empties the partition holds it for minutes.
            await self._makers.stop(name)
            async with self._operations.exclusive(("partition", partition_id)):
                await self._makers.stop(name)
                await begin()

        async def begin() -> None:
            known = self._partitions.known.get(name.lower())
            if known is not None and known.is_deleting:
                return
            # Of a create that was cut off: what is not there yet may come.
            await self._cloud.written(name)
            group = await self._group(name)
            if group is None:
                if known is not None:
                    self._partitions.gone(known)
                await self._check_owner(partition_id, installation)
                raise errors.partition_not_found(partition_id)
            if group.installation != installation:
                raise errors.not_yours(partition_id)
            try:
                is_there = await self._cloud.delete_group(name)
            except AzureProblem as problem:
                if problem.kind is Kind.REFUSED:  # as things are: by a lock, for example
                    raise errors.busy(str(problem)) from problem
                raise problem.refusal from problem
            if not is_there:
                if known is not None:
                    self._partitions.gone(known)
                raise errors.partition_not_found(partition_id)
            self._deletions.follow(group)

        # First of all: a create that comes late must find it.
        self._tombstones.bury(name)
        # A create that is under way must not hold up the delete.
        self._operations.interrupt(errors.partition_deleted(partition_id), "create", partition_id)
        key = ("delete", partition_id, installation)
        await self._operations.run(key, work)

    async def find(self, partition_id: str) -> Known:
        """A partition as Azure has it now.

        Raises:
            Refusal: PARTITION_NOT_FOUND: it is positively not there.
        """
        known = self._partitions.find(partition_id) or await self._looked_up(partition_id)
        if known is None:
            self._partitions.note_absent(partition_id)
            raise errors.partition_not_found(partition_id)
        group = await self._group(known.group.name)
        if group is None:
            self._partitions.gone(known)
            raise errors.partition_not_found(partition_id)
        known.group = group
        if not known.seen_at:
            await self._seen()
        return known

    async def _looked_up(self, partition_id: str) -> Known | None:
        """A partition that is not known here; lists may lack what was made a moment ago."""
        await self._seen()
        known = self._partitions.find(partition_id)
        for installation in self._installations.seen if known is None else ():
            group = await self._group(group_name(installation, partition_id))
            if group is not None:
                known = self._partitions.saw(group)
                if known is None:
                    # It is there, and costs, though nothing can be read in its tags.
                    raise errors.not_yours(partition_id)
        return known

    def wonder(self, partition_id: str) -> None:
        """Somebody asked for a partition that is not known: find out whether it is there."""
        what = f"look for {partition_id}"
        self._absences.once((partition_id, ""), lambda: self._wondered(partition_id), what)

    async def _wondered(self, partition_id: str) -> None:
        with contextlib.suppress(Refusal):
            await self.find(partition_id)

    async def _check_owner(self, partition_id: str, installation: str) -> None:
        """Raise NOT_YOURS if another installation has a partition of that id."""
        await self._seen()
        other = self._partitions.find(partition_id)
        if other is not None and other.tags.installation != installation:
            raise errors.not_yours(partition_id)

    async def _seen(self) -> None:
        await self._observer.look()

    # What is seen.

    def _saw(self, groups: Mapping[str, Group], contents: Mapping[str, Content]) -> None:
        """Take in a look at everything."""
        for name, group in groups.items():
            known = self._partitions.saw(group, contents.get(name, Content()))
            if group.tags is None:
                continue
            if known is not None and group.is_deleting and not known.is_deleting:
                self._deletions.follow(group)
            elif group_name(group.installation, group.tags.partition_id) in self._tombstones:
                # It appeared after it was deleted: a call that was cut off has arrived.
                if name not in self._deletions:
                    self._deletions.follow(group)
            elif known is not None:
                self._makers.clean_up(known)
                self._absences.check_nodes(known)
        for name, known in list(self._partitions.known.items()):
            if name not in groups and name not in self._deletions:
                self._absences.check_group(known)

    async def _look_at(self, known: Known) -> None:
        """See each machine as it is, not as a list had it a while ago."""
        found = await self._within(
            asyncio.gather(*(self._cloud.machine(known.group.name, n) for n in known.nodes))
        )
        machines = {one.name: one for one in found if one is not None}
        known.content = dataclasses.replace(known.content, machines=machines)

    # Small things.

    def _end(self, request: partition_pb2.CreatePartitionRequest) -> int:
        if not self._config.expiry or not request.HasField("expire_time"):
            return 0
        return ends.end(request.expire_time.seconds)

    def _tags(
        self, name: str, request: partition_pb2.CreatePartitionRequest, expires_s: int
    ) -> Tags:
        return Tags(
            installation=request.origin.installation,
            partition_id=request.partition_id,
            owner=request.owner,
            fingerprint=request.spec_fingerprint,
            generation=request.origin.store_generation,
            spec=request.spec,
            host_key=self._keys.host_key(name.lower()).public,
            created_s=int(time.time()),
            expires_s=expires_s,
        )

    @contextlib.asynccontextmanager
    async def _room(self, name: str) -> AsyncIterator[None]:
        """Have room for one more partition, until it is known like the others."""
        most = self._config.max_partitions
        if most:
            await self._observer.look(older_s=math.inf)  # a gate that has just begun knows of none
        known = self._partitions.known.items()
        costly = {there for there, one in known if not one.tags.is_empty} | self._coming
        if most and len(costly) >= most:
            raise errors.quota(f"{len(costly)} partitions are there; max_partitions is {most}")
        self._coming.add(name.lower())
        try:
            yield
        finally:
            self._coming.discard(name.lower())

    async def _put(self, name: str, location: str, tags: Tags) -> Group:
        try:
            return await self._cloud.put_group(name, location, tags)
        except AzureProblem as problem:
            if problem.problem.code == "ResourceGroupBeingDeleted":
                raise errors.partition_deleted(tags.partition_id) from problem
            raise problem.refusal from problem
        except ValueError as error:
            raise errors.invalid(f"spec is too long to be kept in tags: {error}") from error

    async def _group(self, name: str) -> Group | None:
        return await self._within(self._cloud.group(name))

    @staticmethod
    async def _within(asked: Awaitable[T]) -> T:
        """What Azure answers, for a caller of the gate."""
        try:
            return await asked
        except AzureProblem as problem:
            raise problem.refusal from problem
