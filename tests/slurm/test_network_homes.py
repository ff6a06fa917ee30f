"""A cluster whose homes come from a server by a network file system that tells nobody of changes.

It is believed for a second what a file is, and for three that a name is missing, whatever another
machine has written meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.harness import SITE, SlurmSite, site_config
from tests.system.harness.core import Core, running_sites
from tests.system.harness.files import File
from tests.system.harness.jobs import CANCELLED, FAILED, RUNNING, SUCCEEDED
from tests.testbed.fixtures import need_root
from tests.testbed.slurm import Slurm

LONG_S = 90.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    need_root()
    with Slurm(network_homes=True) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def core(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("core")
    with running_sites(folder, [SlurmSite.make(SITE, folder / SITE, site_config(cluster))]) as core:
        yield core


def test_all_that_a_job_writes_is_there_when_it_has_ended(core: Core) -> None:
    # What is asked for while it runs is what is remembered of files afterwards.
    script = (
        "#SWM input-files in.txt\n#SWM output out\n#SWM output in.txt\n"
        "mkdir out; for n in $(seq 40); do echo line $n; echo $n >>in.txt; sleep 0.1; done\n"
        "echo $(cat in.txt) >out/all; echo last; echo over >&2"
    )
    job = core.user().submit(script, inputs={"in.txt": b"0\n"}, site=SITE)
    job.written(b"line 3\n", within_s=LONG_S)
    assert job.get().state == RUNNING
    job.until(SUCCEEDED, within_s=LONG_S)
    assert job.output() == b"".join(b"line %d\n" % n for n in range(1, 41)) + b"last\n"
    found = job.outputs()
    numbers = [str(n).encode() for n in range(41)]
    assert isinstance(found["in.txt"], File)
    assert found["in.txt"].data == b"\n".join(numbers) + b"\n"
    assert isinstance(found["out/all"], File)
    assert found["out/all"].data == b" ".join(numbers) + b"\n"


def test_no_line_is_lost_that_a_job_writes_just_before_its_end(core: Core) -> None:
    # How big a file is was asked for some time before.
    script = "echo first; sleep {}; echo last; exit 3"
    jobs = [core.user().submit(script.format(2 + n / 4), site=SITE) for n in range(8)]
    for job in jobs:
        ended = job.until(FAILED, within_s=LONG_S)
        assert (ended.failure.reason, ended.exit_code) == ("EXIT_CODE", 3)
        assert job.output() == b"first\nlast\n"


def test_a_job_is_seen_to_begin_and_to_end(core: Core) -> None:
    job = core.user().submit("echo up; sleep 3600", site=SITE)
    job.until(RUNNING, within_s=LONG_S)
    assert job.written(b"up\n", within_s=LONG_S) == b"up\n"
    core.kill_gate(SITE)
    job.cancel()
    ended = job.until(CANCELLED, within_s=LONG_S)
    assert ended.attempt == 1
