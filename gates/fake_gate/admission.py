"""What is checked before anything is looked at: fields, the owner's account, the place, reach."""

from __future__ import annotations

import os
from pathlib import Path

from gate_kit import check_ref, errors
from gate_kit.job_checks import JobChecks, Place
from gates.fake_gate.command import Account, own_account
from gates.fake_gate.config import Config, ImageUse
from gates.fake_gate.faults import FaultScript
from gates.fake_gate.partitions import Partitions
from skyport.gate.v1 import job_pb2, types_pb2


class Admission:
    """Lets requests in, or says why not.

    Args:
        config: Users, images, folders and capabilities.
        partitions: Where jobs may be.
        faults: Which nodes do not answer.
    """

    def __init__(self, config: Config, partitions: Partitions, faults: FaultScript) -> None:
        self.checks = JobChecks(config.capabilities, options=config.options, storage=config.storage)
        self._config = config
        self._partitions = partitions
        self._faults = faults

    def account(self, owner: str) -> Account:
        """The account that the jobs of `owner` run as.

        Raises:
            Refusal: USER_NOT_MAPPED.
        """
        if types_pb2.CAPABILITY_USER_MAPPING not in self._config.capabilities:
            return own_account(path=self._config.path)
        name = self._config.users.get(owner)
        if name is None:
            raise errors.user_not_mapped(owner)
        return own_account(name, self._config.path)

    def ref(self, ref: types_pb2.JobRef) -> Place:
        """Where the attempt of `ref` is or would be.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND, NODE_UNREACHABLE.
        """
        check_ref(ref)
        self.account(ref.owner)
        place = self._partitions.place(ref.partition_id)
        self.checks.nodes(ref, place)
        down = self._faults.unreachable
        for node in ref.nodes:
            if node in down:
                raise errors.node_unreachable(node, f"{node} does not answer", retry_after_s=1.0)
        return place

    def partition(self, partition_id: str) -> None:
        """Raise PARTITION_NOT_FOUND unless there is such a partition."""
        self._partitions.get(partition_id)

    def workdir(self, workdir: str) -> None:
        """Raise WORKDIR_NOT_ALLOWED unless the folder lies below one that the site allows."""
        if not workdir:
            return
        # By what it really is: a link below an allowed root may lead anywhere.
        real = Path(os.path.realpath(workdir))
        roots = [Path(os.path.realpath(root)) for root in self._config.workdir_roots]
        inside = any(real != root and real.is_relative_to(root) for root in roots)
        if not workdir.startswith("/") or "\0" in workdir or not inside:
            raise errors.workdir_not_allowed(workdir, self._config.workdir_roots)

    def start(self, request: job_pb2.StartJobRequest) -> Place:
        """Check a StartJob as a whole; returns where it goes."""
        place = self.ref(request.ref)
        self.checks.start(request, place)
        spec = request.spec
        self.workdir(spec.workdir)
        containers = [i.name for i in self._config.images if i.kind is ImageUse.CONTAINER]
        if spec.container_image and spec.container_image not in containers:
            raise errors.image_not_found(spec.container_image)
        return place
