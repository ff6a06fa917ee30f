"""Jobs as lists tell them, made once for as long as they do not change."""

from __future__ import annotations

import collections

from skyport.terminal.v1 import job_pb2
from swm_core.domain.job import Job
from swm_core.terminal import convert

_MOST = 2_000


class ListedJobs:
    """Messages of jobs, kept for the next list: to make one takes longer than all the rest."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[str, tuple[Job, job_pb2.Job]] = (
            collections.OrderedDict()
        )

    def message(self, job: Job, *, waiting: str) -> job_pb2.Job:
        """The job as a message, without where the core listens for its ports.

        Args:
            job: The job, as the store has it.
            waiting: What it waits for in the queue; wins over its text.

        Returns:
            Not to be changed.
        """
        kept = self._kept.get(job.job_id)
        if kept is None or kept[0] is not job:
            kept = self._kept[job.job_id] = job, convert.job(job)
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        self._kept.move_to_end(job.job_id)
        if not waiting:
            return kept[1]
        message = job_pb2.Job()
        message.CopyFrom(kept[1])
        message.text = waiting
        return message
