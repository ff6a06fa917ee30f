"""Starts attempts in containers: once the image is there, their runners are sent.

What is to be started lies on the hosts before the image is fetched, so that a gate that is killed
meanwhile is asked again. Nothing is claimed until then: an image that can't be had costs no attempt
that has run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gate_kit import Operations, Refusal, job_status, launching
from gate_kit.ssh.containers import Limits, Volume
from gate_kit.ssh.host import Host
from gate_kit.ssh.images import Image, ImageRefused, Login
from gate_kit.ssh.jobs import Jobs
from gate_kit.ssh.layout import AttemptKey
from skyport.gate.v1 import job_pb2

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE_S = (0.5, 30.0)
"""Before a host that went away meanwhile is tried again: at first, and at most."""
_TELL_EVERY_S = 0.5


class ContainedStarts:
    """Begins attempts in containers, in the background.

    Args:
        jobs: Whose attempts they are.
        operations: Owns what is under way.
        volumes: What jobs may ask for, by name.
    """

    def __init__(self, jobs: Jobs, operations: Operations, volumes: Mapping[str, Volume]) -> None:
        self._jobs = jobs
        self._known = jobs.known
        self._containers = jobs.containers
        self._operations = operations
        self._volumes = volumes

    def begin(
        self,
        request: job_pb2.StartJobRequest,
        hosts: Sequence[Host],
        variables: Callable[[Host], dict[str, str]],
        sent: Callable[[Host], Sequence[str]],
    ) -> None:
        """See to it that an attempt whose spec is on its hosts begins; returns at once.

        Args:
            request: What was asked.
            hosts: Of all its nodes.
            variables: The environment of the script on a host.
            sent: Notes that a runner is on its way to a host, and returns the words for it.
        """
        key = AttemptKey.of(request.ref)
        self._known.preparing[key] = f"looks for image {request.spec.container_image}"
        start = _Start(self, request, running_on(hosts, request), variables, sent)
        self._operations.spawn(self._run(key, start), f"start of {key.path}")

    async def _run(self, key: AttemptKey, start: _Start) -> None:
        try:
            await self._operations.run(("start", key, "image"), start.run)
        except Refusal as refusal:
            log.info("%s: %s", key.path, refusal.message)
        finally:
            self._known.preparing.pop(key, None)

    # What one start needs of all that.

    async def images(
        self, request: job_pb2.StartJobRequest, hosts: Sequence[Host], tell: Callable[[str], None]
    ) -> list[Image]:
        """The image of a job on each of its hosts."""
        logins = {
            login.registry: Login(login.username, login.password)
            for login in request.registry_logins
        }
        image = request.spec.container_image

        def telling(host: Host) -> Callable[[str], None]:
            return tell if len(hosts) == 1 else lambda text: tell(f"{host.node}: {text}")

        return await _all(
            self._containers.image(host, image, logins, telling(host)) for host in hosts
        )

    def tell(self, request: job_pb2.StartJobRequest, text: str) -> None:
        """Tell watchers how far a start is."""
        key = AttemptKey.of(request.ref)
        if key not in self._known.preparing:
            return
        self._known.preparing[key] = text
        status = job_status.beginning(request, request.ref.roots)
        status.state = job_pb2.JOB_STATE_STARTING
        status.text = text
        self._jobs.tell(key, status)

    async def refuse(
        self, request: job_pb2.StartJobRequest, hosts: Sequence[Host], refused: ImageRefused
    ) -> None:
        """End an attempt whose image can't be had."""
        path = AttemptKey.of(request.ref).path
        reason = f"{refused.reason} {refused.text}"
        await _all(host.ask("end", path, reason, "unstarted", "none") for host in hosts)
        self._known.preparing.pop(AttemptKey.of(request.ref), None)
        await self._jobs.publish(request.ref)

    async def launch(
        self,
        request: job_pb2.StartJobRequest,
        host: Host,
        image: Image,
        variables: dict[str, str],
        sent: Callable[[Host], Sequence[str]],
    ) -> None:
        """Send a runner to a host that has the image."""
        spec, key = request.spec, AttemptKey.of(request.ref)
        facts = await host.open()
        work = spec.workdir or f"{facts.root}/jobs/{key.path}/work"
        given = next((item for item in request.allocations if item.node == host.node), None)
        gpus = list(given.gpu_ids) if given else []
        if image.runtime != "apptainer":
            # A container has no others, and counts those that it has.
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in range(len(gpus)))
        limits = Limits(
            cpus=given.cpus if given else spec.resources.cpus,
            memory_bytes=given.memory_bytes if given else spec.resources.memory_bytes,
            gpu_ids=gpus,
            grace=launching.tenths(launching.grace_s(spec)),
        )
        command = await self._containers.command(
            host,
            key,
            image,
            limits,
            node=host.node,
            work=work,
            stdin=f"{work}/{spec.stdin_path}" if spec.stdin_path else "/dev/null",
            volumes=[self._volumes[name] for name in spec.storage],
            program=launching.interpreter(spec.script),
        )
        await host.ask(
            "launch",
            key.path,
            *sent(host),
            spec.workdir,
            spec.stdin_path,
            "",
            *command,
            data=launching.encode_variables(variables) + b".\n",
        )


class _Start:
    """One start."""

    def __init__(
        self,
        starts: ContainedStarts,
        request: job_pb2.StartJobRequest,
        hosts: Sequence[Host],
        variables: Callable[[Host], dict[str, str]],
        sent: Callable[[Host], Sequence[str]],
    ) -> None:
        self._starts = starts
        self._request = request
        self._hosts = hosts
        self._variables = variables
        self._sent = sent
        self._next_tell = 0.0

    async def run(self) -> None:
        pause_s = _PAUSE_S[0]
        while True:
            try:
                await self._once()
            except Refusal as refusal:
                self._tell(refusal.message)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_S[1])
            else:
                return

    async def _once(self) -> None:
        try:
            images = await self._starts.images(self._request, self._hosts, self._tell)
        except ImageRefused as refused:
            await self._starts.refuse(self._request, self._hosts, refused)
            return
        await _all(
            self._starts.launch(self._request, host, image, self._variables(host), self._sent)
            for host, image in zip(self._hosts, images, strict=True)
        )

    def _tell(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_tell:
            self._next_tell = now + _TELL_EVERY_S
            self._starts.tell(self._request, text)


def running_on(hosts: Sequence[Host], request: job_pb2.StartJobRequest) -> Sequence[Host]:
    """Of the hosts of all nodes, those on which the script runs."""
    return hosts if request.spec.launch == job_pb2.LAUNCH_EVERY else hosts[:1]


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; when one fails the others are ended, and it is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
