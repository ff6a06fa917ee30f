"""Jobs that are in no row of squeue: what became of them, found out for all of them together.

A missing row says nothing by itself. It does where squeue has a row for each job that the
controller has told it of: what is in none the controller does not know. Where rows are fewer, jobs
are asked for by their ids, one with each word of the queue: of a single id squeue says that there
is no such job, of several it leaves that one out silently. What the controller does not know
accounts may, and one sacct asks them for all.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

from gate_kit import Refusal
from gates.ssh_cluster_gate.slurm import queue
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.judgement import Missing
from gates.ssh_cluster_gate.slurm.pace import Pace
from gates.ssh_cluster_gate.slurm.queue import Row, Sought, Stage, Word

log = logging.getLogger(__name__)

AGAIN_S = 10.0
"""After so long who has not answered is asked again."""
_KNOWN_S = 60.0
"""How long it holds that Slurm knows a job that is in no row."""
_UNWANTED_S = 120.0
"""What nobody has wanted to know for so long is not looked for any more."""
_MOST = 500
"""Ids in one command."""


@dataclasses.dataclass(slots=True)
class _Search:
    noted_at: float
    """A word has to be later than this to count."""
    wanted_at: float
    said: Row | Missing | None = None
    is_unknown: bool = False
    """Whether the controller has said that it knows no such job."""
    asked_at: float = 0.0
    """When somebody was last asked for this one, whatever the answer."""
    due_at: float = 0.0
    """Not before then it is asked for by its id."""

    def not_known(self) -> None:
        """The controller knows no such job."""
        self.is_unknown, self.said = True, None

    @property
    def is_over(self) -> bool:
        """Whether what was said of it stays so."""
        return isinstance(self.said, Missing) or (
            self.said is not None and self.said.stage is Stage.OVER
        )


class Unseen:
    """The jobs of an account that are in no row.

    Args:
        account: Whose.
        pace: That of the site.
        on_new: Called when there is a job more to be found out about.
    """

    def __init__(self, account: Account, pace: Pace, on_new: Callable[[], None]) -> None:
        self._account = account
        self._pace = pace
        self._on_new = on_new
        self._of: dict[Sought, _Search] = {}
        self._has_accounts: bool | None = None
        self._are_accounts_away = False
        self._accounts_due_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there is one of which nobody has said anything."""
        return any(search.said is None for search in self._of.values())

    def said(self, sought: Sought) -> Row | Missing | None:
        """What is known of a job that is in no row.

        Returns:
            A row of its own; that nobody knows it; or None: nothing yet, and it is asked for.
        """
        now = time.monotonic()
        search = self._of.get(sought)
        if search is None:
            search = self._of[sought] = _Search(now, now)
            self._on_new()
        search.wanted_at = now
        return search.said

    def waits_for_accounts(self, sought: Sought) -> bool:
        """Whether the controller does not know a job, and accounts do not answer."""
        search = self._of.get(sought)
        return self._are_accounts_away and search is not None and search.is_unknown

    def hurry(self, sought: Sought) -> None:
        """Have a job asked for soon, whatever was known of it until now."""
        now = time.monotonic()
        search = self._of.setdefault(sought, _Search(now, now))
        search.wanted_at = now
        if not search.is_over:
            search.said, search.noted_at, search.due_at = None, now, -1.0  # before all others

    def asked_at(self, sought: Sought) -> float:
        """When somebody was last asked for a job, by the monotonic clock."""
        search = self._of.get(sought)
        return search.asked_at if search is not None else 0.0

    async def ask(self, word: Word) -> bool:
        """Find out what can be by a new word of the queue, and one question more to each.

        Returns:
            Whether anything is known now that was not.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        now = time.monotonic()
        for sought, search in list(self._of.items()):
            row = word.rows.get(sought.slurm_id)
            is_back = row is not None and sought.may_be(row)
            if is_back or search.wanted_at < now - _UNWANTED_S:
                del self._of[sought]
        rest = [
            sought
            for sought, search in self._of.items()
            if not search.is_over and not search.is_unknown and search.noted_at < word.asked_at
        ]
        has_news = False
        if word.is_whole:
            for sought in rest:
                self._of[sought].not_known()
        else:
            due = [sought for sought in rest if self._of[sought].due_at <= now]
            if due:
                has_news = await self._ask_one(min(due, key=lambda each: self._of[each].due_at))
        unknown = [
            sought
            for sought, search in self._of.items()
            if search.is_unknown and not search.is_over
        ]
        return await self._end(unknown[:_MOST]) or has_news

    async def _ask_one(self, sought: Sought) -> bool:
        """Ask for one job by its id: of what it does not know squeue says so only alone."""
        search = self._of[sought]
        await self._pace.wait(self._account)
        answer = await self._account.command(*queue.SQUEUE, "-j", sought.slurm_id)
        search.asked_at = time.monotonic()
        search.due_at = search.asked_at + AGAIN_S
        row = queue.read_squeue(answer.lines).get(sought.slurm_id)
        if answer.code == 0 and row is not None:
            before = search.said
            if sought.may_be(row):
                search.said, search.due_at = row, search.asked_at + _KNOWN_S
            else:
                search.not_known()  # another job has its id now
            return search.said != before
        # Nothing else says that there is no such job: no other error, and no answer without it.
        if answer.code != 0 and "invalid job id" in answer.text.lower():
            search.not_known()
        return False

    async def _end(self, unknown: Sequence[Sought]) -> bool:
        """Let accounts say how jobs ended that the controller does not know."""
        now = time.monotonic()
        if not unknown or now < self._accounts_due_at:
            return False
        try:
            rows = await self._in_accounts(unknown)
        except Refusal as refusal:
            if not self._are_accounts_away:
                log.warning("accounts do not answer: %s", refusal.message)
            has_news = not self._are_accounts_away
            self._are_accounts_away = True
            self._accounts_due_at = time.monotonic() + AGAIN_S
            for sought in unknown:
                self._of[sought].asked_at = time.monotonic()
            return has_news
        self._are_accounts_away = False
        for sought in unknown:
            row = rows.get(sought.slurm_id)
            # What they say of a job that the controller has lost changes only if it is over.
            is_told = row is not None and row.name == sought.name and row.stage is Stage.OVER
            self._of[sought].said = row if is_told else Missing.UNKNOWN
            self._of[sought].asked_at = time.monotonic()
        return True

    async def _in_accounts(self, unknown: Sequence[Sought]) -> dict[str, Row]:
        if self._has_accounts is None:
            lines = await self._account.ask("scontrol", "show", "config")
            kinds = [line for line in lines if line.startswith("AccountingStorageType")]
            kind = kinds[0].partition("=")[2].strip() if kinds else ""
            self._has_accounts = queue.has_accounts(kind)
        if not self._has_accounts:
            return {}
        ids = ",".join(sought.slurm_id for sought in unknown)
        words = ("sacct", "-n", "-P", "-X", "-j", ids, "-o", queue.SACCT_FORMAT)
        return queue.read_sacct(await self._account.ask(*words))
