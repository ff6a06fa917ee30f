"""The queue's word: one squeue for all jobs of an account, as often as it is worth it.

While something changes it is asked once a second, and ever less often while nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from gate_kit import Refusal, errors
from gates.ssh_cluster_gate.slurm import queue, unseen
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.judgement import Missing
from gates.ssh_cluster_gate.slurm.pace import LEAST_S, Pace
from gates.ssh_cluster_gate.slurm.queue import Row, Sought, Word
from gates.ssh_cluster_gate.slurm.unseen import Unseen

log = logging.getLogger(__name__)

_SLOWER = 1.5
_AGAIN_S = 2.0


class Queue:
    """What one account knows of the queue.

    Args:
        account: Whose.
        pace: That of the site.
        slowest_s: Seconds between two questions while nothing changes.
        on_word: Called after each answer, with whether anything in it changed.
        is_wanted: Whether anybody has jobs that the queue may tell of.
    """

    def __init__(
        self,
        account: Account,
        pace: Pace,
        slowest_s: float,
        on_word: Callable[[], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        self.word: Word | None = None
        """What was said last; None before the first answer."""
        self.refusal: Refusal | None = None
        """Why there was no answer to the last question."""
        self._account = account
        self._pace = pace
        self._slowest_s = slowest_s
        self._on_word = on_word
        self._is_wanted = is_wanted
        self._pause_s = LEAST_S
        self._poked = asyncio.Event()
        self._answered = asyncio.Condition()
        self._unseen = Unseen(account, pace, self.poke)

    def poke(self) -> None:
        """Something has changed, or will: ask soon."""
        self._pause_s = LEAST_S
        self._poked.set()

    async def fresh(self, within_s: float = 30.0) -> Word:
        """What the queue says to a question that was put after this was called.

        Raises:
            Refusal: SITE_UNREACHABLE, NODE_UNREACHABLE.
        """
        since = time.monotonic()
        self.poke()
        try:
            async with asyncio.timeout(within_s), self._answered:
                while self.word is None or self.word.asked_at < since:
                    await self._answered.wait()
                    if self.refusal is not None:
                        raise self.refusal
        except TimeoutError:
            raise errors.site_unreachable("squeue does not answer") from None
        return self.word

    def missing(self, sought: Sought) -> Row | Missing | None:
        """What is known of a job that is in no row with its name.

        Returns:
            A row of its own; that nobody knows it; or None: nothing yet, and it is asked for.
        """
        row = self.word.rows.get(sought.slurm_id) if self.word else None
        if row is not None and sought.may_be(row):
            return row
        return self._unseen.said(sought)

    def waits_for_accounts(self, sought: Sought) -> bool:
        """Whether the controller does not know a job, and accounts do not answer."""
        return self._unseen.waits_for_accounts(sought)

    async def found_out(self, sought: Sought, within_s: float = 30.0) -> Row | Missing:
        """What is said of a job that is in no row, now.

        Raises:
            Refusal: SITE_UNREACHABLE, NODE_UNREACHABLE: nobody knows.
        """
        since = time.monotonic()
        said: Row | Missing | None = None
        self._unseen.hurry(sought)
        self.poke()
        try:
            async with asyncio.timeout(within_s), self._answered:
                while (said := self.missing(sought)) is None:
                    if self._unseen.asked_at(sought) > since:
                        break
                    await self._answered.wait()
                    if self.refusal is not None:
                        raise self.refusal
        except TimeoutError:
            pass
        if said is None:
            raise errors.site_unreachable("nobody says whether Slurm still knows the job")
        return said

    async def follow(self) -> None:
        """Ask, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s if self._is_wanted() else None):
                    await self._poked.wait()
            self._poked.clear()
            await self._pace.wait(self._account)
            try:
                await self._ask()
            except Refusal as refusal:
                if self.refusal is None:
                    log.warning("the queue does not answer: %s", refusal.message)
                self.refusal = refusal
                self._pause_s = _AGAIN_S
            except Exception as error:
                # A mistake of ours must not end the asking.
                log.exception("the queue cannot be asked")
                self.refusal = errors.site_unreachable(f"the gate cannot ask the queue: {error}")
                self._pause_s = _AGAIN_S
            await self._tell()

    async def _ask(self) -> None:
        asked_at = time.monotonic()
        # The user is who asks. Only a verbose one says of how many jobs it was told.
        user = (await self._account.host.open()).user
        lines = await self._account.ask(*queue.SQUEUE, "-v", "-u", user)
        rows = queue.read_squeue(lines)
        before = self.word.rows if self.word else {}
        slower_s = min(self._pause_s * _SLOWER, self._slowest_s)
        self._pause_s = LEAST_S if rows != before else slower_s
        self.word = Word(asked_at, rows, is_whole=queue.read_count(lines) == len(rows))
        self.refusal = None
        self._on_word()
        await self._tell()
        if await self._unseen.ask(self.word):
            self._pause_s = LEAST_S
            self._on_word()
        elif self._unseen.is_open:
            self._pause_s = min(self._pause_s, unseen.AGAIN_S)

    async def _tell(self) -> None:
        async with self._answered:
            self._answered.notify_all()
