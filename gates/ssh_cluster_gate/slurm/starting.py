"""Starts attempts: their specs are put down, then they are submitted, each once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from gate_kit import Operations, Refusal, errors, job_status, launching
from gate_kit.ssh import evidence
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.images import Image
from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.runner import runner
from gate_kit.ssh.settling import Settlings
from gates.ssh_cluster_gate.config import SlurmConfig
from gates.ssh_cluster_gate.slurm import sbatch
from gates.ssh_cluster_gate.slurm.commands import Account, batch
from gates.ssh_cluster_gate.slurm.evidence import Evidence
from gates.ssh_cluster_gate.slurm.images import SlurmImages
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.live import Live
from gates.ssh_cluster_gate.slurm.partitions import SlurmPartitions
from skyport.gate.v1 import job_pb2, types_pb2

_FULL_RETRY_S = 5.0
_ON_NODES = frozenset(
    {"SWM_NODES", "SWM_NODE_IPS", "SWM_NODE_RANK", "SWM_NUM_NODES", "SWM_GPUS", "SWM_HOSTFILE"}
    | {"CUDA_VISIBLE_DEVICES"}
)
"""What is known only where the queue lets the job run."""


class SlurmStarts:
    """Starts attempts.

    Args:
        jobs: Whose attempts they are.
        partitions: Tells how long a job may run.
        operations: Owns the mutations.
        config: Says how the site may be used.
        images: Has what attempts run in.
    """

    def __init__(
        self,
        jobs: SlurmAttempts,
        partitions: SlurmPartitions,
        operations: Operations,
        config: SlurmConfig,
        images: SlurmImages,
    ) -> None:
        self._jobs = jobs
        self._partitions = partitions
        self._operations = operations
        self._config = config
        self._images = images
        self._settlings = Settlings()
        self._submitting = asyncio.Lock()
        self._next_at = 0.0

    async def start(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        """Make sure that the attempt is in the queue, or was.

        Raises:
            Refusal: JOB_CANCELLED, JOB_DIFFERS, INPUTS_MISSING, FILE_NOT_FOUND, DISK_FULL,
                FIELD_REQUIRED for a start without a root, FIELD_MALFORMED for what Slurm refuses,
                SITE_QUEUE_FULL, SITE_UNREACHABLE; and as for `SlurmAttempts.status`.
        """
        key = AttemptKey.of(request.ref)
        return await self._operations.run(
            ("start", key, request.spec_fingerprint), lambda: self._start(request), on=key
        )

    async def _start(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        ref, spec = request.ref, request.spec
        key, account = AttemptKey.of(ref), self._jobs.sites.account(ref)
        host = account.host
        root = root_of(ref, host.node)
        if not root:
            return await self._unrooted(request)
        text = evidence.encode_spec(request)
        with as_refusals(ref, path=spec.stdin_path):
            await host.need_runner()
            is_text = spec.script.endswith(b"\n") and b"\0" not in spec.script
            reply = await host.ask(
                "spec_text" if is_text else "spec",
                key.path,
                root,
                spec.manifest_sha256.hex(),
                spec.workdir,
                spec.stdin_path,
                text,
                "",
                data=spec.script,
            )
            forgotten = ""
            if reply.lines:
                told = evidence.decode_spec(reply.lines[0].partition(" ")[2])
                if told.spec_fingerprint != request.spec_fingerprint:
                    raise errors.job_differs(ref)
                if (live := self._jobs.live.get(key)) is not None and live.is_starting:
                    return await self._published(live)
                if await self._is_there(ref):
                    status = await self._told(ref)
                    if status.state != job_pb2.JOB_STATE_STAGED:
                        return status
                forgotten = (await self._jobs.look(ref)).slurm_id
            else:
                await self._settlings.of(host).settle(key)
            kept = evidence.decode_spec(text)
            live = Live(
                _with_root(ref), Lasting(spec=kept, workdir=spec.workdir), account, time.monotonic()
            )
            if not spec.container_image:
                return await self._submit(request, live, forgotten)
            image = await self._images.have(request, live)
            if image is None:
                # It takes longer, or can't be had.
                return await (self._published(live) if live.is_starting else self._told(ref))
            self._jobs.live.pop(key, None)
            status = await self._submit(request, live, forgotten, image)
            await self._images.forget(key)
            return status

    async def _is_there(self, ref: types_pb2.JobRef) -> bool:
        """Whether anything says that the attempt was submitted.

        Of a start whose answer was lost nothing may; should it come late, the claim is taken.
        """
        found = await self._jobs.look(ref)
        if found.slurm_id or found.given or found.has_claim or found.final or found.is_buried:
            return True
        word = await self._jobs.queue(self._jobs.sites.account(ref)).fresh()
        return bool(word.of(AttemptKey.of(ref), found.root_uid))

    async def _submit(
        self,
        request: job_pb2.StartJobRequest,
        live: Live,
        forgotten: str,
        image: Image | None = None,
    ) -> job_pb2.JobStatus:
        """Submit it.

        Args:
            request: What was asked.
            live: The attempt.
            forgotten: The id under which the queue had it, if it had.
            image: What it runs in; None: in none.
        """
        ref, spec = request.ref, request.spec
        key, account = live.key, live.account
        self._check_room(account)
        facts = await account.host.open()
        arguments = await self._arguments(request, facts.root, facts.path, image)
        folder = f"{facts.root}/jobs/{key.path}"
        longest_s = self._partitions.one(ref.partition_id).longest_s
        asked = sbatch.request(request, folder, root_of(ref, account.host.node), longest_s)
        live.is_starting = True
        live.text = ""
        self._jobs.warn(key, asked.warnings)
        self._jobs.begin(live)
        is_every = spec.launch == job_pb2.LAUNCH_EVERY
        try:
            await self._wait_turn()
            slurm_id = await account.submit(
                key.path,
                root_of(ref, account.host.node),
                ranks=spec.node_count if is_every else 1,
                forgotten=forgotten,
                words=(
                    "sbatch",
                    *asked.options,
                    f"{facts.root}/{batch().name}",
                    *arguments,
                ),
                private=launching.encode_variables(self._variables(request, account, folder))
                # Who reads them in a container is told where they end.
                + (b".\n" if image else b""),
            )
        except Refusal as refusal:
            live.is_starting = False
            if refusal.reason not in {"NODE_UNREACHABLE", "SITE_UNREACHABLE"}:
                self._jobs.live.pop(key, None)  # it is certain that nothing was submitted
            raise
        except BaseException:
            self._jobs.live.pop(key, None)
            raise
        live.since = self._jobs.submitted_at = time.monotonic()
        live.is_starting = False
        if live.found is None or not (live.found.given or live.found.slurm_id):
            # A look that has found more was later.
            root_uid = root_of(ref, account.host.node)
            live.found = Evidence(root_uid, exists=True, lasting=live.lasting, slurm_id=slurm_id)
            live.looked_at = live.since
        assert live.lasting.spec is not None  # noqa: S101 - for the type only: it was made with it
        status = job_status.beginning(
            live.lasting.spec, [types_pb2.SiteRoot(root_uid=live.found.root_uid)]
        )
        status.warnings.extend(asked.warnings)
        status.handle = slurm_id
        status.state = job_pb2.JOB_STATE_QUEUED_AT_SITE
        status.text = "queued"
        self._jobs.queue(account).poke()
        published = await self._jobs.publish(live)
        return published or status

    async def _unrooted(self, request: job_pb2.StartJobRequest) -> job_pb2.JobStatus:
        """A start that names no root: answered only if it was done before."""
        found = await self._jobs.look(request.ref)
        spec = found.lasting.spec
        if spec is None:
            if found.is_buried:
                raise errors.job_cancelled(request.ref)
            raise errors.invalid(
                "ref.roots has no root; call PutFiles first",
                field="ref.roots",
                reason="FIELD_REQUIRED",
            )
        if spec.spec_fingerprint != request.spec_fingerprint:
            raise errors.job_differs(request.ref)
        return await self._told(request.ref)

    async def _published(self, live: Live) -> job_pb2.JobStatus:
        """An attempt whose image is being fetched, as it is now."""
        status = await self._jobs.publish(live)
        return status or await self._told(live.ref)

    async def _told(self, ref: types_pb2.JobRef) -> job_pb2.JobStatus:
        status = await self._jobs.status(ref)
        if status is None:
            raise errors.busy("the attempt is being removed")
        return status

    def _check_room(self, account: Account) -> None:
        most = self._config.max_jobs
        count = sum(live.account is account for live in self._jobs.live.values())
        if most and count >= most:
            raise errors.site_queue_full(
                f"{count} jobs are in the queue, as many as [slurm] max_jobs lets",
                retry_after_s=_FULL_RETRY_S,
            )

    async def _wait_turn(self) -> None:
        """Keep submissions apart, if the site wants that."""
        if not self._config.submits_per_s:
            return
        async with self._submitting:
            rest_s = self._next_at - time.monotonic()
            if rest_s > 0:
                await asyncio.sleep(rest_s)
            self._next_at = time.monotonic() + 1 / self._config.submits_per_s

    async def _arguments(
        self, request: job_pb2.StartJobRequest, root: str, site_path: str, image: Image | None
    ) -> tuple[str, ...]:
        """What batch.sh is started with."""
        spec, key = request.spec, AttemptKey.of(request.ref)
        ports = " ".join(f"{port.number or ''}/{port.name}" for port in spec.ports)
        path = spec.env.get("PATH") or site_path
        program: Sequence[str] = launching.interpreter(spec.script)
        if image is not None:
            # What begins is ours, and sees to the variables itself.
            path, program = "", await self._images.command(request, image)
        return (
            "every" if spec.launch == job_pb2.LAUNCH_EVERY else "first",
            root,
            key.path,
            key.name,
            f"{root}/{runner().name}",
            spec.workdir,
            spec.stdin_path,
            launching.limit(spec),
            launching.tenths(launching.grace_s(spec)),
            path,
            ports,
            *program,
        )

    def _variables(
        self, request: job_pb2.StartJobRequest, account: Account, folder: str
    ) -> dict[str, str]:
        """What a job has in its environment, but for what is known only on its nodes."""
        facts, spec = account.host.facts, request.spec
        assert facts is not None  # noqa: S101 - for the type only: it is open
        around = launching.Surroundings(
            node="",
            nodes=[""],
            addresses={},
            home=facts.home,
            user=facts.user,
            # A container has a shell and programs of its own.
            login_shell="/bin/sh" if spec.container_image else facts.shell,
            work=spec.workdir or f"{folder}/work",
            hosts="",
            site={} if spec.container_image else facts.lang,
            storage={name: self._images.volumes[name].path for name in spec.storage},
        )
        variables = launching.environment(request, around, ())
        for name in _ON_NODES:
            variables.pop(name, None)
        return variables | launching.without_ours(request.secret_env)


def _with_root(ref: types_pb2.JobRef) -> types_pb2.JobRef:
    kept = types_pb2.JobRef()
    kept.CopyFrom(ref)
    return kept
