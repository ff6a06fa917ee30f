"""Many jobs through a real Slurm, from the first submit until the last result is here.

By hand the same is done over one SSH connection that is open: the scripts go to the login node as
one archive, each into a folder of its own; a loop there submits them with sbatch, and asks squeue
until none is left; what they have written comes back as one archive.

All of the cluster shares this machine with the core, the gate and the peer. Where jobs do nothing
it is the processors of this machine that limit everybody, and a ratio is one of the processor time
that a job takes with all its daemons. Where jobs last, the cluster's own size is the limit.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Benchmark, Figure, Good, Limit
from bench.slurm import slurm_serving
from bench.ssh_rate import makespan
from tests.testbed.slurm import Slurm

_JOBS = 200
_SHORT_JOBS = 50
_SLOTS = 16
_LASTING_S = 2
_WITHIN_S = 300.0
_SCRIPT = "#!/bin/sh\n#SWM cpus 1\necho done\n"
_LASTING = f"#!/bin/sh\n#SWM cpus 1\nsleep {_LASTING_S}\necho done\n"

_MAKESPAN = Limit(
    "slurm-makespan",
    Good.AT_MOST,
    1.1,
    f"{_JOBS} jobs of one line, from submit to SUCCEEDED, in what they take by hand",
)
_FULL = Limit(
    "slurm-makespan-full",
    Good.AT_MOST,
    1.1,
    f"{_JOBS} jobs of {_LASTING_S} s on {_SLOTS} processors, in what they take by hand",
)


class _ByHand:
    """Somebody with a shell, and an open connection to the login node."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self._folder = folder
        self._options = [
            *("-F", "none", "-o", f"ControlPath={folder}/control", "-o", "IdentityAgent=none"),
            *("-o", f"UserKnownHostsFile={slurm.bed.known_hosts}", "-o", "IdentitiesOnly=yes"),
            *("-i", str(slurm.bed.key(slurm.user)), f"{slurm.user}@{slurm.login.address}"),
        ]

    def open(self) -> None:
        subprocess.run(["ssh", "-fNM", *self._options], check=True)

    def close(self) -> None:
        subprocess.run(["ssh", "-q", "-O", "exit", *self._options], check=False)

    def seconds(self, script: str, count: int) -> float:
        """What so many jobs take."""
        there, back = self._folder / "there", self._folder / "back"
        for number in range(count):
            (there / f"job{number}").mkdir(parents=True)
            (there / f"job{number}" / "job.sh").write_text(script)
        back.mkdir()
        began = time.monotonic()
        self._pipe(["tar", "-c", "-C", str(there), "."], self._ssh("mkdir jobs; tar -x -C jobs"))
        line = (
            "cd jobs && for job in job*; do sbatch -Q -D $job -o output $job/job.sh || exit; done; "
            'until [ -z "$(/usr/bin/squeue -h -u $USER -o %i)" ]; do sleep 0.2; done'
        )
        subprocess.run(self._ssh(line), check=True, timeout=_WITHIN_S)
        self._pipe(self._ssh("tar -c -C jobs ."), ["tar", "-x", "-C", str(back)])
        took_s = time.monotonic() - began
        written = [file.read_text() for file in back.glob("job*/output")]
        assert written == ["done\n"] * count, f"{len(written)} of {count} outputs"
        subprocess.run(self._ssh("rm -r jobs"), check=True)
        shutil.rmtree(there)
        shutil.rmtree(back)
        return took_s

    def _ssh(self, line: str) -> list[str]:
        return ["ssh", *self._options, line]

    def _pipe(self, source: list[str], sink: list[str]) -> None:
        with subprocess.Popen(source, stdout=subprocess.PIPE) as process:
            subprocess.run(sink, stdin=process.stdout, check=True, timeout=_WITHIN_S)
        assert process.returncode == 0, f"{source[0]} ended with {process.returncode}"


@contextlib.contextmanager
def _by_hand(slurm: Slurm) -> Iterator[_ByHand]:
    with tempfile.TemporaryDirectory(prefix="swm-bench-") as folder:
        hand = _ByHand(slurm, Path(folder))
        hand.open()
        try:
            yield hand
        finally:
            hand.close()


def _beside_hand(limit: Limit, script: str, count: int, rounds: int, cpus: int) -> list[Figure]:
    ours, theirs = [], []
    with slurm_serving(cpus) as (slurm, core, watch, _), _by_hand(slurm) as hand:
        makespan(core, watch, 5)
        hand.seconds(script, 2)
        for _ in range(rounds):
            theirs.append(hand.seconds(script, count))
            ours.append(makespan(core, watch, count, script.encode(), within_s=_WITHIN_S))
    return [limit.figure(statistics.median(ours), statistics.median(theirs), "s")]


def _together(short: bool) -> list[Figure]:
    count, rounds = (_SHORT_JOBS, 1) if short else (_JOBS, 3)
    return _beside_hand(_MAKESPAN, _SCRIPT, count, rounds, 32)


def _full(short: bool) -> list[Figure]:
    # Whole rounds of the cluster: a last one that is half empty would hide what comes late.
    count, rounds = (3 * _SLOTS, 1) if short else (_JOBS - _JOBS % _SLOTS, 2)
    return _beside_hand(_FULL, _LASTING, count, rounds, _SLOTS // 2)


BENCHMARKS = (
    Benchmark((_MAKESPAN,), _together),
    Benchmark((_FULL,), _full),
)
