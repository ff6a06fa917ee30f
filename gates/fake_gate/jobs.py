"""Attempts of jobs: started once, and watched until they have ended. Truth is on disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from gate_kit import Operations, WatchHub, job_status, launching
from gate_kit.bells import Bells
from gate_kit.job_status import Phase
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import command, reports
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.evidence import Evidence
from gates.fake_gate.faults import FaultScript, Subject
from gates.fake_gate.launch import Launcher
from gates.fake_gate.site import Site
from gates.fake_gate.specs import Specs, refusal, sync
from skyport.gate.v1 import job_pb2

_SCAN_S = 2.0


class Observer(Protocol):
    """Who else wants to know of attempts: the site's queue, scripted faults."""

    def claimed(self, attempt: Attempt) -> None: ...
    def ended(self, attempt: Attempt) -> None: ...


class Jobs:
    """All attempts of the site.

    Args:
        site: Where they are.
        operations: Owns the mutations.
        hub: Told of every change.
        account: The account that an owner's jobs run as.
        faults: May befall what is half done.
        shared: Whether all nodes of a job see one work folder.
    """

    def __init__(
        self,
        site: Site,
        operations: Operations,
        hub: WatchHub[job_pb2.JobEvent],
        account: Callable[[str], command.Account],
        faults: FaultScript,
        *,
        shared: bool,
    ) -> None:
        self.bells = Bells()
        self.specs = Specs(site, self.bells, shared=shared)
        self.observers: list[Observer] = []
        self._site = site
        self._operations = operations
        self._hub = hub
        self._account = account
        self._faults = faults
        self._launcher = Launcher(self._on_claim, self._on_end)
        self.evidence = Evidence(site, self._launcher.is_live)

    def open(self) -> None:
        """Find again what an earlier gate left running."""
        for key in self._site.attempts():
            self._look_after(self.evidence.attempt(key))
        self._operations.spawn(self._scan(), "slow scan")

    def close(self) -> None:
        """Let go of the runners, which go on."""
        self._launcher.close()

    async def start(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        """Make sure that the attempt starts once, on the nodes that `request` allocates.

        Raises:
            Refusal: JOB_CANCELLED, JOB_DIFFERS, INPUTS_MISSING, DISK_FULL, CAPACITY.
        """
        attempt = self.evidence.locate(request.ref)
        return await self._operations.run(
            ("start", attempt.key, request.spec_fingerprint),
            lambda: self._start(attempt, request),
            on=attempt.key,
        )

    async def _start(self, attempt: Attempt, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        private = launching.encode_variables(
            command.private_variables(request.spec, request.secret_env)
        )
        spec = self.specs.check(attempt, request)
        if spec is None:
            spec, descriptor = self.specs.write(attempt, request)
            # The disk and the runner take their time side by side. Should the power fail now, the
            # start was not answered yet, and is asked for again.
            durable = asyncio.get_running_loop().run_in_executor(None, sync, descriptor)
            try:
                await self.inside("StartJob", attempt)
                self.launch(attempt, spec, lambda node: private)
            finally:
                await durable
            return reports.starting(self._site, spec)
        self.launch(attempt, spec, lambda node: private)
        return self.evidence.told(attempt)

    def launch(
        self,
        attempt: Attempt,
        spec: job_pb2.StartJobRequest,
        private: Callable[[str], bytes],
    ) -> None:
        """Send a runner to each node that has none and no claim.

        Args:
            attempt: Whose.
            spec: What was asked, without secrets.
            private: For a node, what only the job may see, from `launching.encode_variables`.

        Raises:
            Refusal: CAPACITY when the system starts no more processes.
        """
        nodes = list(spec.ref.nodes) or attempt.placement()
        account = self._account(spec.ref.owner)
        for node in attempt.nodes(spec):
            if self._launcher.is_live(attempt.key, node) or attempt.claim(node):
                continue
            made = command.make(
                self._site,
                attempt,
                spec,
                node,
                nodes=nodes,
                account=account,
                shared=self.specs.is_shared(spec.ref),
                private=private(node),
            )
            try:
                if not self._launcher.start(made):
                    self.evidence.unguarded.add(attempt.key)
            except OSError as error:
                raise refusal(error, attempt.folder) from error

    async def inside(self, method: str, attempt: Attempt) -> None:
        """Let a scripted fault befall what is half done."""
        if not self._faults.is_idle:
            key = attempt.key
            await self._faults.inside(Subject(method, key.partition_id, key.job_id))

    def publish(self, attempt: Attempt) -> job_pb2.JobStatus | None:
        """Tell watchers how the attempt is now, and return it."""
        status = self.evidence.status(attempt)
        if status is not None:
            self._tell(attempt, status)
        return status

    def _tell(self, attempt: Attempt, status: job_pb2.JobStatus) -> None:
        event = job_pb2.JobEvent(status=status)
        self._hub.publish(attempt.key, event, topic=attempt.key.installation)

    def publish_if_on(self, key: AttemptPath, node: str) -> None:
        """Tell an attempt anew if it is on `node`."""
        attempt = self.evidence.attempt(key)
        status = self.evidence.status(attempt)
        if status is not None and node in status.ref.nodes:
            self.publish(attempt)

    # What happens by itself.

    def _on_claim(self, key: AttemptPath, node: str) -> None:
        attempt = self.evidence.attempt(key)
        self.publish(attempt)
        for observer in self.observers:
            observer.claimed(attempt)

    def _on_end(self, key: AttemptPath, node: str) -> None:
        attempt = self.evidence.attempt(key)
        if not attempt.exists:
            return
        if attempt.claim(node) is None and attempt.claim_instead(node):
            # The runner has gone without a claim: no space for it, or no shell to run it.
            attempt.write_end(node, job_status.START_FAILED, started=False)
        status = self.evidence.status(attempt)
        if status is None or not status.HasField("end"):
            self._look_after(attempt)  # it may be another's runner that goes on
        if status is not None:
            self._tell(attempt, status)
            if status.HasField("end"):
                self.tell_ended(attempt)

    def tell_ended(self, attempt: Attempt) -> None:
        """Tell the observers that an attempt has ended."""
        for observer in self.observers:
            observer.ended(attempt)

    def _look_after(self, attempt: Attempt) -> None:
        """Watch the runners of an attempt that are alive, and note whether any is missing."""
        read = self.evidence.read(attempt)
        self.evidence.unguarded.discard(attempt.key)
        for node in read[1] if read else ():
            if node.phase is Phase.RUNNING and node.claim:
                with contextlib.suppress(OSError):
                    self._launcher.adopt(attempt.key, node.name, node.claim)
            if node.phase is not Phase.ENDED and not self._launcher.is_live(attempt.key, node.name):
                self.evidence.unguarded.add(attempt.key)

    async def _scan(self) -> None:
        """Look now and then at attempts whose claims and ends nothing tells of."""
        known: dict[AttemptPath, job_pb2.JobState.ValueType] = {}
        while True:
            for key in list(self.evidence.unguarded):
                attempt = self.evidence.attempt(key)
                self._look_after(attempt)
                status = self.evidence.status(attempt)
                if status and known.get(key) != status.state:
                    known[key] = status.state
                    self.publish(attempt)
                    if status.HasField("end"):
                        self.tell_ended(attempt)
            known = {key: state for key, state in known.items() if key in self.evidence.unguarded}
            await asyncio.sleep(_SCAN_S)
