"""Inputs on their way from the core's spool into the work folder of a job on a host.

    core -> host    from when the terminal sees STAGING_IN, all of it being in the spool, until it
                    sees RUNNING: nothing comes before that but the inputs, verified and on the disk
    all the way     the time of the upload into the spool and of the submit as well

Peers are what people use: `sftp` for one large file, `tar | ssh tar` for many small ones, both of
which open a connection first and leave the writing to the kernel; `cp -r` on the host for what is
there already. Contents are new in each round, and what anybody left to be written is written before
the next one begins.
"""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Benchmark, Figure, Good, Limit
from bench.job_times import Watch, watching
from bench.ssh_site import SshSite, ssh_serving
from bench.submits import timed
from bench.uploads import (
    FILE_BYTES,
    FILES,
    SHORT_FILES,
    make_small,
    manifest_of,
    sync,
    write_random,
)
from skyport.terminal.v1 import job_pb2
from terminals.client.manifest import Manifest
from terminals.client.upload import upload

_LARGE_BYTES = 1 << 30
_SHORT_LARGE_BYTES = 256 << 20
_WITHIN_S = 300.0
_SCRIPT = b"#!/bin/sh\n#SWM cpus 1\n#SWM input-files input\nexec true\n"

_LARGE = Limit(
    "ssh-put-large",
    Good.AT_LEAST,
    0.25,
    "1 GiB from the core to a host, verified and in the work folder, in MB/s of `sftp`",
)
_LARGE_AGAIN = Limit(
    "ssh-again-large",
    Good.AT_MOST,
    2.5,
    "the same 1 GiB for another attempt, in `cp -r` on the host",
)
_LARGE_WAY = Limit(
    "ssh-way-large",
    Good.AT_LEAST,
    0.1,
    "1 GiB from the terminal by the core to a host, in MB/s of `sftp`",
)
_SMALL = Limit(
    "ssh-put-small",
    Good.AT_MOST,
    3,
    f"{FILES:,} files of 4 KiB from the core to a host, verified and in the work folder, in "
    "`tar | ssh tar`",
)
_SMALL_AGAIN = Limit(
    "ssh-again-small",
    Good.AT_MOST,
    2.5,
    "the same small files for another attempt, in `cp -r` on the host",
)
_SMALL_WAY = Limit(
    "ssh-way-small",
    Good.AT_MOST,
    8,
    "the small files from the terminal by the core to a host, in `tar | ssh tar`",
)
_BYTES = Limit(
    "ssh-again-bytes",
    Good.AT_MOST,
    0.01,
    "what goes to the host for another attempt with the same small files, in bytes of content",
)


@dataclasses.dataclass(slots=True)
class _Taken:
    """Seconds that each round took."""

    peer: list[float] = dataclasses.field(default_factory=list)
    put: list[float] = dataclasses.field(default_factory=list)
    way: list[float] = dataclasses.field(default_factory=list)
    copy: list[float] = dataclasses.field(default_factory=list)
    again: list[float] = dataclasses.field(default_factory=list)
    sent_again: list[int] = dataclasses.field(default_factory=list)
    """Bytes."""


def _large(short: bool) -> list[Figure]:
    size, rounds = (_SHORT_LARGE_BYTES, 2) if short else (_LARGE_BYTES, 3)
    taken = _Taken()
    with ssh_serving() as site, watching(site.core) as watch:
        _warm_up(site, watch)
        for _ in range(rounds):
            path = site.core.folder / "input"
            write_random(path, size)
            _round(site, watch, path, _sftp, taken)
            path.unlink()
    unit = size / 1e6
    peer, put, way = (unit / statistics.median(each) for each in (taken.peer, taken.put, taken.way))
    return [
        _LARGE.figure(put, peer, "MB/s"),
        _LARGE_WAY.figure(way, peer, "MB/s"),
        _LARGE_AGAIN.figure(statistics.median(taken.again), statistics.median(taken.copy), "s"),
    ]


