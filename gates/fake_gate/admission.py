"""What is checked before anything is looked at: fields, the owner's account, the place, reach."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gate_kit import Fields, check_ref, errors
from gates.fake_gate.command import Account, own_account, seconds
from gates.fake_gate.config import Config, ImageUse
from gates.fake_gate.faults import FaultScript
from gates.fake_gate.partitions import Partitions, Place
from skyport.gate.v1 import job_pb2, types_pb2

_SCRIPT_BYTES = 1 << 20
_ENVIRONMENT_BYTES = 1 << 20
_PORT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_LONGEST_S = 100 * 366 * 86_400
_LONGEST_GRACE_S = 86_400


class Admission:
    """Lets requests in, or says why not.

    Args:
        config: Users, images, folders and capabilities.
        partitions: Where jobs may be.
        faults: Which nodes do not answer.
    """

    def __init__(self, config: Config, partitions: Partitions, faults: FaultScript) -> None:
        self._config = config
        self._capabilities = config.capabilities
        self._partitions = partitions
        self._faults = faults

    def account(self, owner: str) -> Account:
        """The account that the jobs of `owner` run as.

        Raises:
            Refusal: USER_NOT_MAPPED.
        """
        if types_pb2.CAPABILITY_USER_MAPPING not in self._capabilities:
            return own_account(path=self._config.path)
        name = self._config.users.get(owner)
        if name is None:
            raise errors.user_not_mapped(owner)
        return own_account(name, self._config.path)

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        if capability not in self._capabilities:
            raise errors.capability_missing(capability, what)

    def ref(self, ref: types_pb2.JobRef) -> Place:
        """Where the attempt of `ref` is or would be.

        Raises:
            Refusal: FIELD_*, USER_NOT_MAPPED, PARTITION_NOT_FOUND, NODE_UNREACHABLE.
        """
        check_ref(ref)
        self.account(ref.owner)
        place = self._partitions.place(ref.partition_id)
        fields = Fields()
        if place.kind == types_pb2.PARTITION_KIND_QUEUE:
            if ref.nodes:
                fields.wrong("ref.nodes", "must be empty: the queue chooses")
        elif fields.present("ref.nodes", ref.nodes) and place.is_ready:
            for node in ref.nodes:
                if node not in place.nodes:
                    raise errors.node_unreachable(node, f"{ref.partition_id} has no node {node}")
        fields.done()
        down = self._faults.unreachable
        for node in ref.nodes:
            if node in down:
                raise errors.node_unreachable(node, f"{node} does not answer", retry_after_s=1.0)
        return place

    def node(self, ref: types_pb2.JobRef, name: str, field: str = "node") -> None:
        """Raise unless `name` is empty or a node of the job, as far as that is known."""
        if name and ref.nodes and name not in ref.nodes:
            fields = Fields()
            fields.wrong(field, f"is {name}, which is not a node of the job")
            fields.done()

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
        spec = request.spec
        fields = Fields()
        fields.fingerprint("spec_fingerprint", request.spec_fingerprint)
        fields.origin(request.origin, request.ref.installation)
        if fields.present("spec", spec):
            self._spec(fields, spec)
        fields.variables("secret_env", dict(request.secret_env))
        both = (*spec.env.items(), *request.secret_env.items())
        total = sum(len(name) + len(value.encode()) for name, value in both)
        if total > _ENVIRONMENT_BYTES:
            fields.wrong("spec.env", "is longer than 1 MiB with secret_env", "FIELD_OUT_OF_RANGE")
        if place.kind == types_pb2.PARTITION_KIND_QUEUE:
            if request.allocations:
                fields.wrong("allocations", "must be empty: the queue allocates")
            self._ports(fields, spec)
            if spec.node_count > len(place.nodes):
                fields.wrong(
                    "spec.node_count",
                    f"is {spec.node_count}; {request.ref.partition_id} has {len(place.nodes)}",
                    "FIELD_OUT_OF_RANGE",
                )
        else:
            self._allocations(fields, request, place)
        fields.done()
        self._capable(spec)
        self.workdir(spec.workdir)
        if spec.container_image and spec.container_image not in self._containers():
            raise errors.image_not_found(spec.container_image)
        return place

    def _spec(self, fields: Fields, spec: job_pb2.JobSpec) -> None:
        if fields.present("spec.script", spec.script):
            if len(spec.script) > _SCRIPT_BYTES:
                fields.wrong("spec.script", "is longer than 1 MiB", "FIELD_OUT_OF_RANGE")
            if b"\0" in spec.script:
                fields.wrong("spec.script", "holds NUL")
            try:
                spec.script.decode()
            except UnicodeDecodeError:
                fields.wrong("spec.script", "is not UTF-8")
        fields.text("spec.name", spec.name, limit=256)
        fields.at_least("spec.resources.cpus", spec.resources.cpus, 1)
        fields.at_least("spec.node_count", spec.node_count, 1)
        fields.choice("spec.launch", spec.launch, job_pb2.Launch.values())
        if spec.HasField("time_limit"):
            fields.duration("spec.time_limit", spec.time_limit, longest_s=_LONGEST_S)
            if seconds(spec.time_limit.seconds, spec.time_limit.nanos) == 0:
                fields.wrong("spec.time_limit", "is zero; leave it out for none")
        fields.duration("spec.grace", spec.grace, longest_s=_LONGEST_GRACE_S)
        fields.variables("spec.env", dict(spec.env))
        fields.path("spec.stdin_path", spec.stdin_path, required=False)
        fields.digest("spec.manifest_sha256", spec.manifest_sha256, required=False)
        self.options(fields, spec.site_options)

    def _allocations(self, fields: Fields, request: job_pb2.StartJobRequest, place: Place) -> None:
        spec, nodes = request.spec, list(request.ref.nodes)
        if spec.node_count != len(nodes):
            fields.wrong("spec.node_count", f"is {spec.node_count}; ref names {len(nodes)} nodes")
        if [allocation.node for allocation in request.allocations] != nodes:
            fields.wrong("allocations", "must be one for each of ref.nodes, in that order")
        for index, allocation in enumerate(request.allocations):
            at = f"allocations[{index}]"
            fields.at_least(f"{at}.cpus", allocation.cpus, 1)
            for port in allocation.ports:
                fields.port(f"{at}.ports", port.port)
            unknown = set(allocation.gpu_ids) - set(place.gpus.get(allocation.node, ()))
            if unknown and place.is_ready:
                fields.wrong(f"{at}.gpu_ids", f"names {min(unknown)}, which the node lacks")

    def _capable(self, spec: job_pb2.JobSpec) -> None:
        if spec.node_count > 1:
            self.need(types_pb2.CAPABILITY_MULTI_NODE, "a job on several nodes")
        if spec.container_image:
            self.need(types_pb2.CAPABILITY_CONTAINERS, "spec.container_image")
        self.storage(spec.storage)

    def options(self, fields: Fields, given: Mapping[str, str]) -> None:
        """Note the options that this site does not have."""
        for name in given:
            if name not in self._config.options:
                fields.wrong(f"spec.site_options[{name[:200]}]", "is no option of this site")

    def storage(self, names: Sequence[str]) -> None:
        """Raise unless the site offers all of `names`."""
        if not names:
            return
        self.need(types_pb2.CAPABILITY_STORAGE, "spec.storage")
        for name in names:
            if name not in self._config.storage:
                raise errors.invalid(f"this site has no storage {name}", field="spec.storage")

    def _ports(self, fields: Fields, spec: job_pb2.JobSpec) -> None:
        for index, port in enumerate(spec.ports):
            at = f"spec.ports[{index}]"
            fields.at_most(f"{at}.number", port.number, 65_535)
            if not port.number:
                fields.present(f"{at}.name", port.name)
            if port.name and not _PORT_NAME.fullmatch(port.name):
                fields.wrong(f"{at}.name", "is not a name for a port: letters, digits and _")

    def _containers(self) -> Sequence[str]:
        return [i.name for i in self._config.images if i.kind is ImageUse.CONTAINER]
