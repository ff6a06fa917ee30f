"""The queue's word: one squeue for all jobs of an account, as often as it is worth it.

While something changes it is asked once a second, and ever less often while nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping

from gate_kit import Refusal, errors
from gate_kit.ssh.layout import AttemptPath
from gates.ssh_cluster_gate.slurm import queue, sbatch
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.queue import Row, Stage

log = logging.getLogger(__name__)

_SLOWER = 1.5
_AGAIN_S = 2.0
LEAST_S = 1.0
"""Between two squeue of an account."""
_MOST_A_SECOND = 5
"""Of all accounts of a site."""


class Pace:
    """Keeps the squeue of each account, and those of all accounts of a site, apart."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._last = 0.0
        self._of: dict[Account, float] = {}

    async def wait(self, account: Account) -> None:
        """Wait for the turn of an account."""
        await _until(self._of.get(account, 0.0) + LEAST_S)
        self._of[account] = time.monotonic()
        async with self._turn:
            # Where many wait, some a second are asked, so that no cancel waits for all others.
            await _until(self._last + LEAST_S / min(len(self._of), _MOST_A_SECOND))
            self._last = self._of[account] = time.monotonic()


async def _until(at: float) -> None:
    rest_s = at - time.monotonic()
    if rest_s > 0:
        await asyncio.sleep(rest_s)


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """All that the queue has said, at one time."""

    asked_at: float
    """By the monotonic clock: when the question was put."""
    rows: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    """By Slurm's ids."""

    def of(self, key: AttemptPath, root_uid: str, known: Collection[str] = ()) -> list[Row]:
        """The rows of one attempt, the latest last.

        Args:
            key: The attempt.
            root_uid: Where it lies.
            known: The ids under which it was submitted, as far as that is known.
        """
        found = [row for row in self.rows.values() if is_of(row, key, root_uid, known)]
        return sorted(found, key=lambda row: int(row.slurm_id))


def is_of(row: Row, key: AttemptPath, root_uid: str, known: Collection[str]) -> bool:
    """Whether a row is one of an attempt; as for `Word.of`.

    A site may take comments away, and a job may change its own, or its name. An id alone says
    nothing: a queue that has begun anew gives it to somebody else.
    """
    if row.comment == sbatch.comment(key, root_uid):
        return True
    is_named = row.name == sbatch.job_name(key)
    return is_named and (not row.comment or row.slurm_id in known)


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
        self.has_accounting: bool | None = None
        self._account = account
        self._pace = pace
        self._slowest_s = slowest_s
        self._on_word = on_word
        self._is_wanted = is_wanted
        self._pause_s = LEAST_S
        self._poked = asyncio.Event()
        self._answered = asyncio.Condition()

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

    async def follow(self) -> None:
        """Ask, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s if self._is_wanted() else None):
                    await self._poked.wait()
            self._poked.clear()
            await self._pace.wait(self._account)
            asked_at = time.monotonic()
            try:
                rows = await self._rows()
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
            else:
                before = self.word.rows if self.word else {}
                has_changed = rows != before
                self.word, self.refusal = Word(asked_at, rows), None
                slower_s = min(self._pause_s * _SLOWER, self._slowest_s)
                self._pause_s = LEAST_S if has_changed else slower_s
                self._on_word()
            async with self._answered:
                self._answered.notify_all()

    async def _rows(self) -> dict[str, Row]:
        # All states: what has ended stays a while, and says how. The user is who asks.
        user = (await self._account.host.open()).user
        words = ("squeue", "-h", "-a", "-t", "all", "-u", user, "-o", queue.SQUEUE_FORMAT)
        return queue.read_squeue(await self._account.ask(*words))

    async def find(self, slurm_id: str) -> Row | None:
        """A job that is in no row any more; None if the queue itself says that it knows none.

        Raises:
            Refusal: SITE_UNREACHABLE: nobody knows.
        """
        words = ("squeue", "-h", "-t", "all", "-j", slurm_id, "-o", queue.SQUEUE_FORMAT)
        answer = await self._account.command(*words)
        if answer.code == 0:
            rows = queue.read_squeue(answer.lines)
            if slurm_id in rows:
                return rows[slurm_id]
        if answer.code == 0 or "invalid job id" not in answer.text.lower():
            # Only its own word that there is no such job means that.
            raise errors.site_unreachable(f"squeue failed: {answer.text or 'it took too long'}")
        return await self._in_accounts(slurm_id)

    async def _in_accounts(self, slurm_id: str) -> Row | None:
        if self.has_accounting is None:
            lines = await self._account.ask("scontrol", "show", "config")
            kinds = [line for line in lines if line.startswith("AccountingStorageType")]
            kind = kinds[0].partition("=")[2].strip() if kinds else ""
            self.has_accounting = queue.has_accounts(kind)
        if not self.has_accounting:
            return None
        words = ("sacct", "-n", "-P", "-X", "-j", slurm_id, "-o", queue.SACCT_FORMAT)
        row = queue.read_sacct(await self._account.ask(*words)).get(slurm_id)
        # What accounts say of a job that the controller has lost never changes any more.
        return row if row is not None and row.stage is Stage.OVER else None
