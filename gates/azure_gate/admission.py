"""What is checked before any node is asked: fields, the owner, the place, what can be had."""

from __future__ import annotations

from gate_kit import check_ref, errors
from gate_kit.job_checks import JobChecks, Place
from gate_kit.ssh import workdirs
from gate_kit.ssh.host import Host
from gates.azure_gate.partitions import Partitions
from skyport.gate.v1 import job_pb2, types_pb2

_WORKDIR_ROOTS = ("~", "/tmp", "/mnt")  # noqa: S108 - the nodes are the owner's alone  # nosec B108


class Admission:
    """Lets requests in, or says why not.

    Args:
        checks: What the gate can do.
        partitions: Where jobs may be.
    """

    def __init__(self, checks: JobChecks, partitions: Partitions) -> None:
        self.checks = checks
        self._partitions = partitions

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        self.checks.need(capability, what)

    def ref(self, ref: types_pb2.JobRef) -> Place:
        """Where the attempt of `ref` is or would be.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND, SITE_UNREACHABLE;
                NODE_UNREACHABLE for a node that is none of the partition's.
        """
        check_ref(ref)
        place = self._partitions.place(ref.partition_id)
        known = self._partitions.find(ref.partition_id)
        if known is not None and known.tags.owner != ref.owner:
            raise errors.user_not_mapped(ref.owner)
        self.checks.nodes(ref, place)
        return place

    def start(self, request: job_pb2.StartJobRequest) -> Place:
        """Check a StartJob as far as that goes without its nodes; returns where it goes.

        Raises:
            Refusal: As for `ref`; PATH_INVALID, CAPABILITY_MISSING.
        """
        place = self.ref(request.ref)
        self.checks.start(request, place)
        known = self._partitions.find(request.ref.partition_id)
        spec = request.spec
        if known is not None and bool(spec.container_image) != known.tags.spec.containers:
            has = "jobs in containers" if known.tags.spec.containers else "jobs without containers"
            raise errors.invalid(
                f"partition {known.id} was made for {has}", field="spec.container_image"
            )
        lacking = set(spec.storage) - set(known.tags.spec.storage if known else ())
        if lacking:
            raise errors.invalid(
                f"partition {request.ref.partition_id} was made without storage {min(lacking)}",
                field="spec.storage",
            )
        return place

    def partition(self, partition_id: str) -> None:
        """Raise PARTITION_NOT_FOUND unless there is such a partition."""
        self._partitions.place(partition_id)

    async def workdir(self, host: Host, workdir: str) -> None:
        """Raise WORKDIR_NOT_ALLOWED unless jobs may work in that folder of a node."""
        await workdirs.check(host, workdir, _WORKDIR_ROOTS)
