"""Learns of changes of attempts on hosts.

A runner tells of its claim and its end on a pipe that the gate reads (`Host.on_event`). Where that
can't be, and for what a runner can't tell because it was killed, the attempts that are not known to
have ended are looked at now and then, all those of a host in one request.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from collections.abc import Sequence

from gate_kit import Operations, Refusal, job_status
from gate_kit.ssh import evidence
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import Jobs
from gate_kit.ssh.layout import AttemptKey
from skyport.gate.v1 import types_pb2

log = logging.getLogger(__name__)

_LookedAt = AttemptKey | tuple[Host, str]
"""An attempt; or an account and a path there, where its owner is not known yet."""

_PATH = re.compile(r"[A-Za-z0-9._-]{1,64}/[a-z0-9]{1,40}/[a-z0-9-]{1,40}\.[0-9]{1,10}", re.ASCII)
_SCAN_S = (1.0, 10.0)
"""How often attempts are looked at: where runners can't tell of themselves, and where they can."""
_CLAIM_WITHIN_S = 30.0
"""A runner that has not claimed after so long never will."""


class Watching:
    """Has every change told.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the looking.
    """

    def __init__(self, jobs: Jobs, operations: Operations) -> None:
        self._jobs = jobs
        self._known = jobs.known
        self._operations = operations
        self._looking: dict[_LookedAt, bool] = {}
        """Attempts that are being looked at; whether they changed again meanwhile."""
        jobs.sites.on_made.append(self._on_host)

    def open(self) -> None:
        """Begin to look at attempts now and then."""
        self._operations.spawn(self._scan(), "scan of attempts")

    def _on_host(self, host: Host) -> None:
        host.on_event.append(functools.partial(self._on_event, host))

    def _on_event(self, host: Host, path: str) -> None:
        if not path:
            # Something may have been missed while nobody listened.
            self._operations.spawn(self._scan_host(host), f"scan of {host.node}")
            return
        if not _PATH.fullmatch(path):
            return  # everybody in the account can write to the pipe
        ref = self._known_ref(host, path)
        looked_at = AttemptKey.of(ref) if ref is not None else (host, path)
        if looked_at in self._looking:
            self._looking[looked_at] = True
            return
        self._looking[looked_at] = False
        self._operations.spawn(self._changed(host, path, looked_at), f"change of {path}")

    async def _changed(self, host: Host, path: str, looked_at: _LookedAt) -> None:
        """Tell an attempt anew, and once more if it changed meanwhile."""
        try:
            while True:
                self._looking[looked_at] = False
                ref = self._known_ref(host, path) or await self._asked_ref(host, path)
                if ref is not None:
                    await self._jobs.publish(ref)
                if not self._looking[looked_at]:
                    return
        except Refusal as refusal:
            log.info("%s: %s", path, refusal.message)
        finally:
            del self._looking[looked_at]

    def _known_ref(self, host: Host, path: str) -> types_pb2.JobRef | None:
        """The attempt with this path whose owner has this account."""
        for key in self._known.at(path):
            lasting = self._known.lasting(key)
            ref = self._known.live.get(key) or (lasting and lasting.spec and lasting.spec.ref)
            if ref and host in self._reached(ref):
                return ref
        return None

    async def _asked_ref(self, host: Host, path: str) -> types_pb2.JobRef | None:
        """The same, by what lies there."""
        on_host = evidence.read_status(host.node, await host.ask("status", path, "", "all"))
        ref = evidence.told_ref(on_host.lasting)
        is_own = ref is not None and AttemptKey.of(ref).path == path and host in self._reached(ref)
        return ref if is_own else None

    async def _scan(self) -> None:
        last: dict[Host, float] = {}
        while True:
            await asyncio.sleep(_SCAN_S[0])
            now = time.monotonic()
            hosts = {host for ref in list(self._known.live.values()) for host in self._reached(ref)}
            last = {host: at for host, at in last.items() if host in hosts}
            due = [
                host
                for host in hosts
                if now - last.get(host, 0.0) >= _SCAN_S[1 if host.is_listening else 0]
            ]
            for host in due:
                last[host] = now
            await asyncio.gather(*(self._scan_host(host) for host in due))

    def _reached(self, ref: types_pb2.JobRef) -> Sequence[Host]:
        try:
            return self._jobs.sites.hosts(ref)
        except Refusal:
            return ()

    async def _scan_host(self, host: Host) -> None:
        """Look at the attempts of a host that are not known to have ended."""
        refs = {
            key.path: (key, ref)
            for key, ref in self._known.live.items()
            if host in self._reached(ref) and host.node in self._known.nodes(ref)
        }
        if not refs:
            return
        try:
            reply = await host.ask("scan", *refs)
        except Refusal:
            return  # discovery tells
        for line in reply.lines:
            path, _, state = line.partition(" ")
            key, ref = refs[path]
            # A claim that nobody has told of: it was made while nobody listened.
            if state == "alive" and self._known.sent_for_s(key, host.node) is None:
                continue
            try:
                if state == "none":
                    await self._late(host, key)
                await self._jobs.publish(ref)
            except Refusal as refusal:
                log.info("%s: %s", path, refusal.message)
            except Exception:
                # A mistake of ours about one must not end the looking at all others.
                log.exception("%s cannot be looked at", path)

    async def _late(self, host: Host, key: AttemptKey) -> None:
        """End what no runner has claimed: it had no space for it, or no shell to run it."""
        sent_for_s = self._known.sent_for_s(key, host.node)
        if sent_for_s is not None and sent_for_s > _CLAIM_WITHIN_S:
            self._known.arrived(key, host.node)
            await host.ask("end", key.path, job_status.START_FAILED, "unstarted", "none")
