"""How long after their end PSI/J tells that jobs of Slurm have ended, one job after the other.

    python3 psij_ends.py COUNT          prints the seconds of each, a line each

Runs on a login node, with no more than PSI/J beside it. A job writes when it has ended.
"""

import sys
import time
from pathlib import Path

from psij import Job, JobExecutor, JobSpec

executor = JobExecutor.get_instance("slurm")
ended = Path.home() / "ended-by-psij"
for _ in range(int(sys.argv[1])):
    script = f"sleep 0.3; date +%s.%N > {ended}"
    job = Job(JobSpec(executable="/bin/sh", arguments=["-c", script]))
    executor.submit(job)
    status = job.wait()
    seen = time.time()
    if status is None or status.exit_code not in {0, None}:
        sys.exit(f"a job ended with {status}")
    print(seen - float(ended.read_text()))
    ended.unlink()