def _small(short: bool) -> list[Figure]:
    count, rounds = (SHORT_FILES, 3) if short else (FILES, 5)
    taken = _Taken()
    with ssh_serving() as site, watching(site.core) as watch:
        _warm_up(site, watch)
        for _ in range(rounds):
            folder = site.core.folder / "input"
            make_small(folder, count)
            _round(site, watch, folder, _tar, taken)
            shutil.rmtree(folder)
    peer = statistics.median(taken.peer)
    return [
        _SMALL.figure(statistics.median(taken.put), peer, "s"),
        _SMALL_WAY.figure(statistics.median(taken.way), peer, "s"),
        _SMALL_AGAIN.figure(statistics.median(taken.again), statistics.median(taken.copy), "s"),
        _BYTES.figure(statistics.median(taken.sent_again) / 1e3, count * FILE_BYTES / 1e3, "kB"),
    ]


def _round(
    site: SshSite,
    watch: Watch,
    path: Path,
    send: Callable[[SshSite, Path, Path], None],
    taken: _Taken,
) -> None:
    """One content by all ways, new to each of them."""
    sent, copied = site.home / "sent", site.home / "copied"
    manifest = manifest_of(path)  # what a terminal does before all ways
    sync(path)
    peer_s = timed(send, site, path, sent)
    sync(path)
    upload_s = timed(upload, site.core.client, manifest)
    run_s, put_s = _run(site, watch, manifest)
    sync(path)
    copy_s = timed(_copy, sent, copied)
    sync(path)
    before = site.received_bytes()
    _, again_s = _run(site, watch, manifest)
    taken.sent_again.append(site.received_bytes() - before)
    taken.peer.append(peer_s)
    taken.put.append(put_s)
    taken.way.append(upload_s + run_s)
    taken.copy.append(copy_s)
    taken.again.append(again_s)
    for each in (sent, copied):
        subprocess.run(["rm", "-rf", each], check=True)


def _run(site: SshSite, watch: Watch, manifest: Manifest) -> tuple[float, float]:
    """Seconds until a job with inputs runs: from the submit, and from STAGING_IN.

    It returns when the job has ended.
    """
    request = job_pb2.SubmitJobRequest(
        script=_SCRIPT, manifest_sha256=manifest.sha256, request_id=secrets.token_hex(16)
    )
    submitted = time.time()
    job_id = site.core.client.jobs.SubmitJob(request, timeout=_WITHIN_S).job.job_id
    succeeded = watch.wait_for(job_id, job_pb2.JOB_STATE_SUCCEEDED, _WITHIN_S)
    # One that is over so soon may never have been seen to run.
    running = watch.seen(job_id, job_pb2.JOB_STATE_RUNNING) or succeeded
    staging = watch.wait_for(job_id, job_pb2.JOB_STATE_STAGING_IN)
    return running - submitted, running - staging


def _warm_up(site: SshSite, watch: Watch) -> None:
    """All that comes once: the place, its cache."""
    path = site.core.folder / "input"
    path.write_text("a line\n")
    manifest = manifest_of(path)
    upload(site.core.client, manifest)
    _run(site, watch, manifest)
    path.unlink()


def _sftp(site: SshSite, path: Path, target: Path) -> None:
    commands = f"put {shlex.quote(str(path))} {shlex.quote(str(target))}\n"
    subprocess.run(site.sftp(), input=commands, check=True, text=True, stdout=subprocess.DEVNULL)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def _tar(site: SshSite, folder: Path, target: Path) -> None:
    into = shlex.quote(str(target))
    with subprocess.Popen(["tar", "-c", "-C", folder, "."], stdout=subprocess.PIPE) as packing:
        there = f"mkdir {into} && tar -x -C {into}"
        subprocess.run([*site.ssh(), there], stdin=packing.stdout, check=True)
    assert packing.returncode == 0


BENCHMARKS = (
    Benchmark((_LARGE, _LARGE_WAY, _LARGE_AGAIN), _large),
    Benchmark((_SMALL, _SMALL_WAY, _SMALL_AGAIN, _BYTES), _small),
)
