"""Which objects a caller may see. Another's object and no object are the same answer."""

from __future__ import annotations

from rpc_kit.errors import Refusal, invalid, not_found, unavailable
from swm_core.domain.ids import is_id
from swm_core.domain.job import Job
from swm_core.lifecycle.live import LiveJobs
from swm_core.security.identity import current_caller
from swm_core.store import Jobs


class Access:
    """Finds jobs for callers.

    Args:
        live: The jobs that have not ended.
        store: All jobs.
    """

    def __init__(self, live: LiveJobs, store: Jobs) -> None:
        self._live = live
        self._store = store

    def job(self, job_id: str) -> Job:
        """The job as it is now.

        Raises:
            Refusal: FIELD_REQUIRED or FIELD_MALFORMED; JOB_NOT_FOUND, also when it is another's.
        """
        if not job_id:
            raise invalid(
                "job_id is missing; give the id that the submit answered",
                field="job_id",
                reason="FIELD_REQUIRED",
            )
        if not is_id(job_id):
            raise invalid(
                f"{job_id[:60]!r} is not a job id; ids have up to 40 of a-z, 0-9 and '-'",
                field="job_id",
            )
        found = self._live.get(job_id) or self._store.get(job_id)
        if found is None or not current_caller().may_see(found.owner):
            raise no_job(job_id)
        return found


def no_job(job_id: str) -> Refusal:
    """There is no such job, or none that the caller may know of."""
    return not_found(
        "JOB_NOT_FOUND", f"there is no job {job_id}; `swm jobs --all` lists yours", job_id=job_id
    )


def store_unavailable(error: Exception) -> Refusal:
    """Nothing was stored."""
    return unavailable(
        "STORE_UNAVAILABLE",
        f"the core cannot write its store, so nothing was done: {error}; see the core's log",
        retry_after_s=5.0,
    )
