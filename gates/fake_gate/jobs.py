"""Attempts of jobs: started once, cancelled for good, removed without a trace. Truth is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from gate_kit import Operations, Refusal, WatchHub, errors
from gates.fake_gate import command, placing, processes, reports
from gates.fake_gate.attempt import END_UNKNOWN, Attempt, OnNode, Phase
from gates.fake_gate.bells import Bells
from gates.fake_gate.faults import FaultScript, Subject
from gates.fake_gate.launch import Launcher
from gates.fake_gate.site import AttemptKey, Site, discard, write
from skyport.gate.v1 import job_pb2, types_pb2

log = logging.getLogger(__name__)

_SCAN_S = 2.0
_SNAPSHOT_STEP = 50
_ROUND_S = 0.05


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
        self.site = site
        self.shared = shared
        self.boot_id = processes.boot_id()
        self.bells = Bells()
        self.observers: list[Observer] = []
        self.on_cancel: list[Callable[[AttemptKey, Refusal], Awaitable[None]]] = []
        """Awaited when an attempt has its tombstone: ends what is under way for it."""
        self._operations = operations
        self._hub = hub
        self._account = account
        self._faults = faults
        self._launcher = Launcher(self._on_claim, self._on_end)
        # Open ones that have no runner that we watch: an earlier gate's start, or no descriptors.
        self._uncertain: set[AttemptKey] = set()
        self._hurried: dict[AttemptKey, asyncio.Event] = {}

    def open(self) -> None:
        """Find again what an earlier gate left running."""
        for key in self.site.attempts():
            self._look_after(Attempt(key, self.site.attempt_folder(key)))
        self._operations.spawn(self._scan(), "slow scan")

    def close(self) -> None:
        """Let go of the runners, which go on."""
        self._launcher.close()

    # What is asked of one attempt.

    def find(self, ref: types_pb2.JobRef) -> Attempt:
        """The attempt that `ref` names.

        Raises:
            Refusal: JOB_NOT_FOUND; SITE_CHANGED if this is not the site that the caller knows.
        """
        attempt = self.locate(ref)
        if not attempt.exists:
            raise errors.job_not_found(ref)
        return attempt

    def locate(self, ref: types_pb2.JobRef, *, make_root: bool = False) -> Attempt:
        """Where the attempt is or would be.

        Args:
            ref: Which.
            make_root: Whether this is a first contact that writes.

        Raises:
            Refusal: SITE_CHANGED, SITE_UNREACHABLE.
        """
        found = self.site.root_uid()
        for root in ref.roots:
            if root.root_uid != found:
                raise errors.site_changed(root.root_uid, found, node=root.node)
        if make_root and not found:
            self.site.make_root_uid()
        key = AttemptKey.of(ref)
        return Attempt(key, self.site.attempt_folder(key))

    def status(self, attempt: Attempt) -> job_pb2.JobStatus | None:
        """The attempt as it is now; None if it is gone. Settles what was lost."""
        read = self._read(attempt)
        if read and any(node.phase is Phase.LOST for node in read[1]):
            self._settle(attempt, read[1])
            read = self._read(attempt)
        return read[0] if read else None

    async def start(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        """Make sure that the attempt starts once, on the nodes that `request` allocates.

        Raises:
            Refusal: JOB_CANCELLED, JOB_DIFFERS, INPUTS_MISSING, DISK_FULL, CAPACITY.
        """
        attempt = self.locate(request.ref)
        return await self._operations.run(
            ("start", attempt.key, request.spec_fingerprint),
            lambda: self._start(attempt, request),
            on=attempt.key,
        )

    async def _start(self, attempt: Attempt, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        private = command.encode_private(
            command.private_variables(request.spec, request.secret_env)
        )
        spec = self.check_start(attempt, request)
        if spec is None:
            spec, descriptor = self.write_spec(attempt, request)
            # The disk and the runner take their time side by side. Should the power fail now, the
            # start was not answered yet, and is asked for again.
            durable = asyncio.get_running_loop().run_in_executor(None, sync, descriptor)
            try:
                await self._inside("StartJob", attempt)
                self.launch(attempt, spec, lambda node: private)
            finally:
                await durable
            return reports.starting(self.site, spec)
        self.launch(attempt, spec, lambda node: private)
        return self.told(attempt)

    def check_start(
        self, attempt: Attempt, request: job_pb2.StartJobRequest
    ) -> job_pb2.StartJobRequest | None:
        """What the attempt was started with before; None if it was not, and may be.

        Raises:
            Refusal: JOB_CANCELLED, JOB_DIFFERS; FIELD_REQUIRED for a start without a root;
                INPUTS_MISSING, FILE_NOT_FOUND.
        """
        ref = request.ref
        if self.site.is_buried(attempt.key):
            raise errors.job_cancelled(ref)
        spec = attempt.spec()
        if spec is not None:
            if spec.spec_fingerprint != request.spec_fingerprint:
                raise errors.job_differs(ref)
            return spec
        known = {root.node for root in ref.roots}
        if "" not in known and not (ref.nodes and set(ref.nodes) <= known):
            raise errors.invalid(
                "ref.roots has no root for a node; call PutFiles first",
                field="ref.roots",
                reason="FIELD_REQUIRED",
            )
        wanted = request.spec.manifest_sha256
        if wanted and attempt.inputs() != wanted:
            raise errors.inputs_missing(
                ref, f"manifest {wanted.hex()} is not whole at the site; send it with PutFiles"
            )
        name = request.spec.stdin_path
        for folder in self.work_folders(attempt, ref, request.spec.workdir) if name else ():
            if not (folder / name).is_file():
                raise errors.file_not_found(name)
        return None

    def write_spec(
        self, attempt: Attempt, request: job_pb2.StartJobRequest
    ) -> tuple[job_pb2.StartJobRequest, int]:
        """Write what the attempt is started with.

        Returns:
            The spec, without secrets, and a descriptor of it that is to be synced and closed.

        Raises:
            Refusal: DISK_FULL.
        """
        spec = job_pb2.StartJobRequest()
        spec.CopyFrom(request)
        spec.ClearField("secret_env")
        spec.ClearField("registry_logins")
        spec.ref.ClearField("roots")
        try:
            if not attempt.exists:
                attempt.make(spec.ref, spec.origin, spec.spec.workdir)
                self.bells.ring(attempt.key)
            for folder in self.work_folders(attempt, spec.ref, spec.spec.workdir):
                if spec.spec.workdir:
                    placing.make_named_folder(attempt, folder)
                else:
                    folder.mkdir(exist_ok=True)
            hosts = "".join(f"{node}\n" for node in request.ref.nodes)
            write(attempt.folder / "script", spec.spec.script)
            write(attempt.folder / "hosts", hosts.encode())
            return spec, attempt.write_spec(spec)
        except OSError as error:
            raise _refusal(error, attempt.folder) from error

    def work_folders(self, attempt: Attempt, ref: types_pb2.JobRef, workdir: str) -> list[Path]:
        """The work folders of an attempt, rank 0 first; one where all nodes share it.

        They share it at a queue, whose nodes are not known yet when files come.
        """
        shared = self.shared or not ref.nodes
        names = ["", *ref.nodes][:1] if shared else list(ref.nodes)
        folders = [command.work_folder(attempt, workdir, name, shared=shared) for name in names]
        return folders[:1] if workdir else folders

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
            private: For a node, what only the job may see, from `command.encode_private`.

        Raises:
            Refusal: CAPACITY when the system starts no more processes.
        """
        nodes = list(spec.ref.nodes) or attempt.placement()
        account = self._account(spec.ref.owner)
        for node in attempt.nodes(spec):
            if self._launcher.is_live(attempt.key, node) or attempt.claim(node):
                continue
            made = command.make(
                self.site,
                attempt,
                spec,
                node,
                nodes=nodes,
                account=account,
                shared=self.shared or not spec.ref.nodes,
                private=private(node),
            )
            try:
                self._launcher.start(made)
            except OSError as error:
                raise _refusal(error, attempt.folder) from error

    async def cancel(
        self, ref: types_pb2.JobRef, grace_s: float | None
    ) -> job_pb2.JobStatus | None:
        """Make sure that nothing of the attempt runs, now or later.

        Args:
            ref: Which.
            grace_s: Seconds between TERM and KILL; None means the spec's. Less than what a cancel
                under way has left cuts it short.
        """
        attempt = self.locate(ref)
        key = attempt.key
        # The tombstone first, then what is under way: it must not hold up what ends it.
        self.site.bury(key)
        refusal = errors.job_cancelled(ref)
        self._operations.interrupt(refusal, "start", key)
        for end in self.on_cancel:
            await end(key, refusal)
        self.bells.ring(key)
        if grace_s is not None and key in self._hurried:
            asyncio.get_running_loop().call_later(grace_s, self._hurried[key].set)
        return await self._operations.run(
            ("cancel", key), lambda: self._cancel(attempt, grace_s), on=key
        )

    async def _cancel(self, attempt: Attempt, grace_s: float | None) -> job_pb2.JobStatus | None:
        await self._inside("CancelJob", attempt)
        if not attempt.exists:
            return None
        spec = attempt.spec()
        if spec is not None:
            nodes = attempt.nodes(spec)
            for node in nodes:
                if attempt.claim_instead(node):
                    attempt.write_end(node, reports.CANCELLED, started=False)
                else:
                    attempt.judge(node, reports.CANCELLED)
            for private in attempt.folder.glob("private*"):
                private.unlink(missing_ok=True)
            if grace_s is None:
                grace_s = command.grace_s(spec.spec)
            hurry = self._hurried[attempt.key] = asyncio.Event()
            try:
                await self._stop(attempt, nodes, grace_s, hurry)
            finally:
                del self._hurried[attempt.key]
        status = self.publish(attempt)
        self._tell_ended(attempt)
        return status

    async def _stop(
        self, attempt: Attempt, nodes: Sequence[str], grace_s: float, hurry: asyncio.Event
    ) -> None:
        """End all processes of the attempt, and wait for the runners to write the ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while True:
            rest = max(deadline - loop.time(), 0.0)
            await processes.stop(lambda: self._alive(attempt, nodes), rest, hurry=hurry)
            runners = {c.pid for n in nodes if (c := attempt.claim(n)) and c.is_alive(self.boot_id)}
            if not runners:
                return
            # One that has claimed and not started the script yet does so now, and is found in the
            # next round; one whose script has ended writes that down and goes.
            await processes.wait_gone(runners, _ROUND_S)

    async def remove(self, ref: types_pb2.JobRef) -> None:
        """Remove all that was made for the attempt, and leave a tombstone.

        Raises:
            Refusal: JOB_RUNNING.
        """
        attempt = self.locate(ref)
        for end in self.on_cancel:
            await end(attempt.key, errors.job_cancelled(ref))
        await self._operations.run(
            ("remove", attempt.key), lambda: self._remove(attempt, ref), on=attempt.key
        )

    async def _remove(self, attempt: Attempt, ref: types_pb2.JobRef) -> None:
        status = self.status(attempt)
        if status and not status.HasField("end") and status.state != job_pb2.JOB_STATE_STAGED:
            raise errors.job_running(ref)
        self.site.bury(attempt.key)
        self.bells.ring(attempt.key)
        await self._inside("RemoveJob", attempt)
        if status is None:
            return
        spec = attempt.spec()
        nodes = attempt.nodes(spec) if spec else []
        for node in nodes:
            # A runner that nobody knew of may have claimed at the last moment.
            claim = None if attempt.claim_instead(node) else attempt.claim(node)
            if claim and claim.is_alive(self.boot_id):
                raise errors.job_running(ref)
        processes.kill(self._alive(attempt, nodes))
        await asyncio.to_thread(self._discard, attempt)

    async def _inside(self, method: str, attempt: Attempt) -> None:
        if not self._faults.is_idle:
            key = attempt.key
            await self._faults.inside(Subject(method, key.partition_id, key.job_id))

    def _discard(self, attempt: Attempt) -> None:
        placing.take_back(attempt)
        discard(attempt.folder)

    # What is asked of all.

    async def snapshot(
        self, installation: str, partition_id: str = ""
    ) -> AsyncIterator[job_pb2.JobStatus]:
        """All attempts of an installation, in order of job and attempt."""
        for index, key in enumerate(self.keys(installation, partition_id)):
            if index % _SNAPSHOT_STEP == _SNAPSHOT_STEP - 1:
                await asyncio.sleep(0)  # others have their turn
            if status := self.status(Attempt(key, self.site.attempt_folder(key))):
                yield status

    def keys(self, installation: str, partition_id: str = "") -> list[AttemptKey]:
        """The attempts of an installation, in order of job and attempt."""
        return sorted(self.site.attempts(installation, partition_id or "*"))

    def publish_if_on(self, key: AttemptKey, node: str) -> None:
        """Tell an attempt anew if it is on `node`."""
        attempt = Attempt(key, self.site.attempt_folder(key))
        status = self.status(attempt)
        if status is not None and node in status.ref.nodes:
            self.publish(attempt)

    async def end_all(self, partition_id: str, reason: str, *, grace_s: float = 0.0) -> None:
        """End all attempts of a partition whose nodes go away."""
        for key in list(self.site.attempts(partition_id=partition_id)):
            attempt = Attempt(key, self.site.attempt_folder(key))
            await self.end_from_outside(attempt, reason, grace_s)

    async def end_from_outside(self, attempt: Attempt, reason: str, grace_s: float = 0.0) -> None:
        """End an attempt as a site does to it: its node fails, or is taken away."""
        spec = attempt.spec()
        if spec is None:
            return
        nodes = attempt.nodes(spec)
        for node in nodes:
            attempt.judge(node, reason)
            attempt.claim_instead(node)
            if reason == reports.NODE_FAIL:
                claim = attempt.claim(node)
                if claim and claim.is_alive(self.boot_id):
                    processes.kill([claim.pid])
        await self._stop(attempt, nodes, grace_s, asyncio.Event())
        self.publish(attempt)

    # What happens by itself.

    def _on_claim(self, key: AttemptKey, node: str) -> None:
        attempt = Attempt(key, self.site.attempt_folder(key))
        self.publish(attempt)
        for observer in self.observers:
            observer.claimed(attempt)

    def _on_end(self, key: AttemptKey, node: str) -> None:
        attempt = Attempt(key, self.site.attempt_folder(key))
        if not attempt.exists:
            return
        if attempt.claim(node) is None and attempt.claim_instead(node):
            # The runner has gone without a claim: no space for it, or no shell to run it.
            attempt.write_end(node, reports.START_FAILED, started=False)
        self._look_after(attempt)
        status = self.publish(attempt)
        if status and status.HasField("end"):
            self._tell_ended(attempt)

    def _tell_ended(self, attempt: Attempt) -> None:
        for observer in self.observers:
            observer.ended(attempt)

    def _look_after(self, attempt: Attempt) -> None:
        """Watch the runners of an attempt that are alive, and note whether any is missing."""
        read = self._read(attempt)
        self._uncertain.discard(attempt.key)
        for node in read[1] if read else ():
            if node.phase is Phase.RUNNING and node.claim:
                with contextlib.suppress(OSError):
                    self._launcher.adopt(attempt.key, node.name, node.claim)
            if node.phase is not Phase.ENDED and not self._launcher.is_live(attempt.key, node.name):
                self._uncertain.add(attempt.key)

    async def _scan(self) -> None:
        """Look now and then at attempts whose claims and ends nothing tells of."""
        known: dict[AttemptKey, job_pb2.JobState.ValueType] = {}
        while True:
            uncertain = list(self._uncertain)
            for key in uncertain:
                attempt = Attempt(key, self.site.attempt_folder(key))
                self._look_after(attempt)
                status = self.status(attempt)
                if status and known.get(key) != status.state:
                    known[key] = status.state
                    self.publish(attempt)
                    if status.HasField("end"):
                        self._tell_ended(attempt)
            known = {key: state for key, state in known.items() if key in self._uncertain}
            await asyncio.sleep(_SCAN_S)

    def _read(self, attempt: Attempt) -> tuple[job_pb2.JobStatus, list[OnNode]] | None:
        return reports.read_status(self.site, attempt, self.boot_id, self._has_runner)

    def _has_runner(self, key: AttemptKey, node: str) -> bool:
        """Whether a runner is on its way, of this gate or of one before."""
        if self._launcher.is_live(key, node):
            return True
        return processes.find_runner(key.mark + node) is not None

    def _settle(self, attempt: Attempt, on_nodes: Iterable[OnNode]) -> None:
        """Write the end of runners that are gone without one, once nothing of them is alive."""
        lost = [node for node in on_nodes if node.phase is Phase.LOST]
        if self._alive(attempt, [node.name for node in lost]):
            self._uncertain.add(attempt.key)  # it runs on, though nobody guards it
            return
        for node in lost:
            reason = attempt.verdict(node.name)
            if not reason and node.claim is not None and not node.claim.is_readable:
                reason = END_UNKNOWN
            if not reason:
                is_buried = self.site.is_buried(attempt.key)
                reason = reports.CANCELLED if is_buried else reports.NODE_FAIL
            # A claim that was taken in place of a runner's is no start.
            ran = node.claim is None or bool(node.claim.pid) or reason == END_UNKNOWN
            attempt.write_end(node.name, reason, started=ran)

    def _alive(self, attempt: Attempt, nodes: Iterable[str]) -> set[int]:
        sessions = set()
        for node in nodes:
            # Once it has ended, the number may be another's.
            on_node = attempt.on_node(node, self.boot_id)
            if on_node.phase in {Phase.RUNNING, Phase.LOST}:
                sessions.add(attempt.session(node) or 0)
        return processes.find([attempt.key.mark], sessions - {0})

    def publish(self, attempt: Attempt) -> job_pb2.JobStatus | None:
        status = self.status(attempt)
        if status is not None:
            event = job_pb2.JobEvent(status=status)
            self._hub.publish(attempt.key, event, topic=attempt.key.installation)
        return status

    def told(self, attempt: Attempt) -> job_pb2.JobStatus:
        status = self.status(attempt)
        if status is None:
            raise errors.busy("the attempt is being removed")
        return status


def sync(descriptor: int) -> None:
    """Wait until a file is on the disk, and close it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(error: OSError, folder: Path) -> Refusal:
    """What to answer when the system refused something for an attempt."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return errors.disk_full(str(folder))
    if error.errno == errno.E2BIG:
        return errors.invalid(
            "arguments and environment are longer than the system takes",
            field="spec.env",
            reason="FIELD_OUT_OF_RANGE",
        )
    if error.errno in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}:
        return errors.capacity(f"the node starts no more processes: {error.strerror}")
    return errors.site_unreachable(f"{folder}: {error.strerror}")
