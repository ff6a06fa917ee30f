"""What is checked before the site is asked: fields, the owner's account, what is ever given."""

from __future__ import annotations

from gate_kit import Fields, check_ref
from gate_kit.job_checks import JobChecks, Place, seconds
from gate_kit.ssh import workdirs
from gate_kit.ssh.host import Host
from gates.ssh_cluster_gate.plan import SitePlan
from gates.ssh_cluster_gate.slurm.directives import SITE_OPTIONS
from gates.ssh_cluster_gate.slurm.inventory import Partition
from gates.ssh_cluster_gate.slurm.partitions import SlurmPartitions
from gates.ssh_cluster_gate.slurm.sites import SlurmSites
from skyport.gate.v1 import job_pb2, types_pb2

_RANGE = "FIELD_OUT_OF_RANGE"


class SlurmAdmission:
    """Lets requests in, or says why not.

    Args:
        plan: What the gate can do.
        partitions: Where jobs may be.
        sites: Who runs as which account.
    """

    def __init__(self, plan: SitePlan, partitions: SlurmPartitions, sites: SlurmSites) -> None:
        self.checks = JobChecks(plan.capabilities, options=SITE_OPTIONS, storage=plan.volumes)
        self._workdir_roots = plan.config.workdir_roots
        self._partitions = partitions
        self._sites = sites

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        self.checks.need(capability, what)

    def ref(self, ref: types_pb2.JobRef) -> Place:
        """Where the attempt of `ref` is or would be.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND, SITE_UNREACHABLE.
        """
        check_ref(ref)
        self._sites.hosts(ref)
        place = self._partitions.place(ref.partition_id)
        self.checks.nodes(ref, place)
        return place

    def start(self, request: job_pb2.StartJobRequest) -> Place:
        """Check a StartJob as far as that goes without the site; returns where it goes.

        Raises:
            Refusal: As for `ref`; FIELD_*, PATH_INVALID, CAPABILITY_MISSING.
        """
        place = self.ref(request.ref)
        partition = self._partitions.one(request.ref.partition_id)
        self.checks.start(request, place)
        _check_range(request.spec, partition)
        return place

    def partition(self, partition_id: str) -> None:
        """Raise PARTITION_NOT_FOUND unless there is such a partition."""
        self._partitions.one(partition_id)

    async def workdir(self, host: Host, workdir: str) -> None:
        """Raise WORKDIR_NOT_ALLOWED unless the site lets jobs work in that folder."""
        await workdirs.check(host, workdir, self._workdir_roots)


def _check_range(spec: job_pb2.JobSpec, partition: Partition) -> None:
    """Raise FIELD_OUT_OF_RANGE for what no node of the partition ever gives."""
    fields = Fields()
    longest_s = partition.longest_s
    if longest_s and spec.HasField("time_limit") and seconds(spec.time_limit) > longest_s:
        text = f"is longer than {partition.name} ever gives, {longest_s:.0f} s"
        fields.wrong("spec.time_limit", text, _RANGE)
    nodes = partition.nodes.values()
    for name, wanted, most in (
        ("cpus", spec.resources.cpus, max((node.cpus for node in nodes), default=0)),
        (
            "memory_bytes",
            spec.resources.memory_bytes,
            max((node.memory_bytes for node in nodes), default=0),
        ),
        ("gpus", spec.resources.gpus, max((node.gpus for node in nodes), default=0)),
    ):
        if wanted > most:
            text = f"is {wanted}; no node of {partition.name} has more than {most}"
            fields.wrong(f"spec.resources.{name}", text, _RANGE)
    fields.done()
