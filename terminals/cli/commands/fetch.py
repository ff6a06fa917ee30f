"""`swm fetch`: outputs and logs into a folder."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, job_argument, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client
    from terminals.client.download import Fetched
    from terminals.client.progress import Report


@click.command(
    cls=Command,
    examples=[
        "swm fetch k3x9",
        "swm fetch k3x9 'results/*.csv' -d /tmp/k3x9",
        "swm fetch k3x9 progress.log  # of a job that runs, whether it is an output or not",
    ],
)
@job_argument
@click.argument("patterns", metavar="[PATTERN...]", nargs=-1)
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to; it is made if missing.  [default: here]",
)
@json_option
def fetch(job_text: str, patterns: tuple[str, ...], directory: Path, as_json: bool) -> None:
    """Download the outputs of a job, and what it wrote.

    Without PATTERNs: all outputs, and standard output and standard error under the names of the
    script (default stdout.log and stderr.log). A PATTERN is a name, a folder, or a glob in quotes.
    Of a job that runs, the files come as they are now, and a PATTERN may name any file it has.
    Files that are there already are not sent again, one that was cut is continued, and one with
    other content is replaced. With --json, prints the outputs that were fetched, not the two
    streams.
    """
    from terminals.cli.progress import transfer
    from terminals.cli.tables import note, show_json

    with connected() as client:
        job = client.find_job(job_text)
        logs = [log for log in _logs(job) if not patterns or any(map(log.is_meant_by, patterns))]
        with transfer() as report:
            fetched = _fetch(client, job, directory, patterns, report)
        saved = _save(client, job, directory, logs, fetched)
    missed = [
        f"nothing matches {pattern}"
        for pattern in (fetched.listing.unmatched if fetched else ())
        if not any(log.is_meant_by(pattern) for log in logs)
    ]
    if fetched:
        _tell_what_lacks(fetched, job)
    for line in missed:
        note(line)
    if as_json and fetched:
        there = set(fetched.names)
        show_json(file for file in fetched.listing.files if file.entry.path in there)
    elif not as_json:
        _summarise(fetched, saved, directory)
    # A pattern of the script that matches nothing has been told of; one given here was a request.
    sys.exit(1 if fetched is None or fetched.failed or (missed and patterns) else 0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Log:
    """A stream of a job, and the name under which it is saved."""

    name: str
    stderr: bool
    node: str = ""

    def is_meant_by(self, pattern: str) -> bool:
        """Whether a pattern would choose it if it were an output."""
        folder = pattern.rstrip("/") + "/"
        return fnmatch.fnmatchcase(self.name, pattern) or self.name.startswith(folder)


def _logs(job: job_pb2.Job) -> Iterator[_Log]:
    """What is saved beside the outputs: the first node's streams, and others' where they write."""
    from skyport.terminal.v1 import job_pb2

    if not job.attempt:
        return
    names = ((job.spec.stdout or "stdout.log", False), (job.spec.stderr or "stderr.log", True))
    for name, stderr in names:
        yield _Log(name, stderr)
        if job.spec.launch == job_pb2.LAUNCH_EVERY:
            for node in job.nodes[1:]:
                yield _Log(f"{name}.{node.name}", stderr, node.name)


def _fetch(
    client: Client, job: job_pb2.Job, directory: Path, patterns: tuple[str, ...], report: Report
) -> Fetched | None:
    """The outputs; None, with a note, if there are none to be had yet."""
    from terminals.cli.tables import note
    from terminals.client.errors import CallFailed

    try:
        return client.fetch(job.job_id, directory, patterns, report=report)
    except CallFailed as error:
        if error.reason != "OUTPUTS_NOT_READY":
            raise
        note(str(error))
        return None


def _save(
    client: Client, job: job_pb2.Job, directory: Path, logs: list[_Log], fetched: Fetched | None
) -> list[str]:
    """Save streams as files; returns their names."""
    from terminals.cli.following import note_gap
    from terminals.cli.tables import note
    from terminals.client.folder import OutputFolder
    from terminals.client.output import Gap
    from terminals.client.saved_output import save_output

    taken = set(fetched.names) if fetched else set()
    saved = []
    with OutputFolder(directory) as into:
        for log in logs:
            if log.name in taken:
                note(f"{log.name} is an output of the job; see what it wrote by `swm logs`")
                continue
            lacking = save_output(
                client, into, log.name, job.job_id, stderr=log.stderr, node=log.node
            )
            if lacking:
                note_gap(Gap(lacking), log.name)
            saved.append(log.name)
    return saved


def _tell_what_lacks(fetched: Fetched, job: job_pb2.Job) -> None:
    from terminals.cli.tables import note
    from terminals.cli.words import plain

    for skipped in fetched.listing.skipped:
        note(f"{plain(skipped.path)} could not be taken from the site: {plain(skipped.reason)}")
    for line in fetched.failed:
        note(plain(line))
    if not fetched.listing.collected:
        note(f"job {job.job_id} has not ended: these are its files as they are now")


def _summarise(fetched: Fetched | None, saved: list[str], directory: Path) -> None:
    from rpc_kit.units import format_size
    from terminals.cli.words import counted

    names = fetched.names if fetched else ()
    received = format_size(fetched.received_bytes if fetched else 0)
    logs = f", and {' '.join(saved)}" if saved else ""
    click.echo(f"{directory}: {counted(len(names), 'output')} ({received} received){logs}")
