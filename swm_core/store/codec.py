"""Values of the domain as JSON text and back.

What has its default is left out, except of a job's specification, whose defaults may change some
day. Reading tolerates what a later version adds: a field that the text lacks takes its default, one
that the class lacks is ignored. So a field that is added to a stored class must have a default, and
none may change its meaning.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any, TypeVar

from pydantic import TypeAdapter

from swm_core.domain.failures import Failure
from swm_core.domain.job import Allocation, End, Job, JobSpec
from swm_core.domain.orphans import Orphan
from swm_core.domain.partition import Partition
from swm_core.store.errors import StoreUnusable

T = TypeVar("T")

_JOB = TypeAdapter(Job)
_SPEC = TypeAdapter(JobSpec)
_PARTITION = TypeAdapter(Partition)
_FAILURE = TypeAdapter(Failure)
_ORPHAN = TypeAdapter(Orphan)
_END = TypeAdapter(End)
_ALLOCATIONS = TypeAdapter(tuple[Allocation, ...])

_FIELDS = [field.name for field in dataclasses.fields(Job)]
assert _FIELDS[-1] == "last_sequence"  # noqa: S101 - with_sequence counts on it
_all_but_sequence = operator.attrgetter(*_FIELDS[:-1])

# The specification has a column of its own because it never changes; the sequence is known only
# when the row is written.
_NOT_IN_RECORD = {"spec", "last_sequence"}


def with_sequence(job: Job, last_sequence: int) -> Job:
    """The job as of another event; faster than dataclasses.replace, and part of every write."""
    values: tuple[Any, ...] = (*_all_but_sequence(job), last_sequence)
    return Job(*values)


def encode_spec(spec: JobSpec) -> str:
    """A specification as JSON."""
    return _SPEC.dump_json(spec).decode()


def encode_job(job: Job) -> str:
    """A job as JSON, without its specification and its last sequence."""
    return _JOB.dump_json(job, exclude=_NOT_IN_RECORD, exclude_defaults=True).decode()


@functools.lru_cache(maxsize=2_000)
def decode_job(spec: str, record: str, last_sequence: int) -> Job:
    """A job from what `encode_spec` and `encode_job` made; the same object for the same texts.

    Lists are asked for again and again, and what they tell has mostly not changed.
    """
    whole = f'{{"spec":{spec},"last_sequence":{last_sequence},{record[1:]}'
    return _decode(_JOB, whole)


def encode_partition(partition: Partition) -> str:
    """A partition as JSON."""
    return _PARTITION.dump_json(partition).decode()


def decode_partition(record: str) -> Partition:
    """A partition from what `encode_partition` made."""
    return _decode(_PARTITION, record)


def encode_orphan(orphan: Orphan) -> str:
    """An orphan as JSON."""
    return _ORPHAN.dump_json(orphan).decode()


def decode_orphan(record: str) -> Orphan:
    """An orphan from what `encode_orphan` made."""
    return _decode(_ORPHAN, record)


def encode_failure(failure: Failure | None) -> str:
    """A failure as JSON; empty for none."""
    return "" if failure is None else _FAILURE.dump_json(failure).decode()


def decode_failure(text: str) -> Failure | None:
    """A failure from what `encode_failure` made."""
    return _decode(_FAILURE, text) if text else None


def encode_end(end: End | None) -> str:
    """An end as JSON; empty for none."""
    return "" if end is None else _END.dump_json(end).decode()


def decode_end(text: str) -> End | None:
    """An end from what `encode_end` made."""
    return _decode(_END, text) if text else None


def encode_allocations(allocations: tuple[Allocation, ...]) -> str:
    """Allocations as a JSON array."""
    return _ALLOCATIONS.dump_json(allocations).decode()


def decode_allocations(text: str) -> tuple[Allocation, ...]:
    """Allocations from what `encode_allocations` made."""
    return _decode(_ALLOCATIONS, text)


def _decode(adapter: TypeAdapter[T], text: str) -> T:
    try:
        return adapter.validate_json(text)
    except ValueError as error:
        raise StoreUnusable(f"a stored value cannot be read: {error}") from error
