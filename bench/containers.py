"""How long a script in a container takes to begin.

One at a time on a quiet host that has the image, a job through core, gate and sshd, and in turn the
peer: `docker run` of the same image by an open SSH connection, with the same mounts and network.
Each begins with writing to a pipe in a folder that both mount; that is waited for here. Needs root,
and Debian's Docker (a test bed of its own).
"""

from __future__ import annotations

import os
import secrets
import statistics
import threading
import time
from pathlib import Path

from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import DEADLINE_S
from bench.ssh_site import Peer, SshSite, peer_of, ssh_serving
from skyport.terminal.v1 import job_pb2
from tests.testbed import images
from tests.testbed.docker import Engine

_START = Limit(
    "container-start-time",
    Good.AT_MOST,
    1.3,
    "from submit until a script in a container runs, p50, in `docker run` over an SSH connection",
)
_REST_S = 0.5


class _Pipe:
    """Tells when somebody has written to a pipe."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / secrets.token_hex(8)
        os.mkfifo(self.path)
        self.path.chmod(0o666)
        self._at = 0.0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self.path.open("rb") as pipe:
            pipe.read()
        self._at = time.monotonic()

    def at(self) -> float:
        """When it was."""
        self._thread.join(DEADLINE_S)
        if not self._at:
            raise TimeoutError("no script has begun")
        return self._at


def _job(site: SshSite, image: str, folder: Path) -> float:
    pipe = _Pipe(folder)
    script = (
        f"#SWM container-image {image}\n#SWM storage marks\n"
        f"echo begun >$SWM_STORAGE_MARKS/{pipe.path.name}\n"
    )
    request = job_pb2.SubmitJobRequest(script=script.encode(), request_id=pipe.path.name)
    began = time.monotonic()
    site.core.client.jobs.SubmitJob(request, timeout=DEADLINE_S)
    return pipe.at() - began


def _run(peer: Peer, engine: Engine, image: str, folder: Path) -> float:
    pipe = _Pipe(folder)
    command = (
        f"docker -H {engine.host} run --rm --network host --log-driver none"
        f" --volume {folder}:{folder} {image} sh -c 'echo begun >{pipe.path}'"
    )
    began = time.monotonic()
    peer.execs(1, command)
    return pipe.at() - began


def _times(short: bool) -> list[Figure]:
    rounds = 5 if short else 25
    jobs: list[float] = []
    runs: list[float] = []
    with Engine() as engine:
        image = images.busybox(engine)
        folder = engine.folder / "marks"
        folder.mkdir()
        folder.chmod(0o777)
        settings = {
            "containers": {"socket": engine.host, "runtime": "docker"},
            "volumes": {"marks": f"{folder}:rw"},
        }
        with ssh_serving(**settings) as site, peer_of(site) as peer:
            for number in range(rounds + 2):
                for times, value in (
                    (jobs, _job(site, image, folder)),
                    (runs, _run(peer, engine, image, folder)),
                ):
                    time.sleep(_REST_S)
                    if number >= 2:
                        times.append(value)
    return [
        _START.figure(statistics.median(jobs) * 1e3, statistics.median(runs) * 1e3, "ms"),
    ]


BENCHMARKS = (Benchmark((_START,), _times),)
