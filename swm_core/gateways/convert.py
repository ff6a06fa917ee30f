"""Between the core's values and the messages of the Gate API."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from decimal import Decimal

from google.protobuf import duration_pb2, timestamp_pb2

from skyport.common.v1 import money_pb2
from skyport.gate.v1 import job_pb2, partition_pb2, types_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Allocation, End, Job, Launch
from swm_core.domain.partition import PartitionSpec
from swm_core.domain.words import words
from swm_core.store import Attempt, Root

NANOS = 1_000_000_000

# What a gate says, as what the core records. A reason that is not here is not retryable.
_REASONS = {
    "TIME_LIMIT": FailureReason.TIME_LIMIT,
    "OUT_OF_MEMORY": FailureReason.OUT_OF_MEMORY,
    "NODE_FAIL": FailureReason.NODE_FAIL,
    "PREEMPTED": FailureReason.PREEMPTED,
    "START_FAILED": FailureReason.START_FAILED,
    "END_UNKNOWN": FailureReason.END_UNKNOWN,
    "USER_NOT_MAPPED": FailureReason.USER_NOT_MAPPED,
    "IMAGE_NOT_FOUND": FailureReason.IMAGE_UNAVAILABLE,
    "IMAGE_AUTH": FailureReason.IMAGE_UNAVAILABLE,
    "REGISTRY_UNREACHABLE": FailureReason.IMAGE_UNAVAILABLE,
    "CAPACITY": FailureReason.NO_CAPACITY,
    "QUOTA": FailureReason.NO_CAPACITY,
    "SITE_QUEUE_FULL": FailureReason.NO_CAPACITY,
    "DISK_FULL": FailureReason.STAGING_FAILED,
    "PROVISIONING_FAILED": FailureReason.PROVISIONING_FAILED,
}
_LATEST_S = 253_402_300_799
"""The end of the year 9999: what comes after it can't be shown as a date."""
_NODES = 10_000
_MAX_PORT = 65_535
_WARNINGS = 20
_WARNING_CHARS = 500
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}", re.ASCII)
_RETRYABLE = frozenset(
    {FailureReason.NODE_FAIL, FailureReason.PREEMPTED, FailureReason.START_FAILED}
)


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    """The same time as a message."""
    found = timestamp_pb2.Timestamp()
    found.FromNanoseconds(round(seconds * NANOS))
    return found


def duration(seconds: float) -> duration_pb2.Duration:
    """The same length of time as a message."""
    found = duration_pb2.Duration()
    found.FromNanoseconds(round(seconds * NANOS))
    return found


def job_ref(
    attempt: Job | Attempt, installation: str, roots: Iterable[Root], *, queue: bool
) -> types_pb2.JobRef:
    """Which attempt is meant.

    Args:
        attempt: A job that has a place, or one of its attempts.
        installation: This core's.
        roots: What the gate told of the owner's roots in the partition.
        queue: Whether the site's own queue chooses the nodes.
    """
    nodes = [] if queue else [allocation.node for allocation in attempt.allocations]
    return types_pb2.JobRef(
        installation=installation,
        partition_id=attempt.partition_id,
        job_id=attempt.job_id,
        attempt=attempt.attempt,
        owner=attempt.owner,
        nodes=nodes,
        roots=[
            types_pb2.SiteRoot(node=root.node, root_uid=root.root_uid)
            for root in roots
            if root.node in nodes or not root.node
        ],
    )


def job_spec(job: Job, script: bytes, option_prefix: str) -> job_pb2.JobSpec:
    """What is to run, for a gate.

    Args:
        job: The job, with its place.
        script: As the user wrote it.
        option_prefix: Of the gate's own options; others are for other kinds of site.
    """
    spec = job.spec
    needs = spec.resources
    message = job_pb2.JobSpec(
        script=script,
        name=spec.name,
        resources=job_pb2.Resources(
            cpus=needs.cpus,
            memory_bytes=needs.mem_bytes,
            gpus=needs.gpus,
            disk_bytes=needs.disk_bytes,
        ),
        node_count=spec.nodes,
        launch=(job_pb2.LAUNCH_EVERY if spec.launch is Launch.EVERY else job_pb2.LAUNCH_FIRST),
        env=spec.env,
        workdir=spec.workdir,
        stdin_path=spec.stdin,
        container_image=spec.container_image,
        storage=spec.storage,
        site_options=spec.options_of(option_prefix),
        manifest_sha256=bytes.fromhex(job.manifest_sha256),
        account=spec.account,
    )
    if not job.allocations:
        message.ports.extend(
            job_pb2.PortRequest(number=port.number, name=port.name) for port in spec.ports
        )
    if limit_s := spec.time_limit_s or job.time_limit_s:
        message.time_limit.CopyFrom(duration(limit_s))
    return message


