"""Between the core's values and the messages of the Terminal API."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from decimal import Decimal

from google.protobuf import duration_pb2, timestamp_pb2

from skyport.common.v1 import money_pb2
from skyport.terminal.v1 import job_pb2, types_pb2
from swm_core.domain import failures
from swm_core.domain.job import Allocation, Direction, Job, JobSpec, Launch
from swm_core.domain.partition import Partition
from swm_core.domain.states import JobState
from swm_core.store import Attempt, Event, EventKind, Outcome

NANOS = 1_000_000_000

_STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state}") for state in JobState}
_BY_NUMBER = {number: state for state, number in _STATES.items()}

_KINDS = {
    EventKind.SUBMITTED: job_pb2.JOB_EVENT_KIND_STATE,
    EventKind.TRANSITION: job_pb2.JOB_EVENT_KIND_STATE,
    EventKind.UPDATED: job_pb2.JOB_EVENT_KIND_UPDATE,
    EventKind.DELETED: job_pb2.JOB_EVENT_KIND_DELETED,
}


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    """The same time as a message."""
    whole, part = divmod(round(seconds * 1e6), 1_000_000)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=part * 1_000)


def duration(seconds: float) -> duration_pb2.Duration:
    """The same length of time as a message."""
    whole, part = divmod(round(seconds * 1e6), 1_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=part * 1_000)


def money(amount: Decimal, currency: str) -> money_pb2.Money:
    """The same amount as a message."""
    units = int(amount)
    return money_pb2.Money(currency_code=currency, units=units, nanos=int((amount - units) * NANOS))


def hourly_price(partition: Partition) -> money_pb2.HourlyPrice:
    """What an hour of a node of a partition with a known price costs."""
    return money_pb2.HourlyPrice(
        amount=money(partition.price_per_hour or Decimal(0), partition.currency),
        as_of=timestamp(partition.create_time),
    )


def state(value: JobState) -> job_pb2.JobState.ValueType:
    """The same state as a message's enum."""
    return _STATES[value]


def states(numbers: Iterable[job_pb2.JobState.ValueType]) -> list[JobState]:
    """The states that a request names.

    Raises:
        KeyError: One is unknown or UNSPECIFIED.
    """
    return [_BY_NUMBER[number] for number in numbers]


def failure(value: failures.Failure) -> types_pb2.Failure:
    """The same failure as a message."""
    return types_pb2.Failure(reason=value.reason, message=value.message, retryable=value.retryable)


def spec(value: JobSpec) -> job_pb2.JobSpec:
    """The same specification as a message."""
    needs = value.resources
    message = job_pb2.JobSpec(
        name=value.name,
        comment=value.comment,
        account=value.account,
        site=value.site,
        partition=value.partition,
        flavor=value.flavor,
        nodes=value.nodes,
        cpus=needs.cpus,
        memory_bytes=needs.mem_bytes,
        gpus=needs.gpus,
        disk_bytes=needs.disk_bytes,
        launch=job_pb2.LAUNCH_EVERY if value.launch is Launch.EVERY else job_pb2.LAUNCH_FIRST,
        priority=value.priority,
        retries=value.retries,
        relocatable=value.relocatable,
        cloud_image=value.cloud_image,
        container_image=value.container_image,
        ports=[
            job_pb2.Port(
                number=port.number,
                direction=(
                    job_pb2.PORT_DIRECTION_IN
                    if port.direction is Direction.IN
                    else job_pb2.PORT_DIRECTION_OUT
                ),
                name=port.name,
            )
            for port in value.ports
        ],
        submission_address=value.submission_address,
        input_files=value.input_files,
        output_files=value.output_files,
        workdir=value.workdir,
        stdin=value.stdin,
        stdout=value.stdout,
        stderr=value.stderr,
        env=value.env,
        site_options=value.site_options,
        storage=value.storage,
        spot=value.spot,
    )
    if value.max_cost is not None:
        message.max_cost.CopyFrom(money(value.max_cost.amount, value.max_cost.currency))
    if value.time_limit_s:
        message.time_limit.CopyFrom(duration(value.time_limit_s))
    return message


