"""So many jobs by PSI/J and Slurm, one after the other, until it has seen all of them end.

    python3 psij_jobs.py COUNT          prints the seconds that took

Runs on a login node, with no more than PSI/J beside it.
"""

import sys
import time

from psij import Job, JobExecutor, JobSpec

executor = JobExecutor.get_instance("slurm")
began = time.monotonic()
jobs = [Job(JobSpec(executable="/bin/echo", arguments=["done"])) for _ in range(int(sys.argv[1]))]
for job in jobs:
    executor.submit(job)
for job in jobs:
    status = job.wait()
    if status is None or status.exit_code not in {0, None}:
        sys.exit(f"a job ended with {status}")
print(time.monotonic() - began)
