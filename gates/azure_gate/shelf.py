"""Something that is asked of the site now and then, kept on disk, and served while it is asked for.

What is known is served at once, however old; it is asked for anew before it is too old. When the
site does not answer, what was known stays, and one line of the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from gate_kit import Refusal, errors
from gates.azure_gate.cache import Cache, Kept

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_S = 300.0
"""How often the clock is looked at."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the site is asked, in seconds."""

    fresh_s: float = 6 * 3_600.0
    """What is older is asked for anew."""
    first_retry_s: float = 30.0
    """After a failure; the pause doubles"""
    longest_retry_s: float = 900.0
    """up to this."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a value becomes items of JSON, and back."""

    dump: Callable[[T], list[Mapping[str, Any]]]
    load: Callable[[list[Mapping[str, Any]]], T]
    """Raises KeyError, TypeError or ValueError for items that are none."""


class Shelf(Generic[T]):
    """One kind of thing, of one location. Serves between `open` and `close`."""

    def __init__(
        self,
        kind: str,
        location: str,
        ask: Callable[[str], Awaitable[T]],
        form: Form[T],
        cache: Cache,
        pace: Pace,
    ) -> None:
        """Nothing is asked for before `open`.

        Args:
            kind: What it is called in the cache and the log, as "skus".
            location: Where.
            ask: Asks the site for that of a location. A Refusal says why it could not.
            form: How it is kept.
            cache: Where.
            pace: How often.
        """
        self._kind = kind
        self._location = location
        self._ask = ask
        self._form = form
        self._cache = cache
        self._pace = pace
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self.value: T | None = None
        """What is known."""
        self.fetched_at: datetime.datetime | None = None
        """When the site said so."""
        self.problem: Refusal | None = None
        """Why it could not be asked for the last time; None: it could."""

    def open(self) -> None:
        """Read the cache, and keep asking from now on."""
        kept = self._cache.load(self._kind, self._location)
        if kept is not None:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self._take(self._form.load(kept.items), kept.fetched_at)
        self._task = asyncio.create_task(self._run(), name=f"{self._kind} of {self._location}")

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writing is not None:
            await self._writing

    async def settled(self, within_s: float) -> None:
        """Wait until something is known or the first try has failed, or for that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._tried.wait()

    async def _run(self) -> None:
        pause_s = self._pace.first_retry_s
        while True:  # until it is cancelled
            await self._turn_old()
            try:
                value = await self._asked()
            except Refusal as refusal:
                self._failed(refusal)
                # Not all gates of a site at once.
                await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311  # nosec B311
                pause_s = min(pause_s * 2, self._pace.longest_retry_s)
                continue
            if self.problem is not None and self.value is not None:
                log.info("%s of %s: known again", self._kind, self._location)
            now = datetime.datetime.now(datetime.UTC)
            self.problem = None
            self._take(value, now)
            kept = Kept(self._form.dump(value), now)
            writing = asyncio.to_thread(self._cache.keep, self._kind, self._location, kept)
            self._writing = asyncio.create_task(writing)
            # Who closes us waits for it, and does not cut it.
            await asyncio.shield(self._writing)
            pause_s = self._pace.first_retry_s

    async def _asked(self) -> T:
        try:
            return await self._ask(self._location)
        except Refusal:
            raise
        except Exception:
            # A mistake of ours: what is known goes on to count, and the next try may do better.
            log.exception("%s of %s can't be asked for", self._kind, self._location)
            text = f"asking for {self._kind} of {self._location} failed; the gate's log says how"
            raise errors.site_unreachable(text) from None

    async def _turn_old(self) -> None:
        """Wait until what is known is too old, by the wall: a laptop may have slept."""
        fresh_s = self._pace.fresh_s * random.uniform(0.8, 1.0)  # noqa: S311  # nosec B311
        while self.fetched_at is not None:
            age = datetime.datetime.now(datetime.UTC) - self.fetched_at
            left_s = fresh_s - age.total_seconds()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, _LOOK_S))

    def _take(self, value: T, fetched_at: datetime.datetime) -> None:
        self.value = value
        self.fetched_at = fetched_at
        self._tried.set()

    def _failed(self, refusal: Refusal) -> None:
        if self.problem is None:
            what = "nothing is known yet"
            if self.fetched_at is not None:
                what = f"what was known at {self.fetched_at:%Y-%m-%d %H:%M} UTC goes on to count"
            log.warning("%s of %s: %s; %s", self._kind, self._location, refusal.message, what)
        self.problem = refusal
        self._tried.set()
