"""The life of partitions: made, renewed, started again, broken, deleted."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from gate_kit import Operations, Refusal, errors
from gate_kit.job_status import NODE_FAIL
from gate_kit.job_status import failure as failure_of
from gates.azure_gate import schedules as ends
from gates.azure_gate.cloud import Cloud, Content, Group
from gates.azure_gate.config import Config
from gates.azure_gate.installations import Installations
from gates.azure_gate.keys import Keys
from gates.azure_gate.making import Making, Unmade
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import CREATING, DELETING, READY, Known, Partitions
from gates.azure_gate.schedules import Schedules
from gates.azure_gate.sdk import AzureProblem
from gates.azure_gate.tags import Tags
from gates.azure_gate.tombstones import Tombstones
from skyport.gate.v1 import partition_pb2, types_pb2

log = logging.getLogger(__name__)

T = TypeVar("T")

_PREEMPTED = "PREEMPTED"
_AGAIN_S = (1.0, 30.0)
"""Before what Azure refused is asked for again: at first, and at most."""
_NO_GROUP = frozenset({"ResourceGroupNotFound", "ResourceGroupBeingDeleted"})
_GONE_S = (0.3, 5.0)
"""Between two looks at a group that is being deleted."""


def group_name(installation: str, partition_id: str) -> str:
    """The name of a partition's group: at most 85 of the 90 characters that Azure takes."""
    return f"swm-{installation}-{partition_id}"


