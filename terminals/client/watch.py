"""Jobs as they change, across restarts of the core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from skyport.terminal.v1 import job_pb2
from terminals.client.errors import CallFailed, WatchExpired
from terminals.client.patience import DEFAULT_S, Patience
from terminals.client.stream import SILENCE_S

if TYPE_CHECKING:
    from terminals.client.connection import Client

ENDED = frozenset(
    {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}
)
"""A state that is not known here is not an end."""

_WATCHED_AT_ONCE = 1_000  # by contract


def has_ended(job: job_pb2.Job) -> bool:
    """Whether the job is in a state that only a requeue leaves."""
    return job.state in ENDED


def watch(
    client: Client,
    job_ids: Sequence[str],
    token: str,
    *,
    patience_s: float = DEFAULT_S,
) -> Iterator[job_pb2.JobEvent]:
    """Every event after `token`, without loss or repetition, also when the core restarts.

    Args:
        client: The connection.
        job_ids: Of which jobs; none, or more than 1,000, means of all that the caller may see.
        token: From a list, a submit, or a watch before.
        patience_s: Seconds without an answer of the core after which it gives up.

    Raises:
        WatchExpired: The core does not know the events after `token` any more: list again.
        CallFailed: The core refused, or stayed away.
    """
    named = job_ids if len(job_ids) <= _WATCHED_AT_ONCE else ()
    wanted = frozenset(job_ids)
    request = job_pb2.WatchJobsRequest(job_ids=named, resume_token=token)
    patience = Patience(client, patience_s)
    while True:  # ends by patience, or when the caller has seen enough
        try:
            method = client.jobs.WatchJobs
            with client.stream(method, request, silence_s=SILENCE_S) as answers:
                for answer in answers:
                    patience.answered()
                    for event in answer.events:
                        if not wanted or event.job_id in wanted:
                            yield event
                    request.resume_token = answer.resume_token
        except CallFailed as error:
            patience.pause(error)


def wait_for(
    client: Client, job_ids: Sequence[str], *, patience_s: float = DEFAULT_S
) -> Iterator[job_pb2.Job]:
    """See `Client.wait_for`."""
    left = dict.fromkeys(job_ids)
    while left:  # each turn begins with what the jobs are now
        token = _token(client, patience_s)
        for job_id in list(left):
            job = _get(client, job_id, patience_s)
            if has_ended(job):
                del left[job_id]
            yield job
        if not left:
            return
        try:
            yield from _until_ended(client, left, token, patience_s)
        except WatchExpired:
            continue


def _until_ended(
    client: Client, left: dict[str, None], token: str, patience_s: float
) -> Iterator[job_pb2.Job]:
    """Jobs as they change, removed from `left` as they end; returns when all have."""
    # Left as it is when all have ended: nobody holds it, so its call ends there and then.
    for event in watch(client, list(left), token, patience_s=patience_s):
        if event.job_id not in left:
            continue
        job = _get(client, event.job_id, patience_s)
        if has_ended(job):
            del left[event.job_id]
        yield job
        if not left:
            return


def _token(client: Client, patience_s: float) -> str:
    """A resume token of now."""
    request = job_pb2.ListJobsRequest(page_size=1)
    return client.call(client.jobs.ListJobs, request, patience_s=patience_s).watch_token


def _get(client: Client, job_id: str, patience_s: float) -> job_pb2.Job:
    request = job_pb2.GetJobRequest(job_id=job_id)
    return client.call(client.jobs.GetJob, request, patience_s=patience_s).job
