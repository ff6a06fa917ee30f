"""What is checked of requests about jobs before anything is looked at: the same for every gate.

What a site allows beyond it (accounts, folders, images, what is reachable) is each gate's own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from gate_kit import errors
from gate_kit.validation import Fields
from skyport.gate.v1 import job_pb2, types_pb2

_SCRIPT_BYTES = 1 << 20
_ENVIRONMENT_BYTES = 1 << 20
_PORT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
# A name with a registry before it and a tag or digest behind it. None begins with a dash, which
# programs would take for an option.
_IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_LONGEST_S = 100 * 366 * 86_400
LONGEST_GRACE_S = 86_400
"""Between TERM and KILL, at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a job may run: the kind of a partition and the names of its nodes."""

    kind: types_pb2.PartitionKind.ValueType
    gpus: Mapping[str, Sequence[str] | None]
    """For each of its nodes, in order, the ids of its GPUs; None while they are not known."""
    is_ready: bool
    text: str

    @property
    def nodes(self) -> Collection[str]:
        """The names of its nodes."""
        return self.gpus.keys()


class JobChecks:
    """Checks requests against what the gate says that it can do.

    Args:
        capabilities: What it has.
        options: Names of the options that jobs may be given.
        storage: Names of the storage that they may ask for.
    """

    def __init__(
        self,
        capabilities: Collection[types_pb2.Capability.ValueType],
        *,
        options: Collection[str] = (),
        storage: Collection[str] = (),
    ) -> None:
        self._capabilities = capabilities
        self._options = options
        self._storage = storage

    def need(self, capability: types_pb2.Capability.ValueType, what: str) -> None:
        """Raise CAPABILITY_MISSING unless the gate has it."""
        if capability not in self._capabilities:
            raise errors.capability_missing(capability, what)

    def nodes(self, ref: types_pb2.JobRef, place: Place) -> None:
        """Raise unless `ref`, which is complete, names nodes of its partition.

        Raises:
            Refusal: FIELD_*; NODE_UNREACHABLE for a node that is none of it.
        """
        fields = Fields()
        if place.kind == types_pb2.PARTITION_KIND_QUEUE:
            if ref.nodes:
                fields.wrong("ref.nodes", "must be empty: the queue chooses")
        elif fields.present("ref.nodes", ref.nodes) and place.is_ready:
            for node in ref.nodes:
                if node not in place.nodes:
                    raise errors.node_unreachable(node, f"{ref.partition_id} has no node {node}")
        fields.done()

    def node(self, ref: types_pb2.JobRef, name: str, field: str = "node") -> None:
        """Raise unless `name` is empty or a node of the job, as far as that is known."""
        if name and ref.nodes and name not in ref.nodes:
            fields = Fields()
            fields.wrong(field, f"is {name}, which is not a node of the job")
            fields.done()

    def start(self, request: job_pb2.StartJobRequest, place: Place) -> None:
        """Check a StartJob as a whole, but for its `ref`, its image and its named work folder.

        Raises:
            Refusal: FIELD_*, PATH_INVALID, CAPABILITY_MISSING.
        """
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
            _ports(fields, spec)
            if spec.node_count > len(place.nodes):
                fields.wrong(
                    "spec.node_count",
                    f"is {spec.node_count}; {request.ref.partition_id} has {len(place.nodes)}",
                    "FIELD_OUT_OF_RANGE",
                )
        else:
            _allocations(fields, request, place)
        fields.done()
        if spec.node_count > 1:
            self.need(types_pb2.CAPABILITY_MULTI_NODE, "a job on several nodes")
        if spec.container_image:
            self.need(types_pb2.CAPABILITY_CONTAINERS, "spec.container_image")
            if not _IMAGE.fullmatch(spec.container_image):
                raise errors.invalid(
                    f"spec.container_image is {spec.container_image[:200]!r}, which is not the name"
                    " of an image; write it as registry.example.org/name:tag",
                    field="spec.container_image",
                )
        self.storage(spec.storage)

    def options(self, fields: Fields, given: Mapping[str, str]) -> None:
        """Note the options that this site does not have."""
        known = ", ".join(sorted(self._options))
        takes = f"it takes {known}" if known else "it takes none"
        for name in given:
            if name not in self._options:
                fields.wrong(
                    f"spec.site_options[{name[:200]}]", f"is no option of this site; {takes}"
                )

    def storage(self, names: Sequence[str]) -> None:
        """Raise unless the site offers all of `names`."""
        if not names:
            return
        self.need(types_pb2.CAPABILITY_STORAGE, "spec.storage")
        for name in names:
            if name not in self._storage:
                raise errors.invalid(f"this site has no storage {name}", field="spec.storage")

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
            if seconds(spec.time_limit) == 0:
                fields.wrong("spec.time_limit", "is zero; leave it out for none")
        fields.duration("spec.grace", spec.grace, longest_s=LONGEST_GRACE_S)
        fields.variables("spec.env", dict(spec.env))
        fields.path("spec.stdin_path", spec.stdin_path, required=False)
        fields.digest("spec.manifest_sha256", spec.manifest_sha256, required=False)
        self.options(fields, spec.site_options)


def seconds(value: Duration) -> float:
    """A Duration in seconds."""
    return value.seconds + value.nanos / 1e9


def _allocations(fields: Fields, request: job_pb2.StartJobRequest, place: Place) -> None:
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
        gpus = place.gpus.get(allocation.node, ())
        unknown = set() if gpus is None else set(allocation.gpu_ids) - set(gpus)
        if unknown and place.is_ready:
            fields.wrong(f"{at}.gpu_ids", f"names {min(unknown)}, which the node lacks")


def _ports(fields: Fields, spec: job_pb2.JobSpec) -> None:
    for index, port in enumerate(spec.ports):
        at = f"spec.ports[{index}]"
        fields.at_most(f"{at}.number", port.number, 65_535)
        if not port.number:
            fields.present(f"{at}.name", port.name)
        if port.name and not _PORT_NAME.fullmatch(port.name):
            fields.wrong(f"{at}.name", "is not a name for a port: letters, digits and _")
