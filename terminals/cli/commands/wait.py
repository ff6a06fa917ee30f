"""`swm wait`: until jobs have ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, jobs_argument, json_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client


@click.command(cls=Command, examples=["swm wait k3x9 && swm fetch k3x9", "swm wait $(cat ids)"])
@jobs_argument
@json_option
def wait(job_texts: tuple[str, ...], as_json: bool) -> None:
    """Wait until jobs have ended.

    The exit code tells how: 0 if all succeeded; otherwise that of the first that did not, in the
    order given: its script's exit code, 128 + n for signal n, 1 for anything else. With --json,
    prints each job as it ended.
    """
    from terminals.cli.main import INTERRUPTED
    from terminals.cli.outcome import joint_exit_code
    from terminals.cli.tables import note, show_json

    with connected() as client:
        # A job may be named twice.
        job_ids = list(dict.fromkeys(client.find_job(text).job_id for text in job_texts))
        try:
            ended = until_ended(client, job_ids)
        except KeyboardInterrupt:
            click.echo(err=True)  # after the ^C
            note(f"what has not ended runs on; cancel it with `swm cancel {' '.join(job_ids)}`")
            sys.exit(INTERRUPTED)
    explain(ended)
    if as_json:
        show_json(ended)
    sys.exit(joint_exit_code(ended))


def until_ended(client: Client, job_ids: Sequence[str]) -> list[job_pb2.Job]:
    """The jobs as they ended, in the order of `job_ids`."""
    from terminals.cli.background import background
    from terminals.cli.progress import spinner
    from terminals.cli.states import ENDED, state_word
    from terminals.cli.words import plain

    last: dict[str, job_pb2.Job] = {}
    with spinner() as waiting:
        for job in background(client.wait_for(job_ids)):
            last[job.job_id] = job
            if len(job_ids) == 1:
                waiting.say(f"{job.job_id}  {state_word(job.state)}  {plain(job.text)}")
            else:
                ended = sum(each.state in ENDED for each in last.values())
                waiting.say(f"{ended} of {len(job_ids)} jobs have ended")
    return [last[job_id] for job_id in job_ids]


def explain(jobs: Iterable[job_pb2.Job]) -> None:
    """Say why those did not succeed that did not."""
    from terminals.cli.outcome import explanation
    from terminals.cli.tables import note

    for job in jobs:
        if text := explanation(job):
            note(text)
