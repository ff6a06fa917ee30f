"""Take a site as it is now, because its administrator says that it was changed on purpose.

Which roots have changed is asked of the gate: for each root that was told once, it is asked for an
attempt that never was, with that root. "No such attempt" means that the root is the right one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable

from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.ids import new_id
from swm_core.domain.job import Job
from swm_core.domain.states import JobState, PartitionState
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import SITE_CHANGED, GateError
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.live import NotLive
from swm_core.store import Root

log = logging.getLogger(__name__)

_READY_S = 15.0

Lose = Callable[[Job, Failure], Awaitable[None]]


class NotTold(Exception):
    """Of some roots the site does not say whether they are what they were; for people."""


class SiteChange:
    """The roots and the account scope of one site.

    Args:
        context: The core's parts.
        gate: The site's.
        lose: Ends an attempt that is lost, and returns when that is stored.
    """

    def __init__(self, context: Context, gate: Gate, lose: Lose) -> None:
        self._context = context
        self._gate = gate
        self._lose = lose

    def knows(self, partition_id: str) -> bool:
        """Whether the site has, or had, such a partition."""
        stored = self._context.store.partitions.get(partition_id)
        return (
            partition_id in self._gate.inventory.partitions
            or (stored is not None and stored.site == self._gate.name)
            or any(self._context.store.roots.at(self._gate.name, partition_id))
        )

    async def accept(self, partition_id: str = "", node: str = "") -> None:
        """Take what the site has now.

        Args:
            partition_id: Only of this partition; empty: of all, and the account scope.
            node: Only of this node; empty: of all.

        Raises:
            NotTold: The site did not answer for some; the others are taken.
        """
        silent: list[str] = []
        if not partition_id:
            await self._accept_scope()
        await self._until_ready()
        for root in self._context.store.roots.at(self._gate.name, partition_id):
            if node and root.node not in ("", node):
                continue
            named_away = bool(node) and root.node == node and not self._has_node(root)
            changed = named_away or await self._has_changed(root)
            if changed is None:
                silent.append(root.node or root.partition_id)
            elif changed:
                await self._give_up(root)
        self._gate.site_changed = ""
        self._gate.barred.clear()
        self._gate.on_change()
        if silent:
            names = ", ".join(sorted(set(silent))[:5])
            raise NotTold(
                f"site {self._gate.name} does not say what {names} is now; all else is taken, call"
                " again once it answers"
            )

    async def _until_ready(self) -> None:
        """With its new scope it may become so just now.

        Raises:
            NotTold: It does not, in time.
        """
        try:
            async with asyncio.timeout(_READY_S):
                await self._gate.wait_ready()
        except TimeoutError:
            why = self._gate.message or "it does not answer"
            raise NotTold(f"site {self._gate.name} can't be asked now: {why}") from None

    async def _has_changed(self, root: Root) -> bool | None:
        """Whether the site has another root in its place; None: it does not say."""
        ref = types_pb2.JobRef(
            installation=self._context.installation,
            partition_id=root.partition_id,
            job_id=new_id(),
            attempt=1,
            owner=root.owner,
            nodes=[root.node] if root.node else self._some_node(root.partition_id),
            roots=[types_pb2.SiteRoot(node=root.node, root_uid=root.root_uid)],
        )
        try:
            await self._gate.call(self._gate.jobs.GetJob, job_pb2.GetJobRequest(ref=ref))
        except GateError as error:
            if error.reason == SITE_CHANGED:
                return True
            return False if error.reason == "JOB_NOT_FOUND" else None
        return None

    def _has_node(self, root: Root) -> bool:
        """Whether the site has such a node, as far as is known."""
        told = self._gate.inventory
        return not told.known or root.node in told.nodes.get(root.partition_id, {})

    def _some_node(self, partition_id: str) -> list[str]:
        """A node, where the core names them: any of those that share the root."""
        if self._gate.chooses_nodes(partition_id):
            return []
        return list(self._gate.inventory.nodes.get(partition_id, {}))[:1]

    async def _give_up(self, root: Root) -> None:
        """The attempts first: one that was forgotten without its root might start once more."""
        where = f"node {root.node}" if root.node else f"partition {root.partition_id}"
        failure = Failure(
            FailureReason.SITE_LOST,
            f"{where} of site {self._gate.name} is another than the attempt was on, and an"
            " administrator has taken it so",
        )
        # One that was not asked to start has run nowhere: it may begin anew. Together, since each
        # waits a while for what it wrote.
        await asyncio.gather(
            *(
                self._lose(
                    job, dataclasses.replace(failure, retryable=job.state is JobState.STAGING_IN)
                )
                for job in list(self._context.jobs.placed)
                if self._lies_on(job, root)
            )
        )
        await self._context.store.roots.forget(root)
        self._gate.given_up.add(root.root_uid)
        log.warning("site %s: the root of %s on %s was given up", root.site, root.owner, where)

    def _lies_on(self, job: Job, root: Root) -> bool:
        return (job.site, job.partition_id, job.owner) == (
            root.site,
            root.partition_id,
            root.owner,
        ) and (not root.node or any(part.node == root.node for part in job.allocations))

    async def _accept_scope(self) -> None:
        if self._gate.info is None:
            raise NotTold(f"the gate of site {self._gate.name} has not answered yet; call again")
        told = self._gate.info.scope_uid
        if not self._gate.scope_uid or told == self._gate.scope_uid:
            return
        before = self._gate.scope_uid
        text = (
            f"given up: an administrator has moved site {self._gate.name} from account scope"
            f" {before} to {told or 'none'}; what is left in the old one may cost money"
        )
        failure = Failure(FailureReason.SITE_LOST, text)
        for partition in list(self._context.partitions):
            if partition.site != self._gate.name:
                continue
            await asyncio.gather(
                *(
                    self._lose(job, failure)
                    for job in list(self._context.jobs.placed)
                    if job.partition_id == partition.partition_id
                )
            )
            log.error("partition %s: %s", partition.partition_id, text)
            try:
                if partition.state is not PartitionState.DELETING:
                    await self._context.partitions.move(
                        partition.partition_id, PartitionState.DELETING, text=text
                    )
                await self._context.partitions.move(
                    partition.partition_id,
                    PartitionState.DELETED,
                    text=text,
                    delete_time=self._context.clock(),
                )
            except NotLive:
                pass  # it has gone by itself
            await self._context.store.roots.forget_partition(
                self._gate.name, partition.partition_id
            )
        await self._context.store.sites.set_scope_uid(self._gate.name, told)
        self._gate.scope_uid = told
