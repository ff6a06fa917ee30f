"""Jobs on machines of the stand-in for Azure, whose boot is a timer before a real sshd.

The stand-in tells of each machine when it was asked for and when its sshd answered; what is beside
that is ours, its answers to all other calls included. It shares this machine with core and gate,
and its namespaces and daemons take processor time of both. Needs root.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.core import Core, Site, serving
from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import Watch, watching
from bench.processes import wait_until
from skyport.terminal.v1 import job_pb2
from tests.azure_gate.site import site_file
from tests.testbed.azure_arm.client import AzureArm

_BEYOND_S = 3.0
_START = Limit(
    "azure-start",
    Good.AT_MOST,
    1,
    "from submit until the terminal sees RUNNING, p50, in what the stand-in takes to boot the "
    f"machine and {_BEYOND_S:g} s",
)
_SCALE = Limit(
    "azure-scale",
    Good.AT_MOST,
    2,
    "20 partitions of 2 nodes that take 5 s to boot: from the first submit until the terminal sees "
    "the last RUNNING, in what one takes",
)
_BOOT_S = 5.0
_MANY = 20
_WITHIN_S = 180.0
_SCRIPT = "#!/bin/sh\n#SWM site azure\n#SWM nodes {nodes}\n#SWM time 10m\nexec sleep 600\n"


@contextlib.contextmanager
def azure_serving() -> Iterator[tuple[AzureArm, Core, Watch]]:
    """A stand-in, a core with it as its site, and who watches."""
    with (
        tempfile.TemporaryDirectory(prefix="swm-bench-azure-") as folder,
        AzureArm(Path(folder) / "azure", boot_s=_BOOT_S) as arm,
    ):
        config = site_file(arm, Path(folder)).read_text()
        with serving(Site("azure", "gates.azure_gate", config)) as core, watching(core) as watch:
            yield arm, core, watch


def _submit(core: Core, nodes: int) -> str:
    script = _SCRIPT.format(nodes=nodes).encode()
    request = job_pb2.SubmitJobRequest(script=script, request_id=f"b{time.time()}")
    job_id: str = core.client.jobs.SubmitJob(request, timeout=30).job.job_id
    return job_id


def _until_running(
    arm: AzureArm, core: Core, watch: Watch, jobs: int, nodes: int
) -> tuple[float, float]:
    """Seconds from the first submit until all jobs run, and those that machines took of it."""
    before = len(arm.boots())
    began = time.time()
    ids = [_submit(core, nodes) for _ in range(jobs)]
    running = max(watch.wait_for(one, job_pb2.JOB_STATE_RUNNING, _WITHIN_S) for one in ids)
    boots = arm.boots()[before:]
    assert len(boots) == jobs * nodes, f"{len(boots)} machines for {jobs} jobs on {nodes} each"
    for one in ids:
        core.client.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=one), timeout=30)
    for one in ids:
        watch.wait_for(one, job_pb2.JOB_STATE_CANCELLED, _WITHIN_S)
    wait_until(lambda: not arm.books().resources or None, "all to be deleted", _WITHIN_S)
    machines_s = max(boot.up for boot in boots) - min(boot.began for boot in boots)
    return running - began, machines_s


def _start(short: bool) -> list[Figure]:
    ours, theirs = [], []
    with azure_serving() as (arm, core, watch):
        for _ in range(4 if short else 15):
            total_s, machine_s = _until_running(arm, core, watch, 1, 1)
            ours.append(total_s)
            theirs.append(machine_s)
    return [_START.figure(statistics.median(ours), statistics.median(theirs) + _BEYOND_S, "s")]


def _scale(short: bool) -> list[Figure]:
    ones, many = [], []
    with azure_serving() as (arm, core, watch):
        # The first one waits for Azure's clients to be imported.
        _until_running(arm, core, watch, 1, 1)
        for _ in range(1 if short else 3):
            ones.append(_until_running(arm, core, watch, 1, 2)[0])
            many.append(_until_running(arm, core, watch, _MANY, 2)[0])
    return [_SCALE.figure(statistics.median(many), statistics.median(ones), "s")]


BENCHMARKS = (Benchmark((_START,), _start), Benchmark((_SCALE,), _scale))
