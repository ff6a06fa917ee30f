"""The end of attempts at a Slurm site: cancelled by the queue's word, or removed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gate_kit import Operations, Refusal, errors, job_status, launching
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.removals import Removals
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.evidence import Evidence
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.judging import is_told
from gates.ssh_cluster_gate.slurm.live import sought
from gates.ssh_cluster_gate.slurm.queue import Row, Sought, Stage, Word
from gates.ssh_cluster_gate.slurm.words import Queue
from skyport.gate.v1 import job_pb2, types_pb2

_TERM_S = 2.0
"""From a cancel until its TERM, at most, where all is well."""
_KILL_S = 2.0
"""What our own KILL has not ended by then, as what has lost its guard, Slurm ends itself."""


class SlurmEnding:
    """Ends and removes attempts.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the mutations.
        take_back: Takes what was put into a folder of the user's own away again.
    """

    def __init__(
        self,
        jobs: SlurmAttempts,
        operations: Operations,
        take_back: Callable[[Host, AttemptKey], Awaitable[None]],
    ) -> None:
        self.on_cancel: list[Callable[[AttemptKey, Refusal], Awaitable[None]]] = []
        """Awaited when an attempt has its tombstone: ends what is under way for it."""
        self._jobs = jobs
        self._operations = operations
        self._take_back = take_back
        self._removals = Removals()
        self._deadlines: dict[AttemptKey, float] = {}

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        """Make sure that nothing of the attempt runs, now or later.

        Args:
            ref: Which.
            grace_s: Seconds between TERM and KILL; None means the spec's. Less than what a cancel
                under way has left cuts it short.

        Raises:
            Refusal: NODE_UNREACHABLE, SITE_UNREACHABLE, SITE_CHANGED, USER_NOT_MAPPED: not
                confirmed.
        """
        key = AttemptKey.of(ref)
        account = self._jobs.sites.account(ref)
        # The tombstone first, then what is under way: it must not hold up what ends it.
        with as_refusals(ref):
            await self._bury(ref, account)
        refusal = errors.job_cancelled(ref)
        self._operations.interrupt(refusal, "start", key)
        for end in self.on_cancel:
            await end(key, refusal)
        if grace_s is not None and key in self._deadlines:
            self._deadlines[key] = min(self._deadlines[key], time.monotonic() + grace_s)
        return await self._operations.run(
            ("cancel", key), lambda: self._cancel(ref, account, grace_s), on=key
        )

    async def _cancel(
        self, ref: types_pb2.JobRef, account: Account, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        key = AttemptKey.of(ref)
        with as_refusals(ref):
            # Once more: a start that was under way is over now, and may have left its spec.
            await self._bury(ref, account)
            await account.conceal(key.path)
            found = await self._jobs.look(ref)
            spec = found.lasting.spec
            if spec is None:
                return await self._jobs.judged(ref, found)
            if grace_s is None:
                grace_s = launching.grace_s(spec.spec)
            # It counts from TERM on: the queue may take a second to be asked.
            self._deadlines[key] = time.monotonic() + grace_s + (_TERM_S if grace_s else 0.0)
            try:
                is_every = spec.spec.launch == job_pb2.LAUNCH_EVERY
                has_ended = found.final or (found.ends and is_told(found))
                job = None if has_ended else sought(key, found)
                in_steps = "USR1" if is_every else "KILL"
                await self._stop(key, account, found, job, in_steps)
            finally:
                del self._deadlines[key]
            await self._jobs.judging.until_shown(account)
            await self._jobs.look(ref)
            live = self._jobs.live.get(key)
            if live is not None:
                status = await self._jobs.publish(live, is_settled=True)
            else:
                status = await self._jobs.status(ref, is_settled=True)
            word = self._jobs.queue(account).word
            is_whole = word is not None and word.is_whole
            if status is not None and not status.HasField("end") and not is_whole:
                # A row that is missing says nothing.
                raise errors.site_unreachable("the queue has not said yet that nothing of it runs")
            return status

    async def _bury(self, ref: types_pb2.JobRef, account: Account) -> None:
        key, host = AttemptKey.of(ref), account.host
        await host.ask("bury", key.path, root_of(ref, host.node), job_status.CANCELLED)

    async def _stop(
        self, key: AttemptKey, account: Account, found: Evidence, job: Sought | None, in_steps: str
    ) -> None:
        """Have the queue end all submissions of an attempt, and wait for its word.

        Args:
            key: The attempt.
            account: Whose it is.
            found: What lies of it.
            job: The one that should be in the queue; None if there is none, or its end is known.
            in_steps: What its steps get when the grace time is over. Where our own guards are in
                them they are told to kill; else they are the script's, and are killed.

        Raises:
            Refusal: SITE_UNREACHABLE, NODE_UNREACHABLE: not confirmed.
        """
        queue = self._jobs.queue(account)
        asked: set[str] = set()
        killed: dict[str, float] = {}
        while True:
            word = await queue.fresh()
            of_it = word.of(key, found.root_uid, found.slurm_ids)
            rows = [row for row in of_it if row.stage is not Stage.OVER]
            if not rows and job is not None:
                rows = await self._unseen(queue, word, job)
            if not rows:
                return
            now = time.monotonic()
            for row in rows:
                if row.stage is Stage.WAITING:
                    await self._ask(account, row.slurm_id)
                elif row.state != "RUNNING":
                    # It ends; or it is held somewhere, where no signal of ours reaches it.
                    if now >= self._deadlines[key]:
                        await self._ask(account, row.slurm_id)
                elif now < self._deadlines[key]:
                    if row.slurm_id not in asked:
                        await self._signal(account, row.slurm_id, "TERM", "TERM")
                        asked.add(row.slurm_id)
                elif row.slurm_id not in killed:
                    killed[row.slurm_id] = now
                    await self._signal(account, row.slurm_id, "USR1", in_steps)
                elif now - killed[row.slurm_id] > _KILL_S:
                    await self._ask(account, "--signal=KILL", "--full", row.slurm_id)
                    await self._ask(account, row.slurm_id)
            rest_s = max(self._deadlines[key] - time.monotonic(), 0.05)
            await self._jobs.bells.heard(key, min(rest_s, 0.5))

    async def _unseen(self, queue: Queue, word: Word, job: Sought) -> list[Row]:
        """The row of a job that is in none with its name, unless nothing of it waits or runs.

        Raises:
            Refusal: SITE_UNREACHABLE, NODE_UNREACHABLE: nobody knows.
        """
        row = word.rows.get(job.slurm_id)
        if row is None:
            try:
                said = await queue.found_out(job)
            except Refusal:
                if not word.is_whole:
                    raise
                return []  # where no row is missing, only how it ended is not known
            if not isinstance(said, Row):
                return []
            row = said
        return [row] if job.is_of(row) and row.stage is not Stage.OVER else []

    async def _signal(self, account: Account, slurm_id: str, name: str, in_steps: str) -> None:
        """Send signals: one to the script's own part of the job, one to the steps."""
        await self._ask(account, f"--signal={name}", "--full", slurm_id)
        await self._ask(account, f"--signal={in_steps}", slurm_id)

    async def _ask(self, account: Account, *words: str) -> None:
        answer = await account.command("scancel", *words)
        # It may have ended meanwhile; what is true is told by the queue.
        if answer.code == 124:
            raise errors.site_unreachable("scancel took too long")

    async def _take_out(self, key: AttemptKey, account: Account, found: Evidence) -> None:
        """Have nothing of an attempt in the queue that has never begun, and never will.

        What lies of it has ended it, which does not keep it from waiting in the queue, where nobody
        would find it once its folder is gone.

        Raises:
            Refusal: As `_stop`.
        """
        word = self._jobs.queue(account).word
        rows = word.of(key, found.root_uid, found.slurm_ids) if word is not None else []
        is_latest = any(row.slurm_id == found.slurm_id for row in rows)
        if is_latest and all(row.stage is Stage.OVER for row in rows):
            return
        self._deadlines[key] = time.monotonic()
        try:
            await self._stop(key, account, found, sought(key, found), "KILL")
        finally:
            del self._deadlines[key]

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt, and leave a tombstone.

        Raises:
            Refusal: JOB_RUNNING, BUSY; and as for `cancel`.
        """
        key = AttemptKey.of(ref)
        await self._operations.run(("remove", key), lambda: self._remove(ref), on=key)

    async def _remove(self, ref: types_pb2.JobRef) -> None:
        key, account = AttemptKey.of(ref), self._jobs.sites.account(ref)
        host = account.host
        with as_refusals(ref):
            ended = self._jobs.ended(ref)
            if ended is not None and not ended.workdir and ended.status.allocations:
                # As nearly always: it has run, and nothing of it has to be looked at.
                await self._removals.of(host).remove(key, root_of(ref, host.node), bury=True)
                self._jobs.forget(key)
                return
            found = await self._jobs.look(ref)
            status = await self._jobs.judged(ref, found)
            if status and not status.HasField("end") and status.state != job_pb2.JOB_STATE_STAGED:
                raise errors.job_running(ref)
            await self._bury(ref, account)
            for end in self.on_cancel:
                await end(key, errors.job_cancelled(ref))
            if found.lasting.spec is None:
                # Inputs may have come meanwhile; since it has a tombstone no more do.
                found = await self._jobs.look(ref)
            elif found.given is None:
                await self._take_out(key, account, found)
            if found.lasting.workdir:
                await self._take_back(host, key)
            await self._removals.of(host).remove(key, root_of(ref, host.node), bury=False)
        self._jobs.forget(key)
