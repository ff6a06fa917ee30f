"""Starts attempts on hosts: their specs are put down there, and their runners are sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from gate_kit import Operations, errors, job_status, launching
from gate_kit.bells import Bell
from gate_kit.ssh import evidence
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.contained import ContainedStarts, running_on
from gate_kit.ssh.containers import Volume
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.host import Facts, Host
from gate_kit.ssh.jobs import Jobs, root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.shell import Reply
from skyport.gate.v1 import job_pb2, types_pb2

_CLAIM_S = 1.0
"""A runner mostly claims within a few milliseconds; a disk that is busy may hold it up."""


class Starts:
    """Starts attempts, each once.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the mutations.
        volumes: What jobs may ask for, by name.
    """

    def __init__(
        self, jobs: Jobs, operations: Operations, volumes: Mapping[str, Volume] | None = None
    ) -> None:
        self._volumes = volumes or {}
        self._contained = ContainedStarts(jobs, operations, self._volumes)
        self._jobs = jobs
        self._sites = jobs.sites
        self._known = jobs.known
        self._operations = operations

    async def start(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        """Make sure that the attempt starts once, on the nodes that `request` allocates.

        Raises:
            Refusal: JOB_CANCELLED, JOB_DIFFERS, INPUTS_MISSING, FILE_NOT_FOUND, DISK_FULL,
                FIELD_REQUIRED for a start without a root; and as for `Jobs.status`.
        """
        key = AttemptKey.of(request.ref)
        return await self._operations.run(
            ("start", key, request.spec_fingerprint), lambda: self._start(request), on=key
        )

    async def _start(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        ref = request.ref
        key = AttemptKey.of(ref)
        hosts = self._sites.hosts(ref)
        text = evidence.encode_spec(request)
        with as_refusals(ref, path=request.spec.stdin_path):
            await asyncio.gather(*(host.need_runner() for host in hosts))
            missing = next((host for host in hosts if not root_of(ref, host.node)), None)
            if missing is not None:
                return await self._unrooted(request, missing)
            spec = evidence.decode_spec(text)
            bell = Bell()
            # Both before it is sent: what the runner tells may come first.
            with (
                self._known.beginning(key, ref, Lasting(spec=spec, workdir=spec.spec.workdir)),
                self._jobs.bells.listening(key, bell),
            ):
                is_contained = bool(request.spec.container_image)
                if is_contained:
                    told = await self._put_down(hosts, request, text)
                elif len(hosts) == 1:
                    told = await self._start_on(hosts[0], request, text, bell)
                else:
                    told = await self._start_on_all(hosts, request, text)
                if told and evidence.decode_spec(told).spec_fingerprint != spec.spec_fingerprint:
                    raise errors.job_differs(ref)
                if is_contained and await self._may_begin(ref, told):
                    self._contained.begin(
                        request,
                        hosts,
                        lambda host: self._variables(host, request),
                        lambda host: self._limits(host, request),
                    )
        if told:
            return await self._told(ref)
        if isinstance(bell.news, job_pb2.JobStatus):
            return bell.news
        status = job_status.beginning(spec, ref.roots)
        status.state = job_pb2.JOB_STATE_STARTING
        status.text = self._known.preparing.get(key, "")
        return status

    async def _start_on(
        self, host: Host, request: job_pb2.StartJobRequest, text: str, bell: Bell
    ) -> str:
        """Start on the only node; returns the spec that was there before, if one was."""
        variables = self._variables(host, request)
        script = request.spec.script
        reply = await host.ask(
            "start_text" if _is_text(script) else "start",
            *self._spec(host, request, text),
            str(len(script)),
            *self._limits(host, request),
            self._path(host, variables),
            *self._program(host, request),
            data=script + launching.encode_variables(variables),
        )
        if reply.lines:
            return _before(reply)
        # Who has claimed has seen to it that all is on the disk; who is late has not.
        if host.is_listening:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLAIM_S):
                    await bell.wait()
        if not bell.is_set():
            await host.ask("settle", AttemptKey.of(request.ref).path)
        return ""

    async def _start_on_all(
        self, hosts: Sequence[Host], request: job_pb2.StartJobRequest, text: str
    ) -> str:
        """Start on several nodes, on none before all have what they need."""
        told = await self._put_down(hosts, request, text)
        await asyncio.gather(*(self._launch(host, request) for host in running_on(hosts, request)))
        return told

    async def _put_down(
        self, hosts: Sequence[Host], request: job_pb2.StartJobRequest, text: str
    ) -> str:
        """Have what is to be started on all nodes, and on their disks.

        Returns:
            The spec that was there before, if one was.
        """
        path = AttemptKey.of(request.ref).path
        script = request.spec.script
        verb = "spec_text" if _is_text(script) else "spec"
        replies = await asyncio.gather(
            *(host.ask(verb, *self._spec(host, request, text), data=script) for host in hosts)
        )
        await asyncio.gather(*(host.ask("settle", path) for host in hosts))
        return next((_before(reply) for reply in replies if reply.lines), "")

    async def _may_begin(self, ref: types_pb2.JobRef, told: str) -> bool:
        """Whether nobody has begun the attempt: it is new, or its start was lost on its way."""
        if not told:
            return True
        status = await self._jobs.status(ref)
        return status is not None and status.state == job_pb2.JOB_STATE_STAGED

    async def _unrooted(self, request: job_pb2.StartJobRequest, host: Host) -> job_pb2.JobStatus:
        """A start that names no root: answered only if it was done before."""
        on_host = await self._jobs.look_at(request.ref, host)
        if on_host.spec is None:
            if on_host.is_buried:
                raise errors.job_cancelled(request.ref)
            raise errors.invalid(
                f"ref.roots has no root for {host.node}; call PutFiles first",
                field="ref.roots",
                reason="FIELD_REQUIRED",
            )
        if on_host.spec.spec_fingerprint != request.spec_fingerprint:
            raise errors.job_differs(request.ref)
        return await self._told(request.ref)

    async def _told(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus:
        """An attempt that was started before, as it is now."""
        status = await self._jobs.status(ref)
        if status is None:
            raise errors.busy("the attempt is being removed")
        return status

    async def _launch(self, host: Host, request: job_pb2.StartJobRequest) -> None:
        spec = request.spec
        variables = self._variables(host, request)
        await host.ask(
            "launch",
            AttemptKey.of(request.ref).path,
            *self._limits(host, request),
            spec.workdir,
            spec.stdin_path,
            self._path(host, variables),
            *self._program(host, request),
            data=launching.encode_variables(variables),
        )

    def _spec(self, host: Host, request: job_pb2.StartJobRequest, text: str) -> Sequence[str]:
        """The words that say what is to be started."""
        ref, spec = request.ref, request.spec
        return (
            AttemptKey.of(ref).path,
            root_of(ref, host.node),
            spec.manifest_sha256.hex(),
            spec.workdir,
            spec.stdin_path,
            text,
            "".join(f"{node}\n" for node in ref.nodes),
        )

    def _limits(self, host: Host, request: job_pb2.StartJobRequest) -> Sequence[str]:
        """The words for the runner; it is on its way from now on."""
        spec, key = request.spec, AttemptKey.of(request.ref)
        self._known.sent(key, host.node)
        return launching.limit(spec), launching.tenths(launching.grace_s(spec)), key.mark(host.node)

    def _program(self, host: Host, request: job_pb2.StartJobRequest) -> Sequence[str]:
        """What runs the script, within the limits that the host lets us set."""
        program = launching.interpreter(request.spec.script)
        given = next((item for item in request.allocations if item.node == host.node), None)
        if given is None or not _facts(host).runtime_dir:
            return program
        return [*launching.limited(given.cpus, given.memory_bytes), *program]

    def _path(self, host: Host, variables: Mapping[str, str]) -> str:
        return variables.get("PATH") or _facts(host).path

    def _variables(self, host: Host, request: job_pb2.StartJobRequest) -> dict[str, str]:
        ref, spec, facts = request.ref, request.spec, _facts(host)
        folder = f"{facts.root}/jobs/{AttemptKey.of(ref).path}"
        # A container has a shell and programs of its own.
        is_contained = bool(spec.container_image)
        around = launching.Surroundings(
            node=host.node,
            nodes=list(ref.nodes),
            addresses=self._sites.addresses(ref.partition_id),
            home=facts.home,
            user=facts.user,
            login_shell="/bin/sh" if is_contained else facts.shell,
            work=spec.workdir or f"{folder}/work",
            hosts=f"{folder}/hosts",
            site={} if is_contained else facts.lang,
            storage={name: self._volumes[name].path for name in spec.storage},
        )
        variables = launching.environment(request, around, request.allocations)
        if facts.runtime_dir and not is_contained:
            variables.setdefault("XDG_RUNTIME_DIR", facts.runtime_dir)
        return variables | launching.without_ours(request.secret_env)


def _is_text(script: bytes) -> bool:
    """Whether a shell can read it as lines."""
    return script.endswith(b"\n") and b"\0" not in script


def _before(reply: Reply) -> str:
    """The spec that was there already."""
    return reply.lines[0].partition(" ")[2]


def _facts(host: Host) -> Facts:
    assert host.facts is not None  # noqa: S101 - for the type only: it is open
    return host.facts