def money(amount: Decimal, currency: str) -> money_pb2.Money:
    """The same amount as a message."""
    units = int(amount)
    return money_pb2.Money(currency_code=currency, units=units, nanos=int((amount - units) * NANOS))


def price(told: money_pb2.HourlyPrice) -> tuple[Decimal | None, str]:
    """What an hour costs, and in which currency; None and empty: it is no price."""
    amount = told.amount
    found = Decimal(amount.units) + Decimal(amount.nanos).scaleb(-9)
    # Nobody is paid for taking a node.
    if found < 0 or not _CURRENCY.fullmatch(amount.currency_code):
        return None, ""
    return found, amount.currency_code


def partition_spec(spec: PartitionSpec) -> partition_pb2.PartitionSpec:
    """What a partition is to be made of, for a gate."""
    message = partition_pb2.PartitionSpec(
        flavor=spec.flavor,
        location=spec.location,
        node_count=spec.node_count,
        image=spec.image,
        spot=spec.spot,
        disk_bytes=spec.disk_bytes,
        site_options=dict(spec.site_options),
        storage=spec.storage,
        containers=spec.containers,
    )
    if spec.spot_price_limit is not None:
        message.spot_price_limit.CopyFrom(money(spec.spot_price_limit, spec.spot_currency))
    return message


def allocation_messages(allocations: Iterable[Allocation]) -> list[types_pb2.Allocation]:
    """The same allocations, for the gate."""
    return [
        types_pb2.Allocation(
            node=allocation.node,
            cpus=allocation.cpus,
            memory_bytes=allocation.mem_bytes,
            gpu_ids=allocation.gpu_ids,
            ports=[
                types_pb2.AllocatedPort(name="" if name.isdigit() else name, port=number)
                for name, number in allocation.ports.items()
            ],
        )
        for allocation in allocations
    ]


def allocations(messages: Iterable[types_pb2.Allocation]) -> tuple[Allocation, ...]:
    """What the gate says that a queue gave; a name that no node can have is left out."""
    return tuple(
        Allocation(
            node=message.node,
            cpus=message.cpus,
            mem_bytes=message.memory_bytes,
            gpu_ids=tuple(message.gpu_ids),
            ports={
                port.name or str(port.port): port.port
                for port in message.ports
                if 0 < port.port <= _MAX_PORT
            },
        )
        # They name folders: of outputs, and at the user's side.
        for message in itertools.islice(messages, _NODES)
        if _NODE.fullmatch(message.node)
    )


def seconds(at: timestamp_pb2.Timestamp | duration_pb2.Duration) -> float:
    """A time or a length of time that a gate tells, within what can be stored and shown."""
    return min(max(at.seconds + at.nanos / NANOS, 0.0), float(_LATEST_S))


def fingerprint(request: job_pb2.StartJobRequest) -> str:
    """SHA-256 (hex) of what is asked, without secrets: the same after a restart of the core."""
    digest = hashlib.sha256(request.spec.SerializeToString(deterministic=True))
    for allocation in request.allocations:
        digest.update(allocation.SerializeToString(deterministic=True))
    return digest.hexdigest()


def failure(message: types_pb2.Failure) -> Failure:
    """A gate's failure as the core records it."""
    reason = _REASONS.get(message.reason)
    if reason is None:
        return Failure(
            FailureReason.START_FAILED,
            words(f"{message.reason}: {message.message}"),
            retryable=False,
        )
    return Failure(reason, words(message.message), message.retryable or reason in _RETRYABLE)


def end(status: job_pb2.JobStatus) -> End:
    """How an attempt ended."""
    message = status.end
    outcome = message.WhichOneof("outcome")
    return End(
        exit_code=message.exit_code if outcome == "exit_code" else None,
        signal=message.signal if outcome == "signal" else None,
        failure=failure(message.failure) if outcome == "failure" else None,
        start_time=seconds(message.start_time) if message.HasField("start_time") else None,
        end_time=seconds(message.end_time),
        cpu_time_s=seconds(message.usage.cpu_time),
        max_mem_bytes=message.usage.max_memory_bytes,
        warnings=tuple(words(text)[:_WARNING_CHARS] for text in status.warnings[:_WARNINGS]),
        image_digest=status.image_digest if _DIGEST.fullmatch(status.image_digest) else "",
    )


def cancelled(message: job_pb2.JobEnd) -> bool:
    """Whether the attempt ended by CancelJob."""
    return message.WhichOneof("outcome") == "failure" and message.failure.reason == "CANCELLED"