def node(
    value: Allocation, local_address: Callable[[int], str] = lambda number: ""
) -> job_pb2.JobNode:
    """A node's share as a message.

    Args:
        value: The share.
        local_address: Where the core listens for a port of the job; empty when it does not.
    """
    return job_pb2.JobNode(
        name=value.node,
        cpus=value.cpus,
        memory_bytes=value.mem_bytes,
        gpu_ids=value.gpu_ids,
        ports=[
            job_pb2.JobNodePort(
                name="" if name.isdigit() else name,
                number=number,
                local_address=local_address(number),
            )
            for name, number in value.ports.items()
        ],
    )


def job(
    value: Job,
    *,
    waiting: str = "",
    local_address: Callable[[int], str] = lambda number: "",
    attempts: Iterable[Attempt] = (),
) -> job_pb2.Job:
    """The same job as a message.

    Args:
        value: The job.
        waiting: What it waits for in the queue; wins over its text.
        local_address: Where the core listens for a port of the job.
        attempts: All of its attempts, where they are to be told.
    """
    message = job_pb2.Job(
        job_id=value.job_id,
        owner=value.owner,
        spec=spec(value.spec),
        state=_STATES[value.state],
        text=waiting or value.text,
        submit_time=timestamp(value.submit_time),
        state_time=timestamp(value.state_time),
        attempt=value.attempt,
        site=value.site,
        partition_id=value.partition_id,
        nodes=[node(each, local_address) for each in value.allocations],
        cancel_requested=value.cancel_requested,
        cancel_forced=value.force,
        outputs_collected=value.state.terminal,
        attempts=[attempt(each) for each in attempts],
    )
    if value.start_time is not None:
        message.start_time.CopyFrom(timestamp(value.start_time))
    if value.end_time is not None:
        message.end_time.CopyFrom(timestamp(value.end_time))
    if value.failure is not None and value.state is JobState.FAILED:
        message.failure.CopyFrom(failure(value.failure))
    if value.end is not None:
        if value.end.exit_code is not None:
            message.exit_code = value.end.exit_code
        message.signal = value.end.signal or 0
    return message


def attempt(value: Attempt) -> job_pb2.Attempt:
    """The same attempt as a message."""
    message = job_pb2.Attempt(
        number=value.attempt,
        site=value.site,
        partition_id=value.partition_id,
        nodes=[node(each) for each in value.allocations],
        place_time=timestamp(value.place_time),
    )
    if value.start_time is not None:
        message.start_time.CopyFrom(timestamp(value.start_time))
    if value.end_time is not None:
        # As its site has it: the core may have heard of it days later.
        end_time = value.end and value.end.end_time
        message.end_time.CopyFrom(timestamp(end_time or value.end_time))
    if value.failure is not None and value.outcome is not Outcome.CANCELLED:
        message.failure.CopyFrom(failure(value.failure))
    if value.end is not None:
        if value.end.exit_code is not None:
            message.exit_code = value.end.exit_code
        message.signal = value.end.signal or 0
        message.cpu_time.CopyFrom(duration(value.end.cpu_time_s))
        message.max_memory_bytes = value.end.max_mem_bytes
        message.image_digest = value.end.image_digest
        message.warnings.extend(value.end.warnings)
    return message


@functools.lru_cache(maxsize=1_000)
def event(value: Event) -> job_pb2.JobEvent:
    """A journal's event as a message, the same for all who watch; not to be changed."""
    message = job_pb2.JobEvent(
        sequence=value.sequence,
        time=timestamp(value.time),
        kind=_KINDS[value.kind],
        job_id=value.job_id,
        attempt=value.attempt,
        reason=value.reason,
        message=value.message,
    )
    if value.from_state is not None:
        message.from_state = _STATES[value.from_state]
    if value.kind is not EventKind.DELETED:
        message.to_state = _STATES[value.to_state]
    return message
