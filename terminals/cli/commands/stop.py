"""`swm down`: the end of a core on this machine, and what goes on without it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import DURATION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skyport.terminal.v1 import catalog_pb2, job_pb2
    from terminals.cli.home import Process
    from terminals.client.connection import Client

_END_S = 60.0
_PARTITIONS_TICK_S = 0.5


@click.command(cls=Command, examples=["swm down", "swm down --cancel --timeout 30m"])
@click.option("--cancel", is_flag=True, help="Cancel all jobs first, and wait for their ends.")
@click.option(
    "--timeout",
    "timeout_s",
    type=DURATION,
    default="10m",
    help="How long --cancel waits.  [default: 10m]",
)
def down(cancel: bool, timeout_s: int) -> None:
    """Stop the core. Jobs run on at their sites, and go on when it is up again.

    Says which do, and what goes on costing money. With --cancel they are ended first; if that
    takes longer than --timeout, the core stays up.
    """
    from terminals.cli.failures import Refused
    from terminals.cli.home import Process, core_home, core_pid
    from terminals.client.connection import Client

    home = core_home()
    pid = core_pid(home)
    if pid is None:
        if (home / "client.toml").exists() and not (home / "swm.toml").exists():
            raise Refused(f"{home} has no core, only the bundle of one elsewhere; stop it there")
        _is_down(cancel)
        return
    try:
        with Process.opened(pid) as process, Client.connect(home) as client:
            if not _is_ours(client, home, pid):
                _is_down(cancel)
                return
            if cancel:
                _cancel_all(client, timeout_s)
            _tell_what_goes_on(client)
            _end(process)
    except ProcessLookupError:
        _is_down(cancel)


def _is_down(cancel: bool) -> None:
    """Say that there is nothing to stop.

    Raises:
        Refused: Jobs are to be cancelled, which without a core nobody can.
    """
    from terminals.cli.failures import Refused

    if cancel:
        raise Refused(
            "the core is not running, so no job was cancelled; run `swm up`, then this again"
        )
    click.echo("the core is not running")


def _is_ours(client: Client, home: Path, pid: int) -> bool:
    """Whether process `pid` is the core that answers; False if no core runs.

    Raises:
        Refused: It can't be told, or a core answers that runs elsewhere.
    """
    from skyport.terminal.v1 import server_pb2
    from terminals.cli.failures import Refused
    from terminals.cli.home import is_in_use
    from terminals.client.errors import CoreUnreachable, NotAllowed

    try:
        request = server_pb2.GetServerInfoRequest()
        info = client.call(client.server.GetServerInfo, request, timeout_s=10)
    except NotAllowed as error:
        raise Refused(f"{error}; the core (process {pid}) can be ended by `kill {pid}`") from None
    except CoreUnreachable as error:
        if not is_in_use(home):
            return False
        raise Refused(
            f"the core (process {pid}) does not answer: {error}; see {home}/log/core.log, "
            f"and end it with `kill {pid}`"
        ) from None
    if info.pid != pid:
        raise Refused(
            f"the core at {client.bundle.endpoint} is process {info.pid}, and {home}/run/core.pid "
            f"says {pid}: it runs in another container or on another machine; stop it there"
        )
    return True


def _active_jobs(client: Client) -> list[job_pb2.Job]:
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.states import ACTIVE

    request = job_pb2.ListJobsRequest(filter=job_pb2.JobFilter(states=ACTIVE))
    return [job for page in client.pages(client.jobs.ListJobs, request) for job in page.jobs]


def _dynamic_partitions(client: Client) -> list[catalog_pb2.Partition]:
    from skyport.terminal.v1 import catalog_pb2

    request = catalog_pb2.ListPartitionsRequest()
    pages = client.pages(client.catalog.ListPartitions, request)
    return [
        partition
        for page in pages
        for partition in page.partitions
        if partition.kind == catalog_pb2.PARTITION_KIND_DYNAMIC
    ]


def _cancel_all(client: Client, timeout_s: float) -> None:
    """Cancel all jobs, and wait until they and what was made for them are gone.

    Raises:
        Refused: It took too long; the core stays up.
    """
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.background import background
    from terminals.cli.failures import Refused
    from terminals.cli.progress import spinner
    from terminals.cli.states import ENDED
    from terminals.cli.words import counted, plain

    deadline = time.monotonic() + timeout_s
    jobs = _active_jobs(client)
    for job in jobs:
        request = job_pb2.CancelJobRequest(job_id=job.job_id)
        client.call(client.jobs.CancelJob, request, timeout_s=60)
    left = {job.job_id for job in jobs}
    with spinner() as waiting, contextlib.suppress(TimeoutError):
        for job in background(client.wait_for(sorted(left)), timeout_s=timeout_s):
            if job.state in ENDED:
                left.discard(job.job_id)
            waiting.say(f"{len(jobs) - len(left)} of {counted(len(jobs), 'job')} have ended")
    if left:
        names = ", ".join(sorted(left)[:5]) + (", ..." if len(left) > 5 else "")
        raise Refused(
            f"{counted(len(left), 'job')} did not end in time ({names}); the core stays up; "
            "try a longer --timeout, or `swm cancel --force JOB` for a site that is lost"
        )
    with spinner() as waiting:
        while partitions := _dynamic_partitions(client):
            if time.monotonic() > deadline:
                first = partitions[0]
                text = f": {plain(first.text)}" if first.text else ""
                raise Refused(
                    f"{counted(len(partitions), 'partition')} did not go in time "
                    f"({plain(first.partition_id)}{text}); the core stays up, since it deletes "
                    f"them; `swm site drain {plain(first.site)}` gives back what only waits for a "
                    "next job; try a longer --timeout, or `swm down` alone: then they go on billing"
                )
            waiting.say(f"{counted(len(partitions), 'partition')} to be deleted")
            time.sleep(_PARTITIONS_TICK_S)  # partitions can't be watched


def _tell_what_goes_on(client: Client) -> None:
    """Name the jobs that run on at their sites, and what goes on costing money."""
    from terminals.cli.states import state_word
    from terminals.cli.words import counted, plain

    jobs = _active_jobs(client)
    placed = [job for job in jobs if job.site and state_word(job.state) != "QUEUED"]
    for job in placed:
        name = f" ({plain(job.spec.name)})" if job.spec.name else ""
        click.echo(f"goes on: job {job.job_id}{name}, {state_word(job.state)} at {plain(job.site)}")
    waiting = len(jobs) - len(placed)
    if waiting:
        click.echo(f"waits for `swm up`: {counted(waiting, 'queued job')}")
    for line in _bills(_dynamic_partitions(client)):
        click.echo(line)


def _bills(partitions: Sequence[catalog_pb2.Partition]) -> list[str]:
    from terminals.cli.words import counted, hourly, plain

    lines = []
    for partition in partitions:
        price = ", price unknown"
        if partition.HasField("price"):
            price = f", {hourly(partition.price)} each"
        nodes = counted(partition.node_count or 1, "node")
        where = f"{plain(partition.partition_id)} at {plain(partition.site)}"
        lines.append(f"goes on billing: {nodes} of partition {where}{price}")
    return lines


def _end(process: Process) -> None:
    """End the core, and wait for that.

    Raises:
        Refused: It did not end in time.
    """
    from terminals.cli.failures import Refused
    from terminals.cli.progress import spinner

    with spinner() as waiting:
        waiting.say("stopping the core")
        process.terminate()
        if not process.wait(_END_S):
            raise Refused(
                f"the core (process {process.pid}) was asked to end, and has not after "
                f"{_END_S:g} s; see its log"
            )
    click.echo(f"stopped the core (process {process.pid})")
