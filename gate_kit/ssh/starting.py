"""Starts attempts on hosts: their specs are put down there, and their runners are sent."""

from __future__ import annotations

import asyncio

from gate_kit import Operations, errors, job_status, launching
from gate_kit.ssh import evidence
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import Jobs, root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.shell import Reply
from skyport.gate.v1 import job_pb2, types_pb2


class Starts:
    """Starts attempts, each once.

    Args:
        jobs: Whose attempts they are.
        operations: Owns the mutations.
    """

    def __init__(self, jobs: Jobs, operations: Operations) -> None:
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
        hosts = self._sites.hosts(ref)
        text = evidence.encode_spec(request)
        running = request.spec.launch == job_pb2.LAUNCH_EVERY
        with as_refusals(ref, path=request.spec.stdin_path):
            facts = await asyncio.gather(*(host.open() for host in hosts))
            missing = next((host for host in hosts if not root_of(ref, host.node)), None)
            if missing is not None:
                return await self._unrooted(request, missing)
            if len(hosts) == 1:
                # All at once: what comes after a refusal finds nothing to do.
                written = self._write(hosts[0], request, text)
                launched = self._launch(hosts[0], request, facts[0].path)
                settled = hosts[0].post("settle", AttemptKey.of(ref).path)
                replies = [await written]
                await launched
                await settled
            else:
                replies = await asyncio.gather(
                    *(self._write(host, request, text) for host in hosts)
                )
                await asyncio.gather(
                    *(host.ask("settle", AttemptKey.of(ref).path) for host in hosts)
                )
                await asyncio.gather(
                    *(
                        self._launch(host, request, told.path)
                        for host, told in zip(hosts, facts, strict=True)
                        if running or host is hosts[0]
                    )
                )
        before = [reply.lines[0].partition(" ")[2] for reply in replies if reply.lines]
        if before:
            spec = evidence.decode_spec(before[0])
            if spec.spec_fingerprint != request.spec_fingerprint:
                raise errors.job_differs(ref)
            return await self._told(ref)
        spec = evidence.decode_spec(text)
        self._known.keep(AttemptKey.of(ref), Lasting(spec=spec, workdir=request.spec.workdir))
        status = job_status.beginning(spec, ref.roots)
        status.state = job_pb2.JOB_STATE_STARTING
        self._known.live[AttemptKey.of(ref)] = ref
        return status

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

    def _write(
        self, host: Host, request: job_pb2.StartJobRequest, text: str
    ) -> asyncio.Future[Reply]:
        ref, spec = request.ref, request.spec
        return host.post(
            "spec",
            AttemptKey.of(ref).path,
            root_of(ref, host.node),
            spec.manifest_sha256.hex(),
            spec.workdir,
            spec.stdin_path,
            evidence.encode_labels(ref, request.origin),
            text,
            "".join(f"{node}\n" for node in ref.nodes),
            data=spec.script,
        )

    def _launch(
        self, host: Host, request: job_pb2.StartJobRequest, path: str
    ) -> asyncio.Future[Reply]:
        ref, spec = request.ref, request.spec
        key = AttemptKey.of(ref)
        facts = host.facts
        assert facts is not None  # noqa: S101 - for the type only: it is open
        folder = f"{facts.root}/jobs/{key.path}"
        around = launching.Surroundings(
            node=host.node,
            nodes=list(ref.nodes),
            addresses=self._sites.addresses(ref.partition_id),
            home=facts.home,
            user=facts.user,
            login_shell=facts.shell,
            work=spec.workdir or f"{folder}/work",
            hosts=f"{folder}/hosts",
            site=facts.lang,
        )
        variables = launching.environment(request, around, request.allocations)
        variables |= launching.without_ours(request.secret_env)
        self._known.sent(key, host.node)
        return host.post(
            "launch",
            key.path,
            launching.limit(spec),
            launching.tenths(launching.grace_s(spec)),
            key.mark(host.node),
            spec.workdir,
            spec.stdin_path,
            variables.get("PATH") or path,
            *launching.interpreter(spec.script),
            data=launching.encode_variables(variables),
        )
