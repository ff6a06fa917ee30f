"""What the site says of attempts: which there are, how far each is, and what of it is alive."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable

from gate_kit import errors
from gate_kit.job_service import position
from gate_kit.job_status import END_UNKNOWN, Phase, why_lost
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import processes, reports
from gates.fake_gate.attempt import Attempt, OnNode
from gates.fake_gate.site import Site
from skyport.gate.v1 import job_pb2, types_pb2

_SNAPSHOT_STEP = 50


class Evidence:
    """Reads and judges. It writes one thing: the end of an attempt whose runner is gone.

    Args:
        site: Where the attempts are.
        is_live: Whether a runner of this gate is known to be on its way to a node, or alive there.
    """

    def __init__(self, site: Site, is_live: Callable[[AttemptPath, str], bool]) -> None:
        self.site = site
        self.boot_id = processes.boot_id()
        self.unguarded: set[AttemptPath] = set()
        """Open ones without a runner that is watched: nothing tells of their claims and ends."""
        self._is_live = is_live

    def find(self, ref: types_pb2.JobRef) -> Attempt:
        """The attempt that `ref` names.

        Raises:
            Refusal: JOB_NOT_FOUND; SITE_CHANGED if this is not the site that the caller knows.
        """
        attempt = self.locate(ref)
        if not attempt.exists:
            raise errors.job_not_found(ref)
        return attempt

    def locate(self, ref: types_pb2.JobRef, *, make_root: bool = False) -> Attempt:
        """Where the attempt is or would be.

        Args:
            ref: Which.
            make_root: Whether this is a first contact that writes.

        Raises:
            Refusal: SITE_CHANGED, SITE_UNREACHABLE.
        """
        found = self.site.root_uid()
        for root in ref.roots:
            if root.root_uid != found:
                raise errors.site_changed(root.root_uid, found, node=root.node)
        if make_root and not found:
            self.site.make_root_uid()
        return self.attempt(AttemptPath.of(ref))

    def attempt(self, key: AttemptPath) -> Attempt:
        return Attempt(key, self.site.attempt_folder(key))

    def keys(self, installation: str, partition_id: str = "") -> list[AttemptPath]:
        """The attempts of an installation, in order of job and attempt."""
        return sorted(self.site.attempts(installation, partition_id or "*"))

    def status(self, attempt: Attempt) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if it is gone. Settles what was lost."""
        read = self.read(attempt)
        if read and any(node.phase is Phase.LOST for node in read[1]):
            self._settle(attempt, read[1])
            read = self.read(attempt)
        return read[0] if read else None

    def told(self, attempt: Attempt) -> job_pb2.JobStatus:
        """The attempt as it is now, for an answer.

        Raises:
            Refusal: BUSY: it is being removed.
        """
        status = self.status(attempt)
        if status is None:
            raise errors.busy("the attempt is being removed")
        return status

    async def snapshot(
        self, installation: str, partition_id: str = "", *, after: str = ""
    ) -> AsyncIterator[job_pb2.JobStatus]:
        """The attempts of an installation, in order of job and attempt.

        Args:
            installation: Whose.
            partition_id: Of one partition; empty is of all.
            after: Only those that stand behind this `position`.
        """
        keys = [
            key
            for key in self.keys(installation, partition_id)
            if position(key.job_id, key.attempt, key.partition_id) > after
        ]
        for index, key in enumerate(keys):
            if index % _SNAPSHOT_STEP == _SNAPSHOT_STEP - 1:
                await asyncio.sleep(0)  # others have their turn
            if status := self.status(self.attempt(key)):
                yield status

    def read(self, attempt: Attempt) -> tuple[job_pb2.JobStatus, list[OnNode]] | None:
        """The attempt as it is now, and how far it is on each node; None if it is gone."""
        return reports.read_status(self.site, attempt, self.boot_id, self._has_runner)

    def _has_runner(self, key: AttemptPath, node: str) -> bool:
        """Whether a runner is on its way, of this gate or of one before."""
        if self._is_live(key, node):
            return True
        return bool(self._runners(key, node))

    def _settle(self, attempt: Attempt, on_nodes: Iterable[OnNode]) -> None:
        """Write the end of runners that are gone without one, once nothing of them is alive."""
        lost = [node for node in on_nodes if node.phase is Phase.LOST]
        if self.alive(attempt, [node.name for node in lost]):
            self.unguarded.add(attempt.key)  # it runs on, though nobody guards it
            return
        for node in lost:
            reason = attempt.verdict(node.name) or why_lost(
                is_readable=node.claim is None or node.claim.is_readable,
                is_buried=self.site.is_buried(attempt.key),
            )
            # A claim that was taken in place of a runner's is no start.
            ran = node.claim is None or bool(node.claim.pid) or reason == END_UNKNOWN
            attempt.write_end(node.name, reason, started=ran)
            # What is left of its runner is a timer that guards nothing, and ends what it waits for.
            left, timer = self._runners(attempt.key, node.name), attempt.timer(node.name)
            processes.kill(left & {timer}, signal.SIGTERM)
            processes.kill(left - {timer})

    def alive(self, attempt: Attempt, nodes: Iterable[str]) -> set[int]:
        """The processes of the script on `nodes`, with what will be the script in a moment."""
        marks, sessions, forked = [], set[int](), set[int]()
        for node in nodes:
            marks.append(attempt.key.mark(node))
            on_node = attempt.on_node(node, self.boot_id)
            if on_node.phase not in {Phase.RUNNING, Phase.LOST} or on_node.claim is None:
                continue  # once it has ended, the number of its session may be another's
            session = attempt.session(node)
            if session is not None:
                sessions.add(session)
            guards = {on_node.claim.pid, attempt.timer(node)}
            forked |= self._runners(attempt.key, node) - guards
        return (processes.find(marks, sessions) | forked) if marks else set()

    def _runners(self, key: AttemptPath, node: str) -> set[int]:
        return processes.find_runners(f"{self.site.root}/runner-", key.mark(node))
