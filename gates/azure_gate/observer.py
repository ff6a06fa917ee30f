"""Looks at Azure again and again, once for all partitions, as often as something may change."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping

from gate_kit import Health, Refusal, errors
from gates.azure_gate.answers import Content, Group
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.sdk import AzureProblem

log = logging.getLogger(__name__)

_FAST_S = (0.5, 5.0)
"""While something is being made or deleted: at first, and at most."""
_GROWTH = 1.3
_CROWD_S = 0.2
_SPACING_S = 0.05
"""For each machine, from one look to the next: what is told of many takes long to read."""
_SLOW_S = 30.0
"""While partitions are there, and nothing of them should change."""
_IDLE_S = 60.0
"""While somebody watches and there is nothing to see."""
_AWAY_S = (1.0, 30.0)
"""After a look that failed: at first, and at most."""
_DARK_S = 20.0
"""What does not answer for so long is away."""
_SLOW_ANSWER_S = 5.0
"""An answer that has not come by then is told of."""
_ROUND_S = 30.0

Round = Callable[[Mapping[str, Group], Mapping[str, Content]], None]


class Observer:
    """Sees what is there, and what has become of it.

    Args:
        cloud: What is looked at.
        is_changing: Whether something is being made or deleted.
        is_there: Whether there are partitions.
    """

    def __init__(
        self, cloud: Cloud, is_changing: Callable[[], bool], is_there: Callable[[], bool]
    ) -> None:
        self.on_round: list[Round] = []
        """Called after each look with all groups that have our tag, and what groups hold."""
        self.on_dark: list[Callable[[Refusal], None]] = []
        """Called when Azure has not answered for a while."""
        self.on_watched: list[Callable[[], None]] = []
        """Called when somebody watches for the first time: the gate is in use."""
        self._watchers = 0
        self._was_watched = False
        self._cloud = cloud
        self._is_changing = is_changing
        self._is_there = is_there
        self._looking: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._refusal: Refusal | None = None
        self._asked, self._asked_at = "", 0.0
        """Who is being asked for a look, and since when; 0: nobody."""
        self._failed_since = 0.0
        self._is_dark = False
        self._seen_at = 0.0
        self._pause_s = _FAST_S[0]
        self._spacing_s = 0.0

    def open(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._follow(), name="looks at Azure")

    async def close(self) -> None:
        """Look no more."""
        tasks = [task for task in (self._task, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def watches(self) -> None:
        """One more watches."""
        self._watchers += 1
        if not self._was_watched:
            self._was_watched = True
            for told in self.on_watched:
                told()
        self._wanted.set()

    def watches_no_more(self) -> None:
        """One fewer watches."""
        self._watchers -= 1

    def hurry(self) -> None:
        """Something has changed, or is about to."""
        self._pause_s = _FAST_S[0]
        self._wanted.set()

    async def look(self, *, older_s: float = 0.0) -> None:
        """See all that is there now; who comes while somebody looks does not see less.

        Args:
            older_s: What was seen so many seconds ago is good enough.

        Raises:
            Refusal: SITE_UNREACHABLE, CREDENTIALS_INVALID, PERMISSION_MISSING.
        """
        if self._seen_at and time.monotonic() - self._seen_at < older_s:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="a look at Azure")
        try:
            await asyncio.shield(self._looking)
        except AzureProblem as problem:
            # Each who is told raises one of their own.
            raise problem.refusal from problem

    def health(self) -> Health:
        """How the site does, from memory.

        Raises:
            Refusal: As `look`.
        """
        if self._refusal is not None:
            refusal = self._refusal
            raise Refusal(refusal.code, refusal.reason, refusal.message)
        waits = self._waits()
        if not self._seen_at:
            return Health(ready=False, message=waits or "logs in to Azure")
        return Health(message=waits)

    def _waits(self) -> str:
        """Who has not answered for a while; empty: nobody keeps us waiting."""
        waited_s = time.monotonic() - self._asked_at
        if not self._asked_at or waited_s < _SLOW_ANSWER_S:
            return ""
        return f"{self._asked} has not answered for {waited_s:.0f} s"

    def _ask(self, whom: str) -> None:
        self._asked, self._asked_at = whom, time.monotonic()

    async def _look(self) -> None:
        began = time.monotonic()
        try:
            self._ask(self._cloud.authority)
            await self._cloud.log_in()
            self._ask(self._cloud.manager)
            groups = await self._cloud.groups()
            contents: Mapping[str, Content] = {}
            if groups:
                self._ask(self._cloud.manager)
                contents = await self._cloud.contents()
        except AzureProblem as problem:
            self._missed(problem.refusal, began)
            raise
        finally:
            self._asked_at = 0.0
        self._seen_at = time.monotonic()
        self._refusal, self._failed_since, self._is_dark = None, 0.0, False
        machines = sum(len(content.machines) for content in contents.values())
        self._spacing_s = min(machines * _SPACING_S, _FAST_S[1])
        by_name = {group.name.lower(): group for group in groups}
        for told in self.on_round:
            told(by_name, contents)

    def _missed(self, refusal: Refusal, began: float) -> None:
        now = time.monotonic()
        # It did not begin when we gave up.
        self._failed_since = self._failed_since or began
        if self._refusal is None or self._refusal.reason != refusal.reason:
            log.warning("Azure does not answer: %s", refusal.message)
        is_final = refusal.reason != "SITE_UNREACHABLE"
        if is_final or not self._seen_at or now - self._failed_since > _DARK_S:
            self._refusal = refusal
            if not self._is_dark:
                self._is_dark = True
                for told in self.on_dark:
                    told(errors.site_unreachable(refusal.message))

    async def _follow(self) -> None:
        away_s = _AWAY_S[0]
        while True:
            try:
                await self.look()
                away_s = _AWAY_S[0]
                pause_s = self._next_pause()
            except Refusal:
                pause_s = away_s
                away_s = min(away_s * 2, _AWAY_S[1])
            except Exception:
                # A mistake of ours must not leave everything as it was last seen.
                log.exception("Azure can't be looked at")
                pause_s = _AWAY_S[1]
            self._wanted.clear()
            try:
                async with asyncio.timeout(self._jittered(pause_s)):
                    await self._wanted.wait()
                    # Who hurries does so in crowds.
                    await asyncio.sleep(max(_CROWD_S, self._spacing_s))
            except TimeoutError:
                pass

    def _next_pause(self) -> float | None:
        if self._is_changing():
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * _GROWTH, _FAST_S[1])
            return max(pause_s, self._spacing_s)
        self._pause_s = _FAST_S[0]
        if self._is_there():
            return _SLOW_S
        return _IDLE_S if self._watchers else None

    @staticmethod
    def _jittered(seconds: float | None) -> float | None:
        return seconds and seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret  # nosec B311
