"""What happened to a job, as the core's journal has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client

_MOST = 40
"""The latest events that are shown."""
_WAIT_S = 10.0


def history(client: Client, job_id: str, watch_token: str) -> list[job_pb2.JobEvent]:
    """The latest of its transitions, and of the remarks that have a reason; oldest first."""
    import contextlib

    import grpc

    from skyport.terminal.v1 import job_pb2

    if not watch_token:
        return []  # a core of before
    request = job_pb2.WatchJobsRequest(job_ids=[job_id], resume_token=watch_token)
    found: list[job_pb2.JobEvent] = []
    call = client.jobs.WatchJobs(request, timeout=_WAIT_S)
    # The journal may have been compacted: then this is what is left of it.
    with contextlib.suppress(grpc.RpcError):
        for answer in call:
            found += [
                event
                for event in answer.events
                if event.kind == job_pb2.JOB_EVENT_KIND_STATE or event.reason
            ]
            if answer.caught_up:
                break
    call.cancel()
    return found[-_MOST:]
