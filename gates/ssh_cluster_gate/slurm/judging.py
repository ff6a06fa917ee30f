"""How attempts at a Slurm site are, by their folders and by the queue's word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gates.ssh_cluster_gate.slurm import judgement
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.evidence import Evidence
from gates.ssh_cluster_gate.slurm.judgement import Judged, Missing
from gates.ssh_cluster_gate.slurm.live import Live, sought
from gates.ssh_cluster_gate.slurm.queue import Row, Stage
from gates.ssh_cluster_gate.slurm.words import Queue

_LATE_S = 5.0
"""A network file system may show what was written only after a while; and a submission whose answer
was lost may come late."""
_SOON_S = 0.5


class Judging:
    """Asks for what is lacking to judge an attempt, and writes down ends that may be forgotten.

    Args:
        queue_of: What an account knows of the queue.
        warnings: What was done otherwise than asked, by attempts.
        fuse_cache_s: How long a file system in user space may show a file as it was.
    """

    def __init__(
        self,
        queue_of: Callable[[Account], Queue],
        warnings: Mapping[AttemptKey, tuple[str, ...]],
        fuse_cache_s: float,
    ) -> None:
        self._queue_of = queue_of
        self._warnings = warnings
        self._fuse_cache_s = fuse_cache_s

    async def judge(self, live: Live, *, is_settled: bool = False) -> Judged:
        """An attempt that was looked at, as it is now.

        Args:
            live: The attempt.
            is_settled: Whether nothing of it runs, and all that it wrote can be seen by now.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        assert live.found is not None  # noqa: S101 - for the type only: it was looked at
        if live.found.ends and live.ended_at is None:
            live.ended_at = live.looked_at
        is_whole = is_settled or await self._is_whole(live)
        row = self._row(live)
        if row is Missing.UNASKED and not is_told(live.found):
            row = await self._missing(live) or row
        if isinstance(row, Row) and row.stage is not Stage.OVER:
            live.over = None
        elif row is not Missing.UNASKED and live.over != row:
            live.over, live.over_since = row, time.monotonic()
        if live.over is not None:
            late_s = _SOON_S if isinstance(row, Row) and row.why else _LATE_S
            late_s += await self._cache_s(live.account)
            is_settled = is_settled or live.looked_at > live.over_since + late_s
        if live.over is not None and live.log_reason is None and live.found.is_logged:
            live.log_reason = await live.account.log_reason(live.key.path)
        judged = judgement.judge(
            live.found,
            row,
            is_starting=live.is_starting,
            text=live.text,
            is_settled=is_settled,
            is_whole=is_whole,
            log_reason=live.log_reason or "",
            warnings=self._warnings.get(live.key, ()),
            now_ns=time.time_ns(),
        )
        if judged.settle is not None:
            end = judged.settle
            await live.account.settle(live.key.path, end.kind, end.value)
            again = await self._reread(live)
            if again is not None:
                judged = judgement.judge(
                    again, row, warnings=self._warnings.get(live.key, ()), now_ns=time.time_ns()
                )
        return judged

    async def until_shown(self, account: Account) -> None:
        """Wait until all that compute nodes have written by now can be seen on the login node.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        await asyncio.sleep(await self._cache_s(account))

    def _row(self, live: Live) -> Row | Missing:
        """The queue's last word on an attempt."""
        found, word = live.found, self._queue_of(live.account).word
        if word is not None and found is not None:
            rows = word.of(live.key, found.root_uid, found.slurm_ids)
            wanted = found.given.slurm_id if found.given else found.slurm_id
            chosen = [row for row in rows if row.slurm_id == wanted] if wanted else []
            if not found.given and (not chosen or chosen[0].stage is Stage.OVER):
                # One whose answer was lost may be on its way still.
                chosen = [row for row in rows if row.stage is not Stage.OVER] or chosen or rows
            if chosen:
                return chosen[-1]
        return live.over if live.over is not None else Missing.UNASKED

    async def _is_whole(self, live: Live) -> bool:
        """Whether what an attempt wrote until its end can be seen on the login node by now."""
        if live.ended_at is None:
            return True
        return live.looked_at >= live.ended_at + await self._cache_s(live.account)

    async def _cache_s(self, account: Account) -> float:
        """How long the login node may show a file as it was, also one that is opened anew."""
        return self._fuse_cache_s if "fuse" in await account.filesystem() else 0.0

    async def _reread(self, live: Live) -> Evidence | None:
        root = root_of(live.ref, live.account.host.node)
        found = await live.account.glance(live.key.path, root, live.lasting)
        if found.refused or not found.exists:
            return None
        live.found, live.looked_at = found, time.monotonic()
        return found

    async def _missing(self, live: Live) -> Row | Missing | None:
        """What to make of an attempt that is in no row; None: nothing yet.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        word, found = self._queue_of(live.account).word, live.found
        if word is None or found is None or live.is_starting:
            return None
        if word.asked_at < live.since + (0.0 if found.slurm_id else _LATE_S):
            return None
        job = sought(live.key, found)
        if job is None:
            return Missing.UNKNOWN
        queue = self._queue_of(live.account)
        said = queue.missing(job)
        if said is None and queue.waits_for_accounts(job) and found.is_logged:
            # They may be away for long, and Slurm's own log is here.
            live.log_reason = live.log_reason or await live.account.log_reason(live.key.path)
            return Missing.UNKNOWN if live.log_reason else None
        return said


def is_told(found: Evidence) -> bool:
    """Whether the end is known without the queue."""
    status = judgement.judge(found, Missing.UNASKED).status
    return status is not None and status.HasField("end")
