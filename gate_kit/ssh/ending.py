"""The end of attempts on hosts: cancelled for good, or removed without a trace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gate_kit import Operations, Refusal, errors, job_status, launching
from gate_kit.job_status import Phase
from gate_kit.ssh import evidence
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.evidence import OnHost
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import Jobs, count_alive, root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.removals import Removals
from skyport.gate.v1 import job_pb2, types_pb2

_LOOK_S = (0.02, 0.5)
"""How long to wait before looking again whether something has gone: at first, and at most."""


class Ending:
    """Ends and removes attempts.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the mutations.
        take_back: Takes what was put into a folder of the user's own away again.
    """

    def __init__(
        self,
        jobs: Jobs,
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
            Refusal: NODE_UNREACHABLE, SITE_CHANGED, USER_NOT_MAPPED, PARTITION_NOT_FOUND: not
                confirmed.
        """
        key = AttemptKey.of(ref)
        hosts = self._jobs.sites.hosts(ref)
        # The tombstone first, then what is under way: it must not hold up what ends it.
        with as_refusals(ref):
            reached, away = await self._bury(ref, hosts)
            if away is not None and not reached:
                raise away
        refusal = errors.job_cancelled(ref)
        self._operations.interrupt(refusal, "start", key)
        for end in self.on_cancel:
            await end(key, refusal)
        if grace_s is not None and key in self._deadlines:
            until = asyncio.get_running_loop().time() + grace_s
            self._deadlines[key] = min(self._deadlines[key], until)
        return await self._operations.run(
            ("cancel", key), lambda: self._cancel(ref, hosts, grace_s), on=key
        )

    async def _cancel(
        self, ref: types_pb2.JobRef, hosts: Sequence[Host], grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        key = AttemptKey.of(ref)
        with as_refusals(ref):
            # Once more: a start that was under way is over now, and may have left its spec.
            reached, away = await self._bury(ref, hosts)
            if away is None:
                on_hosts = await self._jobs.look(ref)
            else:
                # What does not answer keeps nothing alive on the others.
                looks = (self._jobs.look_at(ref, host) for host in reached)
                on_hosts = await asyncio.gather(*looks)
            spec = next((each.spec for each in on_hosts if each.spec), None)
            gone = {each.node for each in on_hosts if not each.exists}
            if spec is not None or gone:
                if grace_s is None:
                    grace_s = launching.grace_s(spec.spec) if spec else launching.GRACE_S
                self._deadlines[key] = asyncio.get_running_loop().time() + grace_s
                try:
                    # What has deleted its folder may run on.
                    running = set(evidence.nodes_of(spec)) if spec else gone
                    stopped = await asyncio.gather(
                        *(self._stop(ref, host) for host in reached if host.node in running),
                        return_exceptions=True,
                    )
                finally:
                    del self._deadlines[key]
                away = next((error for error in stopped if error is not None), away)
            if away is not None:
                raise away
            return await self._jobs.publish(ref)

    async def _bury(
        self, ref: types_pb2.JobRef, hosts: Sequence[Host]
    ) -> tuple[list[Host], BaseException | None]:
        """Have the attempt's tombstone on all hosts.

        Returns:
            Those that have it; and why it is not on another one.
        """
        path = AttemptKey.of(ref).path
        told = await asyncio.gather(
            *(
                host.ask("bury", path, root_of(ref, host.node), job_status.CANCELLED)
                for host in hosts
            ),
            return_exceptions=True,
        )
        errors_told = [each for each in told if isinstance(each, BaseException)]
        reached = [
            host
            for host, each in zip(hosts, told, strict=True)
            if not isinstance(each, BaseException)
        ]
        return reached, next(iter(errors_told), None)

    async def _stop(self, ref: types_pb2.JobRef, host: Host) -> None:
        """End all processes of the attempt on a host, and wait for its runner to write the end."""
        key = AttemptKey.of(ref)
        loop = asyncio.get_running_loop()
        pause_s = _LOOK_S[0]
        told: list[str] = []
        """Processes that have had their TERM: a second one would surprise them in their end."""
        while not await self._is_over(ref, host):
            is_late = loop.time() >= self._deadlines[key]
            if is_late:
                await count_alive(host, key, "KILL")
            else:
                mark = key.mark(host.node)
                told = (await host.ask("signal", key.path, mark, "TERM", *told)).lines
            rest_s = max(self._deadlines[key] - loop.time(), 0.0)
            # Its end is told; what has only lost its runner is seen by looking.
            wait_s = pause_s if is_late else max(min(pause_s, rest_s), 0.001)
            await self._jobs.bells.heard(key, wait_s)
            pause_s = min(pause_s * 1.5, _LOOK_S[1])

    async def _is_over(self, ref: types_pb2.JobRef, host: Host) -> bool:
        key = AttemptKey.of(ref)
        on_host = await self._look(ref, host)
        if not on_host.exists:
            return not await count_alive(host, key, "0")
        if on_host.phase is Phase.ENDED:
            return True
        if on_host.phase is not Phase.LOST:
            # What was not claimed can't be any more.
            return on_host.phase is Phase.UNCLAIMED
        return not await count_alive(host, key, "0")

    async def _look(self, ref: types_pb2.JobRef, host: Host) -> OnHost:
        reply = await host.ask("status", AttemptKey.of(ref).path, root_of(ref, host.node), "phase")
        return evidence.read_status(host.node, reply, evidence.Lasting())

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt, and leave a tombstone.

        Raises:
            Refusal: JOB_RUNNING, BUSY; and as for `cancel`.
        """
        key = AttemptKey.of(ref)
        hosts = self._jobs.sites.hosts(ref)
        await self._operations.run(("remove", key), lambda: self._remove(ref, hosts), on=key)

    async def _remove(self, ref: types_pb2.JobRef, hosts: Sequence[Host]) -> None:
        key = AttemptKey.of(ref)
        lasting = self._jobs.known.lasting(key)
        is_plain = (
            self._jobs.known.has_ended(key)
            and lasting is not None
            and not lasting.workdir
            and not _has_container(lasting)
        )
        with as_refusals(ref):
            if is_plain and len(hosts) == 1:
                await self._removals.of(hosts[0]).remove(
                    key, root_of(ref, hosts[0].node), bury=True
                )
            else:
                await self._prepare(ref, hosts)
                folders = hosts[:1] if self._jobs.sites.is_shared else hosts
                await asyncio.gather(*(self._discard(ref, host) for host in folders))
        self._jobs.known.forget(key)
        self._jobs.bells.ring(key, "removed")

    async def _prepare(self, ref: types_pb2.JobRef, hosts: Sequence[Host]) -> None:
        """Have the attempt buried, and nothing of it run.

        Raises:
            Refusal: JOB_RUNNING.
        """
        key = AttemptKey.of(ref)
        status = await self._jobs.status(ref)
        if status and not status.HasField("end") and status.state != job_pb2.JOB_STATE_STAGED:
            raise errors.job_running(ref)
        _, away = await self._bury(ref, hosts)
        if away is not None:
            raise away
        for end in self.on_cancel:
            await end(key, errors.job_cancelled(ref))
        # A runner that nobody knew of may have claimed at the last moment.
        for host in hosts:
            on_host = await self._look(ref, host)
            if on_host.phase is Phase.RUNNING:
                raise errors.job_running(ref)
            if not on_host.exists and await count_alive(host, key, "0"):
                raise errors.job_running(ref)
            if on_host.phase is Phase.LOST:
                await count_alive(host, key, "KILL")
        lasting = self._jobs.known.lasting(key)
        if lasting is not None and _has_container(lasting):
            await asyncio.gather(*(self._jobs.containers.remove(host, key) for host in hosts))

    async def _discard(self, ref: types_pb2.JobRef, host: Host) -> None:
        key = AttemptKey.of(ref)
        lasting = self._jobs.known.lasting(key) or (await self._jobs.look_at(ref, host)).lasting
        if lasting.workdir:
            await self._take_back(host, key)
        await self._removals.of(host).remove(key, root_of(ref, host.node), bury=False)


def _has_container(lasting: evidence.Lasting) -> bool:
    return lasting.spec is not None and bool(lasting.spec.spec.container_image)
