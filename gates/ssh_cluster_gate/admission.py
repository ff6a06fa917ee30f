"""What is checked before any host is asked: fields, the owner's account, the place, reach."""

from __future__ import annotations

from gate_kit import check_ref
from gate_kit.job_checks import JobChecks, Place
from gate_kit.ssh import workdirs
from gate_kit.ssh.host import Host
from gates.ssh_cluster_gate.hosts import Hosts
from gates.ssh_cluster_gate.partitions import Partitions
from gates.ssh_cluster_gate.plan import SitePlan
from skyport.gate.v1 import job_pb2, types_pb2


class Admission:
    """Lets requests in, or says why not.

    Args:
        plan: What the gate can do.
        partitions: Where jobs may be.
        hosts: Who runs as which account.
    """

    def __init__(self, plan: SitePlan, partitions: Partitions, hosts: Hosts) -> None:
        self.checks = JobChecks(plan.capabilities, storage=plan.volumes)
        self._workdir_roots = plan.config.workdir_roots
        self._partitions = partitions
        self._hosts = hosts

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        self.checks.need(capability, what)

    def ref(self, ref: types_pb2.JobRef) -> Place:
        """Where the attempt of `ref` is or would be.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND; NODE_UNREACHABLE for a node that
                is none of the partition's.
        """
        check_ref(ref)
        self._hosts.login(ref.owner)
        place = self._partitions.place(ref.partition_id)
        self.checks.nodes(ref, place)
        return place

    def start(self, request: job_pb2.StartJobRequest) -> Place:
        """Check a StartJob as far as that goes without its hosts; returns where it goes.

        Raises:
            Refusal: As for `ref`; PATH_INVALID, CAPABILITY_MISSING.
        """
        place = self.ref(request.ref)
        self.checks.start(request, place)
        return place

    def partition(self, partition_id: str) -> None:
        """Raise PARTITION_NOT_FOUND unless there is such a partition."""
        self._partitions.place(partition_id)

    async def workdir(self, host: Host, workdir: str) -> None:
        """Raise WORKDIR_NOT_ALLOWED unless the site lets jobs work in that folder of a host."""
        await workdirs.check(host, workdir, self._workdir_roots)
