"""Has the images of attempts on the site's file system before the attempts are in the queue.

Compute nodes often reach no registry, and a job that waits for an image there would hold what the
queue gave it. An image that takes its time is brought in the background; when it is there the
attempt is told as STAGED, so that its start is asked for once more, and is refused or done as that
of any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from gate_kit import Operations, Refusal, job_status, launching
from gate_kit.ssh.containers import Containers, Limits, Volume
from gate_kit.ssh.images import Image, ImageRefused, Login
from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gates.ssh_cluster_gate.slurm.evidence import Evidence
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.live import Live
from skyport.gate.v1 import job_pb2, types_pb2

log = logging.getLogger(__name__)

_AT_ONCE_S = 2.0
"""A start waits so long for its image: mostly it is there."""
_TELL_EVERY_S = 0.5
_AGAIN_S = 5.0
"""Before an image is looked for anew where the login node went away meanwhile."""


class SlurmImages:
    """The images of all attempts.

    Args:
        jobs: Whose attempts they are.
        operations: Owns what is under way.
        containers: Runs them.
        volumes: What jobs may ask for, by name.
    """

    def __init__(
        self,
        jobs: SlurmAttempts,
        operations: Operations,
        containers: Containers,
        volumes: Mapping[str, Volume],
    ) -> None:
        self.volumes = volumes
        self._jobs = jobs
        self._operations = operations
        self._containers = containers
        self._had: dict[AttemptKey, Image] = {}

    async def have(self, request: job_pb2.StartJobRequest, live: Live) -> Image | None:
        """The image of an attempt whose spec is there.

        Returns:
            None if it takes longer, or can't be had: what is told of the attempt says which.
        """
        key = live.key
        if key in self._had:
            return self._had[key]
        live.is_starting = True
        live.text = f"looks for image {request.spec.container_image}"
        root_uid = root_of(live.ref, live.account.host.node)
        live.found = Evidence(root_uid, exists=True, lasting=live.lasting)
        self._jobs.begin(live)
        work = self._operations.spawn(self._run(request, live), f"image of {key.path}")
        done, _ = await asyncio.wait({work}, timeout=_AT_ONCE_S)
        if not done:
            work.add_done_callback(lambda ended: self._have_asked_again(live, ended))
            return None
        return self._had.get(key)

    async def forget(self, key: AttemptKey, refusal: Refusal | None = None) -> None:
        """The image is not waited for any more: its attempt is in the queue, or cancelled."""
        self._had.pop(key, None)

    async def command(self, request: job_pb2.StartJobRequest, image: Image) -> Sequence[str]:
        """What batch.sh starts in place of the script's own program."""
        spec, key = request.spec, AttemptKey.of(request.ref)
        host = self._jobs.sites.account(request.ref).host
        facts = await host.open()
        work = spec.workdir or f"{facts.root}/jobs/{key.path}/work"
        command = await self._containers.command(
            host,
            key,
            image,
            # The queue keeps a job within its limits, and gives it its devices.
            Limits(
                spec.resources.cpus,
                spec.resources.memory_bytes,
                (),
                launching.tenths(launching.grace_s(spec)),
            ),
            node="",
            work=work,
            stdin=f"{work}/{spec.stdin_path}" if spec.stdin_path else "/dev/null",
            volumes=[self.volumes[name] for name in spec.storage],
            program=launching.interpreter(spec.script),
        )
        # What guards the script must not be where the queue's signals for the script go.
        return ("setsid", *command)

    async def _run(self, request: job_pb2.StartJobRequest, live: Live) -> None:
        try:
            await self._operations.run(
                ("start", live.key, "image"), lambda: self._bring(request, live)
            )
        except Refusal as refusal:
            log.info("%s: %s", live.key.path, refusal.message)
            if refusal.reason != "JOB_CANCELLED" and self._is_waited_for(live):
                self._tell(live, refusal.message)
                await asyncio.sleep(_AGAIN_S)

    async def _bring(self, request: job_pb2.StartJobRequest, live: Live) -> None:
        loop = asyncio.get_running_loop()
        next_at = 0.0

        def told(text: str) -> None:
            nonlocal next_at
            if loop.time() >= next_at:
                next_at = loop.time() + _TELL_EVERY_S
                self._tell(live, text)

        host = live.account.host
        logins = {
            login.registry: Login(login.username, login.password)
            for login in request.registry_logins
        }
        try:
            image = await self._containers.image(host, request.spec.container_image, logins, told)
        except ImageRefused as refused:
            # A submission of an earlier gate that comes late can't claim it then.
            reason = f"{refused.reason} {refused.text}"
            await host.ask("end", live.key.path, reason, "unstarted", "none")
            live.is_starting = False
            await self._jobs.look(live.ref)
            await self._jobs.publish(live)
        else:
            self._had[live.key] = image

    def _is_waited_for(self, live: Live) -> bool:
        """Whether the attempt has neither ended nor been cancelled."""
        is_buried = live.found is not None and live.found.is_buried
        return self._jobs.live.get(live.key) is live and live.is_starting and not is_buried

    def _tell(self, live: Live, text: str) -> None:
        live.text = text
        if self._is_waited_for(live):
            self._jobs.tell(live, self._status(live, job_pb2.JOB_STATE_STARTING, text))

    def _have_asked_again(self, live: Live, work: asyncio.Task[None]) -> None:
        if not work.cancelled() and self._is_waited_for(live):
            self._jobs.tell(live, self._status(live, job_pb2.JOB_STATE_STAGED))

    @staticmethod
    def _status(live: Live, state: job_pb2.JobState.ValueType, text: str = "") -> job_pb2.JobStatus:
        assert live.lasting.spec is not None  # noqa: S101 - for the type only: it was started
        root_uid = root_of(live.ref, live.account.host.node)
        status = job_status.beginning(live.lasting.spec, [types_pb2.SiteRoot(root_uid=root_uid)])
        status.state = state
        status.text = text
        return status
