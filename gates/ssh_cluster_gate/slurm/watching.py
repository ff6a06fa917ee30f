"""Follows attempts: what they say of themselves, and what the queue says of them.

The script of a job leaves a file in one folder of the account when it begins and when it ends. The
folder is looked at often while there is something to be told, by one request for all jobs that
costs the login node no process. So it works on every file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from gate_kit import Operations, Refusal
from gates.ssh_cluster_gate.slurm.commands import Account
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.live import Live

log = logging.getLogger(__name__)

_TICK_S = (0.03, 0.2)
_SLOWER = 1.1
_HOT_S = 3.0
"""A free cluster starts a job that soon."""
_AWAY_S = 1.0
_LOOK_S = 0.5
"""Between two looks at attempts whose own word is awaited: the queue says that they are over, or
they have told that there is more to be seen."""
_BEHIND_S = 90.0
"""A network file system may hide for a while what is new. NFS does for a minute at most (nfs(5),
acdirmax); for what hides it longer nobody waits."""
_EACH_S = 30.0
"""Everything that lives is looked at so often: an event may be lost with a link."""


class SlurmWatching:
    """Has every change told.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the looking.
    """

    def __init__(self, jobs: SlurmAttempts, operations: Operations) -> None:
        self._jobs = jobs
        self._operations = operations
        self._wanted: dict[Account, asyncio.Event] = {}

    def open(self) -> None:
        """Begin."""
        self._jobs.on_live.append(self._on_live)

    def _on_live(self, account: Account) -> None:
        event = self._wanted.get(account)
        if event is None:
            event = self._wanted[account] = asyncio.Event()
            self._operations.spawn(self._follow(account, event), f"jobs at {account.host.node}")
        event.set()

    async def _follow(self, account: Account, wanted: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        tick_s, is_away = _TICK_S[0], True
        looked_at = all_at = loop.time()
        while True:
            lives = {
                live.key.name: live for live in self._jobs.live.values() if live.account is account
            }
            if not lives:
                wanted.clear()
                await wanted.wait()
                tick_s = _TICK_S[0]
                continue
            try:
                due = self._told(await account.events(), lives)
                now, now_s = loop.time(), time.monotonic()
                if is_away or now - all_at > _EACH_S:
                    due = list(lives.values())
                    all_at = now
                elif now - looked_at > _LOOK_S:
                    looked_at = now
                    due += [each for each in lives.values() if _is_late(each, now_s)]
                await self._jobs.look_again(account, list(dict.fromkeys(due)))
                is_away = False
                is_hot = due or any(now_s - each.since < _HOT_S for each in lives.values())
                tick_s = _TICK_S[0] if is_hot else min(tick_s * _SLOWER, _TICK_S[1])
                wait_s = tick_s
            except Refusal as refusal:
                log.info("%s: %s", account.host.node, refusal.message)
                is_away, wait_s = True, _AWAY_S
            except Exception:
                # A mistake of ours must not end the looking.
                log.exception("%s: jobs cannot be looked at", account.host.node)
                is_away, wait_s = True, _AWAY_S
            wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await wanted.wait()
                    tick_s = _TICK_S[0]
                    await asyncio.sleep(tick_s)

    def _told(self, events: list[str], lives: dict[str, Live]) -> list[Live]:
        """The attempts that have told something. Everybody in the account can write there."""
        found = []
        for event in events:
            match event.rsplit(",", 2):
                case [name, _, "begun" | "ended" as what] if name in lives:
                    live = lives[name]
                    live.said, live.said_at = what, time.monotonic()
                    found.append(live)
                    self._jobs.queue(live.account).poke()
        return found


def _is_late(live: Live, now_s: float) -> bool:
    """Whether what an attempt has written is known to be there, or may be, and is not seen yet."""
    is_behind = now_s - live.said_at < _BEHIND_S and live.shows_less_than_said
    return is_behind or live.over is not None or live.ended_at is not None
