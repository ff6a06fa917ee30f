"""From what a person types to one job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from skyport.terminal.v1 import job_pb2
from terminals.client.errors import JobAmbiguous, JobNotFound

if TYPE_CHECKING:
    from terminals.client.connection import Client

_ID = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
_SHOWN = 5


def find_job(client: Client, text: str) -> job_pb2.Job:
    """The one job whose id is `text`, or begins so.

    Raises:
        JobNotFound: There is none.
        JobAmbiguous: There are several.
    """
    if not _ID.fullmatch(text):
        raise JobNotFound(f'"{text}" is not a job id; `swm jobs` lists them')
    chosen = job_pb2.JobFilter(job_id_prefix=text)
    request = job_pb2.ListJobsRequest(filter=chosen, page_size=_SHOWN + 1)
    found = client.call(client.jobs.ListJobs, request).jobs
    if not found:
        raise JobNotFound(f'there is no job "{text}" of yours; `swm jobs --all` lists them')
    exact = [job for job in found if job.job_id == text]
    if len(found) > 1 and not exact:
        ids = ", ".join(job.job_id for job in found[:_SHOWN])
        more = ", ..." if len(found) > _SHOWN else ""
        raise JobAmbiguous(f'several job ids begin with "{text}": {ids}{more}; type more of it')
    return exact[0] if exact else found[0]