class Lives:
    """Makes and unmakes partitions.

    Args:
        config: What they are made of.
        cloud: Where they are.
        keys: What nodes show.
        partitions: How they were last seen.
        observer: Sees them.
        making: Makes what is in their groups.
        schedules: Sets the ends of nodes.
        operations: Owns the mutations.
        tombstones: What is never made again.
        installations: For whom partitions were made.
    """

    def __init__(
        self,
        config: Config,
        cloud: Cloud,
        keys: Keys,
        partitions: Partitions,
        observer: Observer,
        making: Making,
        schedules: Schedules,
        operations: Operations,
        tombstones: Tombstones,
        installations: Installations,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._keys = keys
        self._partitions = partitions
        self._observer = observer
        self._making = making
        self._schedules = schedules
        self._operations = operations
        self._tombstones = tombstones
        self._installations = installations
        partitions.on_unknown.append(self.wonder)
        self._makers: dict[str, asyncio.Task[None]] = {}
        self._deleters: dict[str, asyncio.Task[None]] = {}
        self._checking: set[tuple[str, str]] = set()
        observer.on_round.append(self._saw)

    # What the core asks for.

    async def create(
        self, request: partition_pb2.CreatePartitionRequest
    ) -> partition_pb2.Partition:
        """Make sure that the partition exists, and is being made.

        Raises:
            Refusal: PARTITION_DELETED, PARTITION_DIFFERS, and as errors.refusal has them.
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
            self._check_room()
            location = request.spec.location or self._config.locations[0]
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
        self._make(known, is_new=is_new)
        return self._partitions.message(known)

    async def _go_on(self, known: Known, tags: Tags, expires_s: int) -> None:
        known.tags = tags
        known.is_resumed = True
        if known.tags.failure is not None:
            return
        if expires_s > known.tags.expires_s:
            await self._retag(known, expires_s=expires_s)
            if known.tags.is_ready:
                await self._within(self._schedules.set(known, known.nodes))
        if known.tags.is_ready and not known.is_making:
            await self._look_at(known)

    async def renew(self, partition_id: str, wanted_s: int) -> partition_pb2.Partition:
        """Move the time at which the nodes are deallocated.

        Raises:
            Refusal: PARTITION_NOT_FOUND; PARTITION_NOT_READY once it is stopped, failed or going.
        """

        async def work() -> partition_pb2.Partition:
            known = await self.find(partition_id)
            if known.state not in {CREATING, READY} or known.tags.failure is not None:
                raise errors.partition_not_ready(partition_id, self._partitions.text(known))
            expires_s = ends.end(wanted_s)
            before = known.tags
            known.tags = dataclasses.replace(before, expires_s=expires_s)
            try:
                # Of one in the making only those that are there; the others get it when they are.
                there = [n for n in known.nodes if n in known.content.machines]
                await self._within(self._schedules.set(known, there))
                await self._retag(known, expires_s=expires_s)
            except BaseException:
                known.tags = dataclasses.replace(known.tags, expires_s=before.expires_s)
                raise
            self._partitions.changed(known)
            return self._partitions.message(known)

        key = ("renew", partition_id, wanted_s)
        return await self._operations.run(key, work, on=("partition", partition_id))

    async def delete(self, partition_id: str, installation: str) -> None:
        """Begin to delete the partition; a create under way is stopped first.

        Raises:
            Refusal: PARTITION_NOT_FOUND, also when it is gone; NOT_YOURS.
        """
        name = group_name(installation, partition_id)

        async def work() -> None:
            maker = self._makers.pop(name.lower(), None)
            if maker is not None:
                maker.cancel()
                await asyncio.wait((maker,))
            known = self._partitions.known.get(name.lower())
            if known is not None and known.is_deleting:
                return
            group = await self._group(name)
            if group is None:
                if known is not None:
                    self._partitions.gone(known)
                await self._check_owner(partition_id, installation)
                raise errors.partition_not_found(partition_id)
            if group.installation != installation:
                raise errors.not_yours(partition_id)
            if not await self._within(self._cloud.delete_group(name)):
                if known is not None:
                    self._partitions.gone(known)
                raise errors.partition_not_found(partition_id)
            self._follow_deletion(group)

        # First of all: a create that comes late must find it.
        self._tombstones.bury(name)
        # A create that is under way must not hold up the delete.
        self._operations.interrupt(errors.partition_deleted(partition_id), "create", partition_id)
        key = ("delete", partition_id, installation)
        await self._operations.run(key, work, on=("partition", partition_id))

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
        return known

    def wonder(self, partition_id: str) -> None:
        """Somebody asked for a partition that is not known: find out whether it is there."""
        key = (partition_id, "")
        if key not in self._checking:
            self._checking.add(key)
            task = self._operations.spawn(self._wondered(partition_id), f"look for {partition_id}")
            task.add_done_callback(lambda done: self._checking.discard(key))

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

    # Making.

    def _make(self, known: Known, *, is_new: bool) -> None:
        """Have it made, unless it is, or can't be."""
        name = known.group.name.lower()
        is_over = known.tags.failure is not None or known.state == DELETING
        if is_over:
            self._clean_up(known)
        elif known.is_making or (known.tags.is_ready and not known.is_stopped):
            pass
        else:
            known.is_making = True
            known.began = time.monotonic()
            work = self._made(known) if not known.tags.is_ready else self._started(known)
            self._makers[name] = self._operations.spawn(work, f"making of {known.id}")
        if is_new:
            self._observer.hurry()
        self._partitions.changed(known)

    async def _made(self, known: Known) -> None:
        try:
            await self._making.make(known)
            await self._note_ready(known)
        except Unmade as unmade:
            await self._fail(known, unmade.failure)
        finally:
            known.is_making, known.is_resumed = False, True
            self._partitions.changed(known)

    async def _note_ready(self, known: Known) -> None:
        """Write down that it has been ready, however long that takes."""
        pause_s = _AGAIN_S[0]
        while True:
            try:
                async with self._operations.exclusive(("partition", known.id)):
                    await self._retag(known, is_ready=True)
                known.trouble = ""
                return
            except AzureProblem as problem:
                if problem.problem.code in _NO_GROUP:
                    return
                known.trouble = problem.problem.text
                self._partitions.changed(known)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
            pause_s = min(pause_s * 2, _AGAIN_S[1])

    async def _started(self, known: Known) -> None:
        try:
            await self._making.start(known)
            known.trouble = ""
        except Unmade as unmade:
            # What was on its disks may still be wanted: nothing is deleted.
            known.trouble = unmade.failure.message
            log.warning("%s could not be started again: %s", known.id, unmade)
        finally:
            known.is_making = False
            self._partitions.changed(known)
            self._observer.hurry()

    async def _fail(self, known: Known, failure: types_pb2.Failure) -> None:
        """Write down why, then delete everything that costs money."""
        log.warning("partition %s failed: %s: %s", known.id, failure.reason, failure.message)
        known.tags = dataclasses.replace(known.tags, failure=failure)
        self._partitions.changed(known)
        await self._emptied(known)

    async def _emptied(self, known: Known) -> None:
        """Until nothing is left but the group, with the reason in its tags."""
        pause_s = _AGAIN_S[0]
        while True:
            try:
                async with self._operations.exclusive(("partition", known.id)):
                    # First, so that a gate that comes after a crash goes on with it.
                    await self._retag(known, is_empty=False)
                    await self._cloud.empty_group(known.group.name, known.tags.nodes)
                    await self._retag(known, is_empty=True, lost=self._all_lost(known))
                known.trouble = ""
                self._partitions.lost(known)
                self._partitions.changed(known)
                return
            except (AzureProblem, Refusal) as problem:
                if isinstance(problem, AzureProblem) and problem.problem.code in _NO_GROUP:
                    return
                known.trouble = str(problem)
                self._partitions.changed(known)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
            pause_s = min(pause_s * 2, _AGAIN_S[1])

    @staticmethod
    def _all_lost(known: Known) -> Mapping[str, str]:
        """The nodes of a partition that was, and is no more: what ran there has ended."""
        tags = known.tags
        if not tags.is_ready or tags.failure is None:
            return tags.lost
        return {**dict.fromkeys(tags.nodes, tags.failure.reason), **tags.lost}

    def _clean_up(self, known: Known) -> None:
        """Go on with the removal that an earlier gate began."""
        name = known.group.name.lower()
        if known.tags.failure is None or known.tags.is_empty or known.state == DELETING:
            return
        if name not in self._makers or self._makers[name].done():
            self._makers[name] = self._operations.spawn(
                self._emptied(known), f"clean-up of {known.id}"
            )

    # Deleting.

    def _follow_deletion(self, group: Group) -> None:
        known = self._partitions.saw(group)
        name = group.name.lower()
        if known is not None:
            known.is_deleting, known.is_making = True, False
            known.trouble = ""
            self._partitions.changed(known)
        if name not in self._deleters or self._deleters[name].done():
            self._deleters[name] = self._operations.spawn(
                self._until_gone(group.name), f"deletion of {group.name}"
            )
        self._observer.hurry()

    async def _until_gone(self, name: str) -> None:
        """Follow a deletion to the end; what Azure gave up is asked for again."""
        pause_s, again_s = _GONE_S[0], _AGAIN_S[0]
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311
            pause_s = min(pause_s * 1.3, _GONE_S[1])
            known = self._partitions.known.get(name.lower())
            try:
                group = await self._cloud.group(name)
                if group is None:
                    break
                if not group.is_deleting:
                    await asyncio.sleep(again_s)
                    again_s = min(again_s * 2, _AGAIN_S[1])
                    await self._cloud.delete_group(name)
                trouble = ""
            except AzureProblem as problem:
                trouble = problem.problem.text
            if known is not None and known.trouble != trouble:
                known.trouble = trouble
                self._partitions.changed(known)
        if known is not None:
            self._partitions.gone(known)

    # What is seen.

    def _saw(self, groups: Mapping[str, Group], contents: Mapping[str, Content]) -> None:
        """Take in a look at everything."""
        for name, group in groups.items():
            known = self._partitions.saw(group, contents.get(name, Content()))
            if group.tags is None:
                continue
            if known is not None and group.is_deleting and not known.is_deleting:
                self._follow_deletion(group)
            elif group_name(group.installation, group.tags.partition_id) in self._tombstones:
                # It appeared after it was deleted: a call that was cut off has arrived.
                if name not in self._deleters or self._deleters[name].done():
                    self._follow_deletion(group)
            elif known is not None:
                self._clean_up(known)
                self._check_nodes(known)
        for name, known in list(self._partitions.known.items()):
            if name not in groups and name not in self._deleters:
                self._check(known, "")

    def _check_nodes(self, known: Known) -> None:
        """Ask for machines that a list lacks: it may only lag behind."""
        if not known.tags.is_ready or known.is_making or known.tags.failure is not None:
            return
        for node in known.nodes:
            if node not in known.content.machines:
                self._check(known, node)

    def missed(self, known: Known, node: str) -> None:
        """A node does not answer any more: find out whether it is still there."""
        if known.state == READY and node in known.nodes:
            self._check(known, node)

    def _check(self, known: Known, node: str) -> None:
        key = (known.id, node)
        if key in self._checking:
            return
        self._checking.add(key)
        work = self._checked_node(known, node) if node else self._checked_group(known)
        task = self._operations.spawn(work, f"look for {node} of {known.id}")
        task.add_done_callback(lambda done: self._checking.discard(key))

    async def _checked_group(self, known: Known) -> None:
        try:
            if await self._cloud.group(known.group.name) is None:
                self._partitions.gone(known)
        except AzureProblem as problem:
            log.info("%s: %s", known.id, problem)

    async def _checked_node(self, known: Known, node: str) -> None:
        try:
            machine = await self._cloud.machine(known.group.name, node)
        except AzureProblem as problem:
            log.info("%s of %s: %s", node, known.id, problem)
            return
        if machine is None or machine.provisioning == "Deleting":
            await self.lose(known, node)
        elif machine != known.content.machines.get(node):
            machines = {**known.content.machines, node: machine}
            known.content = dataclasses.replace(known.content, machines=machines)
            self._partitions.changed(known)

    async def lose(self, known: Known, node: str) -> None:
        """A node is gone for good; with the first, all are, since it is the way to the others."""
        reason = _PREEMPTED if known.tags.spec.spot else NODE_FAIL
        async with self._operations.exclusive(("partition", known.id)):
            if node not in known.nodes or known.state != READY or known.tags.failure is not None:
                return
            log.warning("%s of %s is gone: %s", node, known.id, reason)
            lost = {**known.tags.lost, node: reason}
            known.sight(node).is_up = False
            known.tags = dataclasses.replace(known.tags, lost=lost)
            self._partitions.node_changed(known, node)
            self._partitions.lost(known)
            text = ""
            if known.nodes and node == known.tags.nodes[0]:
                text = f"{failure_of(reason).message}: {node}, by which the others are reached"
            elif known.nodes:
                try:
                    await self._retag(known)
                except AzureProblem as problem:
                    log.info("%s: %s", known.id, problem)  # whoever looks next sees it as well
                return
            name = known.group.name.lower()
            failed = self._fail(known, failure_of(reason, text))
            self._makers[name] = self._operations.spawn(failed, f"end of {known.id}")

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

    def _check_room(self) -> None:
        most = self._config.max_partitions
        costly = [one for one in self._partitions.known.values() if not one.tags.is_empty]
        if most and len(costly) >= most:
            raise errors.quota(f"{len(costly)} partitions are there; max_partitions is {most}")

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

    async def _retag(self, known: Known, **changes: object) -> None:
        """Write tags with `changes`. Whoever calls holds the partition."""
        tags = dataclasses.replace(known.tags, **changes)  # type: ignore[arg-type]
        await self._cloud.tag_group(known.group.name, tags)
        known.tags = tags

    @staticmethod
    async def _within(asked: Awaitable[T]) -> T:
        """What Azure answers, for a caller of the gate."""
        try:
            return await asked
        except AzureProblem as problem:
            raise problem.refusal from problem
